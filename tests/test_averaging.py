"""A moving average of weights, over variables that are arrays."""

import numpy as np
import pytest

from raycap.averaging import WeightAverage


class Variable(np.ndarray):
    """An array that is assigned to as Keras' variables are."""

    def assign(self, value):
        self[...] = value


def variable(*values):
    return np.array(values, np.float32).view(Variable)


def test_the_average_is_held_for_as_long_as_it_is_asked_for():
    weights = [variable(1.0, 2.0)]
    average = WeightAverage(weights, 0.5)
    average.update()  # of one step it is the weights
    weights[0].assign([3.0, 0.0])
    average.update()  # the second step's decay is (1 + 2) / (10 + 2)
    with average.held():
        assert list(weights[0]) == pytest.approx([1 + 0.75 * 2, 2 - 0.75 * 2])
    assert list(weights[0]) == [3.0, 0.0]


def test_the_weights_come_back_after_an_error():
    weights = [variable(1.0)]
    average = WeightAverage(weights, 0.5)
    average.update()
    weights[0].assign([5.0])
    with pytest.raises(ZeroDivisionError), average.held():
        weights[0] /= 1 // 0
    assert list(weights[0]) == [5.0]


def test_in_the_end_the_decay_is_what_was_asked_for():
    weights = [variable(0.0)]
    average = WeightAverage(weights, 0.9)
    for _ in range(200):
        average.update()
    weights[0].assign([1.0])
    average.update()
    with average.held():
        assert list(weights[0]) == pytest.approx([0.1])


def test_without_a_decay_the_weights_stand_for_themselves():
    weights = [variable(1.0)]
    average = WeightAverage(weights, 0.0)
    average.update()
    weights[0].assign([2.0])
    with average.held():
        assert list(weights[0]) == [2.0]
    assert len(average.to_arrays()) == 1


def test_going_on_from_arrays():
    weights = [variable(1.0)]
    one, other = WeightAverage(weights, 0.5), WeightAverage(weights, 0.5)
    one.update()
    other.from_arrays(one.to_arrays())
    weights[0].assign([2.0])
    for average in (one, other):
        average.update()
    np.testing.assert_array_equal(one.to_arrays()[1], other.to_arrays()[1])
