"""Which words are said of a photo, as numbers."""

import numpy as np

from raycap.word_shares import mean_shares, word_shares

CAPTIONS = [[[3, 4, 3], [3], [5, 4]], [[4]], [[], [5]]]


def test_a_word_counts_once_a_caption() -> None:
    expected = [[0, 0, 0, 2 / 3, 2 / 3, 1 / 3], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1 / 2]]
    np.testing.assert_allclose(word_shares(CAPTIONS, 6), expected)


def test_the_mean_is_over_photos() -> None:
    np.testing.assert_allclose(mean_shares(CAPTIONS, 6), word_shares(CAPTIONS, 6).mean(axis=0))
