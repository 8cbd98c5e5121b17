"""BLEU-1 to BLEU-4 under the three protocols, as evaluate computes them.

    python benchmarks/bleu.py [--full]

Random captions with a caption's lengths and a vocabulary as skewed as language; five references a photo. Beside it,
nltk called once for each protocol and order, as the tutorial does. Prints one table.
"""

import argparse

import numpy as np
from machine import median_s, print_table
from nltk.translate.bleu_score import corpus_bleu
from workload import words

from raycap.metrics import PROTOCOLS, score_all


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="1,000 photos instead of 100")
    count = 1_000 if parser.parse_args().full else 100
    rng = np.random.default_rng(0)
    vocabulary = np.array(list(words()))

    def caption() -> str:
        ranks = rng.zipf(1.3, max(3, round(rng.normal(10, 3)))) % len(vocabulary)
        return " ".join(vocabulary[ranks])

    hypotheses = [caption() for _ in range(count)]
    references = [[caption() for _ in range(5)] for _ in range(count)]

    def one_order_at_a_time() -> None:
        for protocol in PROTOCOLS.values():
            wanted = [[protocol.prepare(each) for each in some] for some in references]
            said = [protocol.prepare(each) for each in hypotheses]
            for weights in protocol.weights:
                corpus_bleu(wanted, said, weights=weights)

    rows = [
        ("nltk, a call for each order", median_s(one_order_at_a_time, 3)),
        ("raycap", median_s(lambda: score_all(hypotheses, references), 3)),
    ]
    print_table(f"three protocols, {count:,} photos with 5 references", ("what", "seconds"), rows)


if __name__ == "__main__":
    main()
