import math
import random
from itertools import pairwise

import numpy as np
import pytest

from raycap.batching import BatchSizer


class ResourceExhaustedError(RuntimeError):
    """Named like TensorFlow's."""


class Machine:
    """A model call with a clock of its own, that runs out of memory above `room` rows."""

    def __init__(self, seconds=lambda _: 1.0, *, room=math.inf, error=MemoryError):
        self.seconds = seconds
        self.room = room
        self.error = error
        self.now = 0.0
        self.sizes = []

    def clock(self):
        return self.now

    def __call__(self, rows):
        self.sizes.append(len(rows))
        if len(rows) > self.room:
            raise self.error(f"no room for {len(rows)}")
        self.now += self.seconds(len(rows))
        return [f"result of {row}" for row in rows]


def run(sizer, machine, num_rows):
    """Run rows through; return the sizes of the calls that were made."""
    made = len(machine.sizes)
    rows = np.random.default_rng(num_rows).permutation(num_rows)
    batches = list(sizer.run(machine, rows))
    assert [row for batch, _ in batches for row in batch] == rows.tolist()
    for batch, results in batches:
        assert results == [f"result of {row}" for row in batch]
    return machine.sizes[made:]


def test_it_doubles_for_as_long_as_that_gives_more_rows_a_second():
    machine = Machine(lambda _: 1.0)
    sizer = BatchSizer(clock=machine.clock)
    growth = [size for size in (16, 32, 64, 128, 256, 512) for _ in range(2)]
    assert run(sizer, machine, sum(growth) + 5 * 1024) == growth + [1024] * 5
    assert sizer.size == 1024


@pytest.mark.parametrize("best", [16, 32, 64, 256, 512])
def test_it_settles_at_the_best_size(best):
    machine = Machine(lambda size: max(size, best))  # beyond the best, twice the rows take twice as long
    sizer = BatchSizer(clock=machine.clock)
    sizes = run(sizer, machine, 20 * best)
    assert sizes[: sizes.index(2 * best)] == [2**n for n in range(4, best.bit_length()) for _ in range(2)]
    tried = sizes.index(2 * best) + 2
    assert set(sizes[tried:-1]) == {best}
    machine.seconds = lambda _: 1.0  # later calls change nothing
    assert set(run(sizer, machine, 20 * best)) == {best}


@pytest.mark.parametrize(("gain", "size"), [(0.5, 16), (1.0, 16), (1.04, 16), (1.06, 64), (2.0, 64)])
def test_a_gain_under_a_twentieth_is_not_worth_doubling_for(gain, size):
    machine = Machine({16: 1.0, 32: 2 / gain}.get)
    sizer = BatchSizer(clock=machine.clock)
    assert run(sizer, machine, 96) == [16, 16, 32, 32]
    assert sizer.size == size


@pytest.mark.parametrize("slow_call", [0, 1])
def test_the_better_of_two_calls_counts(slow_call):
    calls = []

    def seconds(size):
        calls.append(size)
        return max(size, 64) + (1000 if len(calls) % 2 == slow_call else 0)  # one of them compiles

    machine = Machine(seconds)
    sizer = BatchSizer(clock=machine.clock)
    assert run(sizer, machine, 600)[:8] == [16, 16, 32, 32, 64, 64, 128, 128]
    assert sizer.size == 64


def test_calls_that_take_no_time_by_the_clock():
    machine = Machine(lambda _: 0.0)
    sizer = BatchSizer(clock=machine.clock)
    run(sizer, machine, 10_000)
    assert sizer.size == 1024


@pytest.mark.parametrize("seconds_of_8", [1e-6, 1e6])
def test_it_learns_from_run_to_run_and_only_from_full_batches(seconds_of_8):
    machine = Machine({16: 1.0, 8: seconds_of_8, 24: 1.0}.get)
    sizer = BatchSizer(clock=machine.clock)
    assert [run(sizer, machine, 24) for _ in range(3)] == [[16, 8], [16, 8], [24]]
    assert sizer.size == 32


