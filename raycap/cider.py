"""CIDEr-D, as the COCO caption toolkit computes it; knows words only, not how captions become words.

Reference:
    Vedantam, Zitnick and Parikh 2015, CIDEr: consensus-based image description evaluation (arXiv:1411.5726).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycap.text import Words

_ORDERS = 4
_SIGMA = 6.0  # of the penalty on a difference in length, in words

Ints = NDArray[np.int64]


def cider_d(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """Return CIDEr-D of each photo.

    An n-gram weighs as much as few photos' references have it, so a photo's score depends on the photos beside it; with
    one photo alone nothing weighs anything, and the score is 0.

    Args:
        hypotheses: the words of a caption a photo.
        references: the words of each photo's human captions, one at least.

    Returns:
        `(photos,)`, 0 to 10. A split's score is their mean.
    """
    num_photos = len(hypotheses)
    if not num_photos:
        return np.zeros(0)
    captions = [*hypotheses, *(each for some in references for each in some)]
    counts = np.array([len(some) for some in references], np.int64)
    photo_of = np.concatenate([np.arange(num_photos), np.repeat(np.arange(num_photos), counts)])
    lengths = np.array([max(len(words) - 1, 0) for words in captions])  # in pairs of words, as the toolkit has it
    similarity = np.zeros(len(captions))
    for caption, gram, count in _ngrams(captions):
        similarity += _similarity(caption, gram, count, photo_of, num_photos)
    similarity *= np.exp(-((lengths - lengths[photo_of]) ** 2) / (2 * _SIGMA**2))
    sums = np.bincount(photo_of[num_photos:], similarity[num_photos:], minlength=num_photos)
    scores: NDArray[np.float64] = 10 * sums / _ORDERS / counts
    return scores


def _ngrams(captions: Sequence[Words]) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield, for each order, the different n-grams of each caption: the caption's index, the n-gram's, how often."""
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word, len(ids)) for caption in captions for word in caption], np.int64)
    owners = np.repeat(np.arange(len(captions)), [len(caption) for caption in captions])
    grams, starts = words, np.arange(len(words))
    for order in range(1, _ORDERS + 1):
        if (
            order > 1
        ):  # an n-gram is the one before it and a word; those that would cross into the next caption end here
            whole = starts + order - 1 < len(words)
            starts, grams = starts[whole], grams[whole]
            whole = owners[starts] == owners[starts + order - 1]
            starts, grams = starts[whole], grams[whole]
            _, grams = np.unique(grams * len(ids) + words[starts + order - 1], return_inverse=True)
        num_grams = int(grams.max(initial=-1)) + 1 or 1
        keys, counts = np.unique(owners[starts] * num_grams + grams, return_counts=True)
        yield keys // num_grams, keys % num_grams, counts


def _similarity(caption: Ints, gram: Ints, count: Ints, photo_of: Ints, num_photos: int) -> NDArray[np.float64]:
    """Return the clipped cosine between each reference and its photo's hypothesis, over the n-grams of one order.

    Args:
        caption: `(rows,)`, whose n-gram it is, rising; the hypotheses come first, then the references.
        gram: `(rows,)`, which n-gram.
        count: `(rows,)`, how often the caption has it.
        photo_of: `(captions,)`, each caption's photo.
        num_photos: hypotheses.

    Returns:
        `(captions,)`; 0 for the hypotheses.
    """
    num_grams = int(gram.max(initial=-1)) + 1 or 1
    key = photo_of[caption] * num_grams + gram
    said = caption < num_photos
    frequency = np.bincount(np.unique(key[~said]) % num_grams, minlength=num_grams)  # photos whose references have it
    weight = count * (np.log(num_photos) - np.log(np.maximum(1, frequency)))[gram]
    norm = np.sqrt(np.bincount(caption, weight**2, minlength=len(photo_of)))
    mine, theirs = key[said], key[~said]  # mine rises, as the hypotheses are in the order of the photos
    place = np.minimum(np.searchsorted(mine, theirs), max(len(mine) - 1, 0))
    found = mine[place] == theirs if len(mine) else np.zeros(len(theirs), bool)
    wanted = weight[~said][found]
    product = np.minimum(weight[said][place[found]], wanted) * wanted
    dot = np.bincount(caption[~said][found], product, minlength=len(photo_of))
    norms = norm * norm[photo_of]
    similarity: NDArray[np.float64] = np.divide(dot, norms, out=np.zeros_like(norms), where=norms > 0)
    return similarity


class CiderD:
    """CIDEr-D with the n-grams' weights taken once, from many photos' references, to score captions of a few.

    Captions are sequences of anything: words, or token ids.
    """

    def __init__(self, references: Iterable[Sequence[Sequence[Hashable]]]) -> None:
        """Count how many photos' references have each n-gram.

        Args:
            references: the human captions of each photo.
        """
        self._num_photos = 0
        self._frequency: Counter[tuple[Hashable, ...]] = Counter()
        for captions in references:
            self._num_photos += 1
            self._frequency.update({gram for caption in captions for gram in _counts(caption)})

    def __call__(
        self, hypotheses: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]
    ) -> NDArray[np.float64]:
        """Return CIDEr-D, 0 to 10, of each of several captions of one photo.

        Args:
            hypotheses: the captions.
            references: the photo's human captions.
        """
        theirs = [self._weigh(caption) for caption in references]
        scores = [sum(_cosines(self._weigh(caption), other) for other in theirs) for caption in hypotheses]
        return 10 * np.array(scores) / _ORDERS / len(theirs)

    def _weigh(self, caption: Sequence[Hashable]) -> "_Weighed":
        weights: list[dict[tuple[Hashable, ...], float]] = [{} for _ in range(_ORDERS)]
        for gram, count in _counts(caption).items():
            rarity = np.log(self._num_photos) - np.log(max(1, self._frequency[gram]))
            weights[len(gram) - 1][gram] = count * float(rarity)
        norms = [float(np.sqrt(sum(value**2 for value in each.values()))) for each in weights]
        return _Weighed(max(len(caption) - 1, 0), weights, norms)


class _Weighed(NamedTuple):
    """A caption's pairs of words, and for each order the weight of each n-gram and their norm."""

    length: int
    weights: list[dict[tuple[Hashable, ...], float]]
    norms: list[float]


def _counts(caption: Sequence[Hashable]) -> Counter[tuple[Hashable, ...]]:
    return Counter(
        tuple(caption[start : start + order])
        for order in range(1, _ORDERS + 1)
        for start in range(len(caption) - order + 1)
    )


def _cosines(mine: _Weighed, theirs: _Weighed) -> float:
    """Return the sum over the orders of the clipped cosine between two captions, less for a difference in length."""
    total = 0.0
    for weights, others, norm in zip(mine.weights, theirs.weights, np.multiply(mine.norms, theirs.norms), strict=True):
        shared = weights.keys() & others.keys()
        if norm > 0:
            total += sum(min(weights[gram], others[gram]) * others[gram] for gram in shared) / float(norm)
    return total * float(np.exp(-((mine.length - theirs.length) ** 2) / (2 * _SIGMA**2)))
