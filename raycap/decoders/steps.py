"""A decoder a word at a time, whatever its kind; knows no kind."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from raycap.decoders.vocabulary import Top
from raycap.decoding import Continuations, State, StepFunction, Wanted

Advance: TypeAlias = Callable[[NDArray[np.int32], State], tuple[NDArray[np.float32], State]]
"""Takes the newest token of each hypothesis, `(rows,)`, and the state after the tokens before it; returns what the
layer over the vocabulary sees, `(rows, units)`, and the new state."""


class Steps(ABC):
    """A decoder as decoding runs it.

    Attributes:
        top: the layer over the vocabulary.
    """

    top: Top

    @abstractmethod
    def begin(self, features: NDArray[np.float32]) -> tuple[Advance, State]:
        """Return what takes one search over some photos a word further, and its state before the first word.

        Args:
            features: `(photos, dim)` or `(photos, num_regions, dim)` float32.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Take the weights anew, after training changed them."""

    def start(self, features: NDArray[np.float32]) -> tuple[StepFunction, State]:
        """Return the step function of one search over some photos, and its state before the first word."""
        advance, state = self.begin(features)

        def step(tokens: NDArray[np.int32], state: State, wanted: Wanted) -> tuple[Continuations, State]:
            hidden, state = advance(tokens, state)
            return self.top(hidden, wanted), state

        return step, state
