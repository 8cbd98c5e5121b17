"""All metrics but METEOR under the three protocols, as evaluate computes them.

    python benchmarks/scores.py [--full]

Random captions with a caption's lengths and a vocabulary as skewed as language; five references a photo. Beside them,
nltk called once for each protocol and order, as the tutorial does, and the COCO toolkit's BLEU, ROUGE-L and CIDEr-D
under one protocol; then what evaluate computes besides, the human ceiling and a model's intervals. Prints one table.
"""

import argparse
import contextlib
import io

import numpy as np
from machine import median_s, print_table
from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from workload import words

from raycap.baselines import human_rounds
from raycap.bootstrap import intervals
from raycap.metrics import PROTOCOLS, Corpus, measure, score_all


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
    corpora = [Corpus.prepare(hypotheses, references, protocol) for protocol in PROTOCOLS.values()]
    ours, _ = measure(corpora, meteor_timeout_s=0)

    def one_order_at_a_time() -> None:
        for corpus in corpora:
            for weights in corpus.protocol.weights:
                corpus_bleu(corpus.references, corpus.hypotheses, weights=weights)

    def coco_toolkit() -> None:
        wanted = {photo: [" ".join(each) for each in some] for photo, some in enumerate(corpora[0].references)}
        said = {photo: [" ".join(each)] for photo, each in enumerate(corpora[0].hypotheses)}
        with contextlib.redirect_stdout(io.StringIO()):
            for metric in (Bleu(4), Rouge(), Cider()):
                metric.compute_score(wanted, said)

    def people() -> None:
        measure([each for corpus in corpora for each in human_rounds(corpus)], meteor_timeout_s=0)

    rows = [
        ("BLEU alone: nltk, a call for each order", median_s(one_order_at_a_time, 3)),
        ("one protocol: the COCO toolkit", median_s(coco_toolkit, 3)),
        ("raycap, BLEU, ROUGE-L and CIDEr-D", median_s(lambda: score_all(hypotheses, references), 3)),
        ("the human ceiling, five rounds of that", median_s(people, 1)),
        ("intervals, 1,000 resamples", median_s(lambda: [intervals(each, seed=0) for each in ours], 3)),
    ]
    print_table(f"three protocols, {count:,} photos with 5 references", ("what", "seconds"), rows)


if __name__ == "__main__":
    main()
