"""Calls that may never come back: made in threads of their own, and given up. Knows nothing of what is called."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Calls = SimpleQueue[tuple[Future[Any], Callable[[Any], Any], Any] | None]


def map_ahead(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    ahead: int,
    limit_s: float,
    late: Callable[[_Item], _Result],
) -> Iterator[_Result]:
    """Yield `function(item)` of each item, in order, with up to `ahead` calls under way at once.

    A call that takes longer than the limit is given up: its thread, a daemon, is left to itself and another takes its
    place. Python cannot end a thread, so a call that is stuck for good keeps what it holds until its process ends.

    Args:
        function: what it raises is raised here.
        items: taken as they are needed.
        ahead: 1 still calls in a thread, one item at a time.
        limit_s: seconds a call may take.
        late: gives the result of an item whose call was given up.
    """
    calls: _Calls = SimpleQueue()
    under_way: deque[tuple[_Item, Future[_Result], float]] = deque()
    started = stuck = 0

    def take_first() -> _Result:
        nonlocal stuck
        item, future, deadline = under_way.popleft()
        try:
            return future.result(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        except FutureTimeoutError:
            if future.done():  # the function's own TimeoutError, which is the same class
                return future.result()
            stuck += 1
            return late(item)

    try:
        for item in items:
            if len(under_way) == ahead:
                yield take_first()
            if started - stuck < min(ahead, len(under_way) + 1):
                threading.Thread(target=_work, args=(calls,), daemon=True).start()
                started += 1
            future: Future[_Result] = Future()
            under_way.append((item, future, time.monotonic() + limit_s))
            calls.put((future, function, item))
        while under_way:
            yield take_first()
    finally:
        for _ in range(started):
            calls.put(None)


def _work(calls: _Calls) -> None:
    """Make the calls of a queue until None comes."""
    while (call := calls.get()) is not None:
        future, function, item = call
        try:
            future.set_result(function(item))
        except BaseException as error:  # it belongs to whoever waits for the result
            future.set_exception(error)
