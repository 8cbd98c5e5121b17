"""A board in the cluster, where a worker puts what it is doing and the driver reads it. Knows Ray, and no stage."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_POLL_EVERY_S: Final = 0.5


class Board:
    """Where a worker puts what it is doing, for the driver to show, and what ended it; an actor."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._state: Any = None
        self._error: Any = None

    def put(self, state: Any) -> None:
        """Replace what is shown."""
        self._state = state

    def get(self) -> Any:
        """Return what was put last, None before that."""
        return self._state

    def fail(self, error: Exception) -> None:
        """Leave the error that a worker ended with."""
        self._error = error

    def error(self) -> Any:
        """Return it; None if there is none."""
        return self._error


@contextmanager
def watched_board(show: Callable[[Any], None]) -> Iterator[Any]:
    """Yield the handle of a board whose state is shown, as it changes, while the block runs.

    Args:
        show: called in a thread of its own with each new state.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)  # as long as the driver
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    stop = threading.Event()

    def poll() -> None:
        shown: Any = None
        finished = False
        while not finished:
            finished = stop.wait(_POLL_EVERY_S)
            try:
                state = ray.get(board.get.remote(), timeout=10)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:  # the board's process died: training goes on unseen
                return
            if state is not None and state != shown:
                show(state)
                shown = state

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join(timeout=15)
        ray.kill(board)
