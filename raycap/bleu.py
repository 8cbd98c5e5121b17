"""BLEU, from counts that add up over photos; knows words only, not how captions become words.

References:
    Papineni et al. 2002, BLEU: a method for automatic evaluation of machine translation.
    Lin and Och 2004, ORANGE: a method for evaluating automatic evaluation metrics for machine translation.
"""

from collections.abc import Sequence

import numpy as np
from nltk.translate.bleu_score import closest_ref_length, modified_precision
from numpy.typing import NDArray

from raycap.text import Words

ORDERS = 4
"""The longest n-gram that is counted."""


def statistics(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """Return what BLEU counts in each photo, as nltk counts it.

    That is how sacrebleu and the COCO toolkit count too, but for a hypothesis of fewer than n words: nltk counts one
    wrong n-gram of order n for it, the others none.

    Returns:
        `(photos, 10)`: n-grams that a reference has too, for n = 1 to 4; n-grams, likewise; words; words of the
        reference that is closest in length.
    """
    rows = np.zeros((len(hypotheses), 2 * ORDERS + 2))
    for row, said, wanted in zip(rows, hypotheses, references, strict=True):
        for order in range(ORDERS):
            precision = modified_precision(wanted, said, order + 1)
            row[order], row[ORDERS + order] = precision.numerator, precision.denominator
        row[-2:] = len(said), closest_ref_length(wanted, len(said))
    return rows


def corpus_bleu(sums: NDArray[np.float64], weights: Sequence[Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    """Return BLEU, once for each sequence of weights.

    Args:
        sums: `(..., 10)`, statistics added up over photos.
        weights: of the n-gram orders, for BLEU-1, BLEU-2 and so on.

    Returns:
        `bleu_1` and so on, each of shape `(...)`, 0 to 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a score with nothing in common is exp(-inf), which is 0
        logs = np.log(sums[..., :ORDERS] / sums[..., ORDERS : 2 * ORDERS])
    return {f"bleu_{len(each)}": _combined(logs[..., : len(each)], each) * _brevity(sums) for each in weights}


def sentence_bleu(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return BLEU-4 of each photo alone, smoothed: all counts but the words' are one higher (Lin and Och 2004).

    Args:
        rows: `(photos, 10)`, statistics.

    Returns:
        `(photos,)`, 0 to 1.
    """
    smoothed = rows.copy()
    smoothed[:, 1:ORDERS] += 1
    smoothed[:, ORDERS + 1 : 2 * ORDERS] += 1
    return corpus_bleu(smoothed, [(1 / ORDERS,) * ORDERS])[f"bleu_{ORDERS}"]


def _combined(logs: NDArray[np.float64], weights: Sequence[float]) -> NDArray[np.float64]:
    """The weighted geometric mean of precisions, from their logarithms."""
    mean: NDArray[np.float64] = np.exp(np.nan_to_num(logs, nan=-np.inf, neginf=-np.inf) @ np.asarray(weights))
    return mean


def _brevity(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """What hypotheses shorter than their references lose: a factor, 0 where there are no words."""
    said, wanted = sums[..., -2], sums[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor: NDArray[np.float64] = np.where(said > 0, np.exp(np.minimum(0.0, 1 - wanted / said)), 0.0)
    return factor
