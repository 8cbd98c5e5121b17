"""A decoder a word at a time, whatever its kind; knows no kind."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

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

    def start(self, *views: NDArray[np.float32]) -> tuple[StepFunction, State]:
        """Return the step function of one search over some photos, and its state before the first word.

        Args:
            views: features of the photos; of several views of them, such as mirrored, the mean of their logits decides
                each word, which as logits are linear is one layer over the vocabulary that sees the mean of all.
        """
        advance, state = side_by_side([self.begin(features) for features in views])

        def step(tokens: NDArray[np.int32], state: State, wanted: Wanted) -> tuple[Continuations, State]:
            seen, state = advance(tokens, state)
            return self.top(seen[0] if len(seen) == 1 else np.mean(seen, axis=0), wanted), state

        return step, state


def side_by_side(
    begun: Sequence[tuple[Advance, State]],
) -> tuple[Callable[[NDArray[np.int32], State], tuple[list[NDArray[np.float32]], State]], State]:
    """Return several searches as one, that takes the same words in each: what it sees is a list, its state that of all.

    Args:
        begun: what `Steps.begin` returned.
    """
    sizes = [len(state) for _, state in begun]

    def advance(tokens: NDArray[np.int32], state: State) -> tuple[list[NDArray[np.float32]], State]:
        seen: list[NDArray[np.float32]] = []
        states: list[NDArray[Any]] = []
        for (further, _), size in zip(begun, sizes, strict=True):
            mine, state = state[:size], state[size:]
            hidden, mine = further(tokens, mine)
            seen.append(hidden)
            states += mine
        return seen, tuple(states)

    return advance, tuple(array for _, state in begun for array in state)
