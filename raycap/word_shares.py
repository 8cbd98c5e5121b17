"""Which words people say of a photo, as numbers; knows neither photos nor models."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def word_shares(captions: Sequence[Sequence[Sequence[int]]], vocab_size: int) -> NDArray[np.float64]:
    """Return the share of each photo's captions that have each token, `(photos, vocab_size)`.

    Args:
        captions: of each photo, as token ids.
        vocab_size: words, start, end and padding.
    """
    shares = np.zeros((len(captions), vocab_size))
    for row, each in enumerate(captions):
        for caption in each:
            shares[row, list(set(caption))] += 1 / len(each)
    return shares


def mean_shares(captions: Sequence[Sequence[Sequence[int]]], vocab_size: int) -> NDArray[np.float64]:
    """Return the mean of `word_shares` over the photos, `(vocab_size,)`, without an array of them all."""
    total = np.zeros(vocab_size)
    for each in captions:
        for caption in each:
            total[list(set(caption))] += 1 / len(each)
    return total / max(len(captions), 1)
