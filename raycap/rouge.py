"""ROUGE-L, as the COCO caption toolkit computes it; knows words only, not how captions become words.

Reference:
    Lin 2004, ROUGE: a package for automatic evaluation of summaries.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raycap.text import Words

_BETA = 1.2  # how much more recall counts than precision; the toolkit's


def rouge_l(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """Return ROUGE-L of each photo: of the longest words in common, in order, with the best reference.

    Precision and recall are each the best over the references, as in the COCO toolkit; a caption without words is, also
    as there, one empty word.

    Returns:
        `(photos,)`, 0 to 1. A split's score is their mean.
    """
    return np.array([_of_photo(said, wanted) for said, wanted in zip(hypotheses, references, strict=True)], np.float64)


def _of_photo(said: Words, wanted: Sequence[Words]) -> float:
    said = said or [""]
    precision = recall = 0.0
    for reference in wanted:
        reference = reference or [""]
        common = longest_common_subsequence(said, reference)
        precision, recall = max(precision, common / len(said)), max(recall, common / len(reference))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(one: Words, other: Words) -> int:
    """Return the length of the longest sequence of words that both have in this order, perhaps with gaps.

    A row of the usual table is one integer, whose zero bits are the places where the length grows: a word costs a few
    operations on it instead of one a place.

    Reference:
        Hyyrö 2004, Bit-parallel LCS-length computation revisited.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << index
    everywhere = (1 << len(one)) - 1
    row = everywhere
    for word in other:
        common = row & places.get(word, 0)
        row = (row + common | row - common) & everywhere
    return len(one) - row.bit_count()