@pytest.mark.parametrize(
    ("fixed", "num_rows", "sizes"),
    [(1, 3, [1, 1, 1]), (7, 20, [7, 7, 6]), (7, 21, [7, 7, 7]), (50, 20, [20]), (2000, 5000, [2000, 2000, 1000])],
)
def test_a_fixed_size_stays(fixed, num_rows, sizes):
    machine = Machine(lambda _: 1.0)
    sizer = BatchSizer(fixed, clock=machine.clock)
    assert run(sizer, machine, num_rows) == sizes
    assert run(sizer, machine, 10 * fixed) == [fixed] * 10


@pytest.mark.parametrize("fixed", [None, 4])
def test_no_rows_no_call(fixed):
    machine = Machine()
    assert run(BatchSizer(fixed, clock=machine.clock), machine, 0) == []


def test_a_batch_is_handed_on_before_the_next_is_made():
    machine = Machine()
    for count, _ in enumerate(BatchSizer(3, clock=machine.clock).run(machine, np.arange(30)), start=1):
        assert len(machine.sizes) == count


@pytest.mark.parametrize("error", [MemoryError, ResourceExhaustedError, type("Subclass", (MemoryError,), {})])
def test_out_of_memory_halves_and_no_later_call_is_larger(error):
    machine = Machine(room=20, error=error)
    sizer = BatchSizer(100, clock=machine.clock)
    assert run(sizer, machine, 120) == [100, 50, 25] + [12] * 10
    machine.room = math.inf
    assert run(sizer, machine, 240) == [12] * 20


@pytest.mark.parametrize(("room", "sizes"), [(40, [16, 16, 32, 32, 64]), (31, [16, 16, 32]), (10, [16])])
def test_out_of_memory_ends_the_growth(room, sizes):
    machine = Machine(room=room, error=ResourceExhaustedError)  # more rows always pay
    sizer = BatchSizer(clock=machine.clock)
    size = sizes[-1] // 2
    ran = run(sizer, machine, sum(sizes[:-1]) + 6 * size)
    assert ran == sizes + [size] * 6
    machine.room = math.inf
    assert run(sizer, machine, 20 * size) == [size] * 20


def test_out_of_memory_in_a_last_batch_halves_that_batch():
    machine = Machine(room=4)
    sizer = BatchSizer(64, clock=machine.clock)
    assert run(sizer, machine, 10) == [10, 5, 2, 2, 2, 2, 2]
    assert run(sizer, machine, 7) == [2, 2, 2, 1]


@pytest.mark.parametrize("error", [MemoryError, ResourceExhaustedError])
@pytest.mark.parametrize(("fixed", "sizes"), [(None, [16, 8, 4, 2, 1]), (5, [5, 2, 1]), (1, [1])])
def test_no_room_for_one_row_is_an_error(fixed, sizes, error):
    machine = Machine(room=0, error=error)
    with pytest.raises(error, match="no room for 1"):
        run(BatchSizer(fixed, clock=machine.clock), machine, 30)
    assert machine.sizes == sizes


@pytest.mark.parametrize(
    "error", [ValueError, RuntimeError, KeyboardInterrupt, type("NotExhaustedError", (OSError,), {})]
)
def test_any_other_error_passes_through_and_changes_nothing(error):
    machine = Machine(room=10, error=error)
    sizer = BatchSizer(20, clock=machine.clock)
    with pytest.raises(error, match="no room for 20"):
        run(sizer, machine, 100)
    assert (machine.sizes, sizer.size) == ([20], 20)


@pytest.mark.parametrize("seed", range(60))
def test_every_row_comes_once_and_in_order_whatever_happens(seed):
    rng = random.Random(seed)
    chance = rng.choice([0.0, 0.05, 0.5])
    failed = []

    class Unreliable(Machine):
        def __call__(self, rows):
            if len(rows) > 1 and rng.random() < chance:
                failed.append(len(rows))
                self.sizes.append(len(rows))
                raise rng.choice([MemoryError, ResourceExhaustedError])
            assert not failed or len(rows) <= failed[-1] // 2
            return super().__call__(rows)

    machine = Unreliable(lambda size: rng.uniform(0.1, 1) * rng.choice([1, size]))
    sizer = BatchSizer(rng.choice([None, None, 1, 13, 400]), clock=machine.clock)
    for _ in range(8):
        run(sizer, machine, rng.choice([0, 1, 15, 16, 17, 100, 999]))  # it holds rows and results against each other
    assert all(after <= before // 2 for before, after in pairwise(failed))
