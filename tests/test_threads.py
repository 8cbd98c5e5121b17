import numpy as np
import pytest

from raycap.threads import Threads


@pytest.mark.parametrize("num_rows", [0, 1, 63, 64, 1000])
def test_threads_take_every_row_once_and_in_order(num_rows):
    def work(rows):
        numbers = np.arange(num_rows)[rows]
        return numbers, -numbers

    numbers, negative = Threads(3).rows(work, num_rows)
    np.testing.assert_array_equal(numbers, np.arange(num_rows))
    np.testing.assert_array_equal(negative, -np.arange(num_rows))


def test_each_item_is_worked_on_once_and_in_order():
    assert Threads(2).each(lambda item: item * item, list(range(100))) == [item * item for item in range(100)]
    assert Threads(2).each(len, []) == []


def test_an_error_in_a_thread_is_raised():
    def work(rows):
        raise MemoryError

    with pytest.raises(MemoryError):
        Threads(2).rows(work, 1000)
