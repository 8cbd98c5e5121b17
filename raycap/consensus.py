"""Which caption of a beam says most of what the others say; knows no model and no words, only token ids.

The most probable caption is often a bland or a broken one that the others contradict. Of a beam of ten or twenty, the
one that is most like all of them, each as it is probable, scores better; better still where what people say of similar
photos counts too, and how well a caption matches the photo.

References:
    Kumar and Byrne 2004, Minimum Bayes-risk decoding for statistical machine translation (the choice).
    Devlin et al. 2015, arXiv:1505.04467 (captions of similar photos).
    Vedantam, Zitnick and Parikh 2015, arXiv:1411.5726 (the likeness: CIDEr-D's, every n-gram weighing the same).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raycap.decoding import Hypothesis

_ORDERS = 4
_SIGMA = 6.0  # of the penalty on a difference in length, in words
_OTHERS = 4.0  # what others weigh together, where the hypotheses together weigh 1; see docs/quality.md


def by_consensus(
    hypotheses: Sequence[Hypothesis],
    power: float,
    others: Sequence[Sequence[int]] = (),
    more: NDArray[np.floating] | float = 0.0,
) -> list[Hypothesis]:
    """Return the hypotheses of one photo by how much each is like all of them, the most like first.

    Args:
        hypotheses: of one search.
        power: each weighs as much as its probability to this power; 0 weighs all alike.
        others: captions that each should be like too, such as people's of similar photos; all weigh the same.
        more: what else there is to say for each hypothesis, where to be like all the others is 1.
    """
    if not hypotheses:
        return []
    log_probs = np.array([each.log_prob for each in hypotheses])
    weights = np.exp(power * (log_probs - log_probs.max()))
    alike = likeness([*(each.tokens for each in hypotheses), *others])[: len(hypotheses)]
    scores = alike[:, : len(hypotheses)] @ weights / weights.sum()
    if others:
        scores += _OTHERS * alike[:, len(hypotheses) :].mean(axis=1)
    return [hypotheses[place] for place in np.argsort(-(scores + more), kind="stable")]


def likeness(captions: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return how much each caption is like each other, `(captions, captions)`, 0 to 1, and 1 for equal ones.

    The mean, over n-grams of one to four words, of the cosine between their counts; less for a difference in length. A
    caption too short for an n-gram is compared by those that it has.
    """
    lengths = np.array([len(each) for each in captions])
    total = np.zeros((len(captions), len(captions)))
    for order in range(1, _ORDERS + 1):
        counts = _count(captions, order)
        counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1.0)
        total += counts @ counts.T
    orders = np.clip(np.minimum.outer(lengths, lengths), 1, _ORDERS)
    alike: NDArray[np.float64] = total / orders * np.exp(-(np.subtract.outer(lengths, lengths) ** 2) / (2 * _SIGMA**2))
    return alike


def _count(captions: Sequence[Sequence[int]], order: int) -> NDArray[np.float64]:
    """Return how often each caption has each n-gram, `(captions, n-grams)`."""
    ids: dict[tuple[int, ...], int] = defaultdict(lambda: len(ids))
    pairs = [
        (row, ids[tuple(caption[start : start + order])])
        for row, caption in enumerate(captions)
        for start in range(len(caption) - order + 1)
    ]
    counts = np.zeros((len(captions), max(1, len(ids))))
    np.add.at(counts, tuple(np.array(pairs, np.int64).reshape(-1, 2).T), 1)
    return counts
