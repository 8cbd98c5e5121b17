"""How many rows a model call takes: found by trying, and fewer where memory runs out. Knows no model."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Result = TypeVar("_Result")

_FIRST = 16
_LARGEST = 1024
_TRIALS = 2  # calls at each size: the first compiles or warms up, the best counts
_WORTH_DOUBLING = 1.05


class BatchSizer:
    """Splits rows into batches for a model call.

    Without a fixed size it starts small and doubles for as long as that gives more rows a second. A call that runs out
    of memory is made again with half the rows, and no later call is larger than that.

    Attributes:
        size: rows of the next call.
    """

    def __init__(self, fixed: int | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Take a fixed size, or None to find one.

        Args:
            fixed: rows a call; still halved where memory runs out.
            clock: seconds.
        """
        self.size = fixed or _FIRST
        self._settled = fixed is not None
        self._clock = clock
        self._times: list[float] = []
        self._best_rate = 0.0

    def run(
        self, call: Callable[[NDArray[np.intp]], _Result], rows: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], _Result]]:
        """Yield batches of `rows` and what `call` makes of them, in order.

        Raises:
            MemoryError: or the framework's own, if there is not even room for one row.
        """
        start = 0
        while start < len(rows):
            batch = rows[start : start + self.size]
            started = self._clock()
            try:
                result = call(batch)
            except Exception as error:
                if not _is_out_of_memory(error) or len(batch) == 1:
                    raise
                self.size, self._settled = len(batch) // 2, True
                continue
            if not self._settled and len(batch) == self.size:
                self._learn(self._clock() - started)
            yield batch, result
            start += len(batch)

    def _learn(self, seconds: float) -> None:
        self._times.append(seconds)
        if len(self._times) < _TRIALS:
            return
        rate = self.size / max(min(self._times), 1e-9)
        self._times = []
        if rate < _WORTH_DOUBLING * self._best_rate:
            self.size, self._settled = self.size // 2, True
        else:
            self._best_rate = rate
            if self.size < _LARGEST:
                self.size *= 2
            else:
                self._settled = True


def _is_out_of_memory(error: Any) -> bool:
    """TensorFlow's error is told by its name: this module does not import TensorFlow."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
