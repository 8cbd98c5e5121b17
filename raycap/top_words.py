"""The most probable next words: the last layer, its softmax and the best of it, in blocks that stay in the cache.

A vocabulary's logits are many: written out whole, they cost more time in memory than their matrix product costs in
arithmetic. numpy alone, and all cores.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycap.decoding import Continuations, Wanted
from raycap.threads import Threads, cut_rows

# A block of logits is this large at most: small enough for a core's caches, and large enough for the matrix product to
# run at full speed.
_ROWS, _WORDS = 1024, 768
_SMALLEST_TOTAL = 1e-25  # a sum of exponentials beyond it, or its inverse, has lost some of them
_TAKEN = -1.0  # less than any weight
_ROUNDS = 16  # more words than this are not looked for one by one


class TopWords:
    """A linear layer over the vocabulary, of which only the most probable words are wanted."""

    def __init__(self, kernel: NDArray[np.float32], bias: NDArray[np.float32], *, threads: Threads) -> None:
        """Take the layer.

        Args:
            kernel: `(units, vocab_size)` float32.
            bias: `(vocab_size,)` float32.
            threads: do the work.
        """
        self._threads = threads
        # the bias as one more row, so that the matrix product adds it
        whole = np.concatenate([kernel, bias[np.newaxis]])
        starts = range(0, len(bias), _WORDS)
        self._blocks = [(start, np.ascontiguousarray(whole[:, start : start + _WORDS])) for start in starts]

    def __call__(self, hidden: NDArray[np.float32], wanted: Wanted) -> Continuations:
        """Return the words wanted of each row of `hidden`, `(rows, units)`, and their log-probabilities.

        A word whose probability float32 cannot hold, some 1e-38 of the most probable one's, counts as impossible.
        """
        hidden = np.concatenate([hidden, np.ones((len(hidden), 1), np.float32)], axis=1)
        found, totals = self._search(hidden, wanted, None)
        far = np.flatnonzero(~((totals > _SMALLEST_TOTAL) & (totals < 1 / _SMALLEST_TOTAL)))
        if len(far):  # logits so large or small that their exponentials are not numbers
            peaks = self._threads.each(lambda block: (hidden[far] @ block[1]).max(axis=1), self._blocks)
            inside = np.isin(wanted.banned[0], far)
            banned = np.searchsorted(far, wanted.banned[0][inside]), wanted.banned[1][inside]
            again, _ = self._search(hidden[far], wanted._replace(banned=banned), np.max(peaks, axis=0))
            found.tokens[far], found.log_probs[far] = again
        return found

    def _search(
        self, hidden: NDArray[np.float32], wanted: Wanted, shift: NDArray[np.float32] | None
    ) -> tuple[Continuations, NDArray[np.float32]]:
        """Return the words wanted, and the sum of each row's weights: the exponentials of its logits.

        Args:
            hidden: with a last column of ones, which meets the bias.
            wanted: what to look for.
            shift: `(rows,)`, taken from the logits first.
        """
        # a task is a block for some rows; two for each thread, so that none waits long for the last
        parts = max(math.ceil(len(hidden) / _ROWS), math.ceil(2 * self._threads.count / len(self._blocks)))
        slices = cut_rows(len(hidden), parts)

        def search_block(task: tuple[slice, tuple[int, NDArray[np.float32]]]) -> tuple[NDArray[Any], ...]:
            rows, (start, block) = task
            weights = hidden[rows] @ block
            if shift is not None:
                weights -= shift[rows, np.newaxis]
            with np.errstate(over="ignore"):
                np.exp(weights, out=weights)
                totals = weights @ np.ones(len(block[0]), np.float32)
            _forbid(weights, rows.start, start, wanted)
            columns, largest = largest_of(weights, wanted.limit)
            return columns + start, largest, totals

        done = self._threads.each(search_block, list(itertools.product(slices, self._blocks)))
        by_rows = [done[first : first + len(self._blocks)] for first in range(0, len(done), len(self._blocks))]
        merged = [_merge(part, wanted.limit) for part in by_rows]
        tokens, log_probs, totals = (np.concatenate(arrays) for arrays in zip(*merged, strict=True))
        return Continuations(tokens, log_probs), totals


def _merge(
    blocks: Sequence[tuple[NDArray[Any], ...]], limit: int | None
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Return tokens, log-probabilities and totals of some rows, from tokens, weights and totals of each block."""
    tokens, weights, totals = zip(*blocks, strict=True)
    total: NDArray[np.float32] = np.sum(totals, axis=0)
    columns, largest = largest_of(np.concatenate(weights, axis=1), limit)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_probs = np.log(largest / total[:, np.newaxis])
    return np.take_along_axis(np.concatenate(tokens, axis=1), columns, axis=1).astype(np.int32), log_probs, total


def _forbid(weights: NDArray[np.float32], first_row: int, first_word: int, wanted: Wanted) -> None:
    """Set what may not come to zero, in place, in a block's weights."""
    num_rows, num_words = weights.shape
    never = [token - first_word for token in wanted.never if first_word <= token < first_word + num_words]
    if never:
        weights[:, never] = 0.0
    if len(wanted.banned[0]):
        rows, words = wanted.banned[0] - first_row, wanted.banned[1] - first_word
        inside = (rows >= 0) & (rows < num_rows) & (words >= 0) & (words < num_words)
        weights[rows[inside], words[inside]] = 0.0


def largest_of(values: NDArray[np.float32], count: int | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the columns of the `count` largest values of each row, and them, largest first, ties by column.

    Args:
        values: `(rows, columns)`, none negative; may be overwritten.
        count: None for all.
    """
    count = values.shape[1] if count is None else min(count, values.shape[1])
    if count > _ROUNDS:
        columns = _in_order(values, count)
        return columns, np.take_along_axis(values, columns, axis=1)
    columns = np.empty((len(values), count), np.int64)
    largest = np.empty((len(values), count), np.float32)
    rows = np.arange(len(values))
    for place in range(count):
        columns[:, place] = values.argmax(axis=1)
        largest[:, place] = values[rows, columns[:, place]]
        values[rows, columns[:, place]] = _TAKEN
    return columns, largest


def _in_order(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the columns of the `count` largest values of each row, largest first, ties by column."""
    if count == values.shape[1]:
        return np.argsort(-values, axis=1, kind="stable")
    columns = np.sort(np.argpartition(values, -count, axis=1)[:, -count:], axis=1)
    found = np.take_along_axis(values, columns, axis=1)
    columns = np.take_along_axis(columns, np.argsort(-found, axis=1, kind="stable"), axis=1)
    least = found.min(axis=1, keepdims=True)
    # a partition takes any of several equal ones
    unsure = np.flatnonzero(np.sum(values == least, axis=1) > np.sum(found == least, axis=1))
    columns[unsure] = np.argsort(-values[unsure], axis=1, kind="stable")[:, :count]
    return columns
