"""What a model's captions are compared with: blind captions, captions of other photos, people's. Knows no files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from raycap.bleu import corpus_bleu, statistics
from raycap.metrics import PROTOCOLS, Corpus

_Caption = TypeVar("_Caption")

_ROUNDS = 5  # references of a photo that take their turn as a hypothesis; the usual datasets have five


def constant_caption(training_references: Sequence[Sequence[str]]) -> str:
    """Return the caption that a blind captioner does best to give every photo, found on the training captions.

    The 40 most frequent captions, ties by first appearance, are scored under `standard` on 100 training photos spread
    evenly; the best BLEU-4 wins.

    Args:
        training_references: the captions of each training photo.
    """
    protocol = PROTOCOLS["standard"]
    counts = Counter(" ".join(protocol.prepare(caption)) for captions in training_references for caption in captions)
    candidates = [caption for caption, _ in counts.most_common(40)]
    sample = training_references[:: max(1, len(training_references) // 100)][:100]
    wanted = [[protocol.prepare(caption) for caption in captions] for captions in sample]

    def score(caption: str) -> float:
        sums = statistics([protocol.prepare(caption)] * len(wanted), wanted).sum(axis=0)
        return float(corpus_bleu(sums, protocol.weights)["bleu_4"])

    return max(candidates, key=score, default="")


def shuffled(hypotheses: Sequence[_Caption], *, seed: int) -> list[_Caption]:
    """Return the hypotheses moved among the photos, none left in its place where there are two or more."""
    order = np.random.default_rng(seed).permutation(len(hypotheses))
    moved = list(hypotheses)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        moved[place] = hypotheses[source]
    return moved


def human_rounds(corpus: Corpus) -> Iterator[Corpus]:
    """Yield what people would score against each other, round by round; nothing where no photo has two references.

    In round n the hypothesis of a photo is its n-th reference (of a photo with fewer, counting starts again at its
    first), scored against its others. Photos with one reference are in no round. There are as many rounds as references
    of the photo that has the most, five at most; a human score is the mean over them.
    """
    photos = [wanted for wanted in corpus.references if len(wanted) > 1]
    for turn in range(min(_ROUNDS, max(map(len, photos), default=0))):
        places = [turn % len(wanted) for wanted in photos]
        yield Corpus(
            corpus.protocol,
            [wanted[place] for wanted, place in zip(photos, places, strict=True)],
            [[*wanted[:place], *wanted[place + 1 :]] for wanted, place in zip(photos, places, strict=True)],
        )
