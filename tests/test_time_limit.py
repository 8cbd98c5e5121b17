import threading
import time

import pytest

from raycap.time_limit import map_ahead

LIMIT_S = 0.2  # of the calls that hang; those that do not come back at once
NEVER_S = 30.0


@pytest.fixture(autouse=True)
def hanging():
    """An event that calls hang on. When the test is over it is set, and then every thread must end."""
    event, before = threading.Event(), set(threading.enumerate())
    yield event
    event.set()
    assert_end(set(threading.enumerate()) - before)


def assert_end(threads):
    threads = list(threads)
    for thread in threads:
        thread.join(timeout=5)
    assert not [thread for thread in threads if thread.is_alive()]


def no_late(item):
    raise AssertionError(f"{item} was given up")


def start(function, items, *, ahead, limit_s=NEVER_S, late=no_late):
    return map_ahead(function, items, ahead=ahead, limit_s=limit_s, late=late)


class Counted:
    """Numbers from 0, and how many of them were taken."""

    def __init__(self, count=10**9):
        self.taken = 0
        self.count = count

    def __iter__(self):
        while self.taken < self.count:
            self.taken += 1
            yield self.taken - 1


@pytest.mark.parametrize("ahead", [1, 2, 3, 8])
def test_results_keep_their_order_whichever_call_ends_first(ahead):
    ended = [threading.Event() for _ in range(20)]
    order = []

    def call(item):
        if (item + 1) % ahead and item + 1 < len(ended):
            assert ended[item + 1].wait(NEVER_S)  # each call waits for the one after it
        order.append(item)
        ended[item].set()
        return item * 10

    assert list(start(call, range(20), ahead=ahead)) == [item * 10 for item in range(20)]
    assert (order == sorted(order)) is (ahead == 1)


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_that_many_calls_are_under_way_at_once_and_no_more(ahead):
    together, lock = threading.Barrier(ahead), threading.Lock()
    threads, now, most = set(), 0, 0

    def call(item):
        nonlocal now, most
        with lock:
            threads.add(threading.current_thread())
            now += 1
            most = max(most, now)
        together.wait(NEVER_S)  # nobody passes before all are here
        with lock:
            now -= 1
        return item

    assert list(start(call, range(ahead * 4), ahead=ahead)) == list(range(ahead * 4))
    assert most == ahead
    assert len(threads) == ahead  # they are used again


def test_there_are_no_more_threads_than_items():
    before = threading.active_count()
    results = start(lambda _: threading.active_count() - before, range(2), ahead=50)
    assert max(results) <= 2


@pytest.mark.parametrize("items", [[], range(0), iter(())])
def test_no_items(items):
    before = threading.active_count()
    assert list(start(no_late, items, ahead=3)) == []
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_items_are_taken_as_they_are_needed(ahead):
    items = Counted()
    results = start(lambda item: item, items, ahead=ahead)
    assert items.taken == 0
    for given in range(1, 20):
        assert next(results) == given - 1
        assert items.taken <= given + ahead
    results.close()
    assert items.taken <= 19 + ahead


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("stuck", [{0}, {1, 2, 3, 9}])
def test_a_call_that_hangs_is_replaced_and_the_others_go_on(stuck, ahead, hanging):
    def call(item):
        if item in stuck:
            hanging.wait()
        return item

    results = start(call, range(10), ahead=ahead, limit_s=LIMIT_S, late=lambda item: f"{item} is late")
    assert list(results) == [f"{item} is late" if item in stuck else item for item in range(10)]


def test_calls_that_hang_together_are_waited_for_together(hanging):
    began = time.monotonic()
    results = start(lambda _: hanging.wait(), range(6), ahead=6, limit_s=0.3, late=lambda item: -item)
    assert list(results) == [-item for item in range(6)]
    assert 0.3 <= time.monotonic() - began < 1.2  # and not 1.8


def test_while_a_call_hangs_the_others_are_made(hanging):
    others = threading.Semaphore(0)

    def call(item):
        if item == 0:
            hanging.wait()
        others.release()
        return item

    def late(item):
        return all(others.acquire(timeout=NEVER_S) for _ in range(2))

    assert list(start(call, range(3), ahead=3, limit_s=LIMIT_S, late=late)) == [True, 1, 2]


def test_a_result_that_came_in_time_is_kept_however_long_nobody_asks():
    came = threading.Semaphore(0)

    def call(item):
        came.release()
        return item

    results = start(call, range(3), ahead=2, limit_s=LIMIT_S)
    assert next(results) == 0
    assert all(came.acquire(timeout=NEVER_S) for _ in range(2))  # item 1 too
    time.sleep(LIMIT_S * 1.2)
    assert list(results) == [1, 2]


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("error", [TimeoutError("mine"), ValueError("mine"), MemoryError("mine"), SystemExit("mine")])
def test_what_a_call_raises_is_raised_here(error, ahead):
    def call(item):
        if item == 2:
            raise error
        return item

    results = start(call, range(9), ahead=ahead)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(type(error)) as raised:
        next(results)
    assert raised.value is error
    assert list(results) == []


def test_a_timeout_error_that_comes_while_it_is_waited_for_is_the_calls_own():
    def call(item):
        time.sleep(0.05)
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        next(start(call, [0], ahead=1))


def test_what_the_items_raise_is_raised_here_and_ends_the_threads():
    def items():
        yield from range(3)
        raise OSError("no more")

    results = start(lambda item: item, items(), ahead=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="no more"):
        list(results)


def use(threads):
    """A call that notes its thread."""

    def call(item):
        threads.add(threading.current_thread())
        return item

    return call


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_thread_is_left_at_the_end(ahead):
    threads = set()
    assert list(start(use(threads), range(30), ahead=ahead)) == list(range(30))
    assert threads
    assert_end(threads)


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("taken", [1, 6])
def test_stopping_early_ends_the_threads(taken, ahead):
    threads, items = set(), Counted()
    results = start(use(threads), items, ahead=ahead)
    for _ in range(taken):
        next(results)
    results.close()
    assert threads
    assert_end(threads)
    assert items.taken <= taken + ahead


def test_stopping_early_does_not_wait_for_a_call_that_hangs(hanging):
    results = start(lambda item: item and hanging.wait(), range(3), ahead=3)
    assert next(results) == 0
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 1


def test_a_call_that_hangs_does_not_keep_the_process():
    assert list(start(lambda _: threading.current_thread().daemon, range(4), ahead=2)) == [True] * 4


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError("after it was given up")])
def test_a_call_that_comes_back_after_it_was_given_up_does_no_harm(error, ahead):
    go_on, threads = threading.Event(), []

    def call(item):
        if item == 1:
            threads.append(threading.current_thread())
            go_on.wait()
            if error:
                raise error
        return item

    results = start(call, range(40), ahead=ahead, limit_s=LIMIT_S, late=lambda _: "late")
    assert [next(results), next(results)] == [0, "late"]
    go_on.set()
    assert list(results) == list(range(2, 40))
    assert_end(threads)
