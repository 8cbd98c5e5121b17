"""A moving average of a model's weights, which often predicts better than the weights; knows no training."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class WeightAverage:
    """The average; of no decay it keeps none, and stands for the weights themselves.

    Reference:
        Polyak and Juditsky 1992, doi:10.1137/0330046 (averaging); the decay grows as in `tf.train`'s.
    """

    def __init__(self, variables: Sequence[Any], decay: float) -> None:
        """Start.

        Args:
            variables: of the model.
            decay: share of the average that a step leaves; 0 keeps no average.
        """
        self._variables, self._decay = variables, decay
        self._average: list[NDArray[np.float32]] = []
        self._num_steps = 0

    def update(self) -> None:
        """Take the weights after one more step into it."""
        if not self._decay:
            return
        weights = [np.asarray(each).copy() for each in self._variables]
        self._num_steps += 1
        if not self._average:
            self._average = weights
            return
        # the first steps are forgotten sooner
        decay = np.float32(min(self._decay, (1 + self._num_steps) / (10 + self._num_steps)))
        for average, weight in zip(self._average, weights, strict=True):
            average += (1 - decay) * (weight - average)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the model hold the average for as long as this lasts."""
        if not self._average:
            yield
            return
        kept = [np.asarray(each).copy() for each in self._variables]
        assign(self._variables, self._average)
        try:
            yield
        finally:
            assign(self._variables, kept)

    def to_arrays(self) -> list[NDArray[Any]]:
        """Return all of it, for `from_arrays`."""
        return [np.array(self._num_steps), *self._average]

    def from_arrays(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Go on from what `to_arrays` returned."""
        self._num_steps = int(arrays[0])
        self._average = [np.array(each) for each in arrays[1:]]


def assign(variables: Iterable[Any], values: Iterable[NDArray[Any]]) -> None:
    """Give each variable its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def save_arrays(path: Path, arrays: Iterable[Any]) -> None:
    """Write variables or arrays to a local `.npz`, for `load_arrays`."""
    np.savez(path, *map(np.asarray, arrays))


def load_arrays(path: Path) -> list[NDArray[Any]]:
    """Return the arrays that `save_arrays` wrote, in their order."""
    with np.load(path, allow_pickle=False) as values:
        return [values[f"arr_{number}"] for number in range(len(values.files))]
