"""numpy in threads, each on a core of its own; knows nothing of what is computed."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_FEWEST = 64  # rows worth a thread


class Threads:
    """Threads that share work on arrays.

    numpy lets go of the interpreter while it computes, so these are as good as processes; the threads that its matrix
    products would start themselves are kept to one each, or there would be more than cores.

    Attributes:
        count: how many.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        """Start them.

        Args:
            num_threads: how many; None for one a core.
        """
        self.count = num_threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.count)
        self._blas = ThreadpoolController()

    def each(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Call `work` with each item, in any order; return what it returned, in the items' order."""
        with self._blas.limit(limits=1, user_api="blas"):
            return list(self._pool.map(work, items) if len(items) > 1 else map(work, items))

    def rows(self, work: Callable[[slice], Sequence[NDArray[Any]]], num_rows: int) -> tuple[NDArray[Any], ...]:
        """Call `work` with slices that together are all rows; return the arrays it returned, joined.

        Args:
            work: returns arrays that have a row for each row of the slice.
            num_rows: in all.
        """
        done = self.each(work, cut_rows(num_rows, self.count))
        return tuple(done[0]) if len(done) == 1 else tuple(np.concatenate(arrays) for arrays in zip(*done, strict=True))


def cut_rows(num_rows: int, parts: int) -> list[slice]:
    """Return slices of about equal length that together are all rows: `parts`, or fewer where there are few rows."""
    edges = np.linspace(0, num_rows, max(1, min(parts, num_rows // _FEWEST)) + 1).astype(int).tolist()
    return list(map(slice, edges, edges[1:]))
