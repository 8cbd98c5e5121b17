import math

import numpy as np
import pytest

from raycap.consensus import by_consensus, likeness
from raycap.decoding import Hypothesis

MAN, DOG, RUNS, JUMPS, ON, GRASS = range(1, 7)


def test_equal_captions_are_wholly_alike_and_different_ones_not_at_all() -> None:
    found = likeness([(MAN, RUNS), (MAN, RUNS), (DOG,), (DOG, JUMPS, ON, GRASS, RUNS)])
    assert np.diag(found) == pytest.approx(np.ones(4))
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == 0
    assert np.array_equal(found, found.T)


def test_likeness_by_hand() -> None:
    length = math.exp(-1 / 72)
    one_word, pairs = 2 / math.sqrt(2 * 3), 1 / math.sqrt(1 * 2)
    found = likeness([(DOG, RUNS), (DOG, RUNS, ON)])
    assert found[0, 1] == pytest.approx((one_word + pairs) / 2 * length)
    assert likeness([(DOG, DOG), (DOG, RUNS)])[0, 1] == pytest.approx(1 / math.sqrt(2) / 2)


def test_a_caption_of_no_words_is_like_none() -> None:
    assert likeness([(), (DOG,)])[0, 1] == 0
    assert by_consensus([], 1.0) == []


def hypotheses(*log_probs: float) -> list[Hypothesis]:
    said = [(MAN, JUMPS), (DOG, RUNS, ON, GRASS), (DOG, RUNS, ON), (DOG, RUNS)]
    return [Hypothesis(tokens, log_prob, True) for tokens, log_prob in zip(said, log_probs, strict=True)]


def test_the_caption_that_the_others_agree_with_comes_first() -> None:
    found = by_consensus(hypotheses(-1.0, -1.1, -1.1, -1.1), 0.4)
    assert found[0].tokens == (DOG, RUNS, ON)
    assert found[-1].tokens == (MAN, JUMPS)
    assert sorted(found) == sorted(hypotheses(-1.0, -1.1, -1.1, -1.1))


def test_one_far_more_probable_outweighs_them() -> None:
    assert by_consensus(hypotheses(-1.0, -9.0, -9.0, -9.0), 1.0)[0].tokens == (MAN, JUMPS)
    assert by_consensus(hypotheses(-1.0, -9.0, -9.0, -9.0), 0.0)[0].tokens == (DOG, RUNS, ON)


def test_what_else_there_is_to_say_is_added() -> None:
    alike = hypotheses(-1.0, -1.1, -1.1, -1.1)
    assert by_consensus(alike, 0.4, more=np.array([2.0, 0.0, 0.0, 0.0]))[0].tokens == (MAN, JUMPS)
    assert by_consensus(alike, 0.4, more=np.array([0.1, 0.0, 0.0, 0.0])) == by_consensus(alike, 0.4)


def test_what_others_say_counts_four_times_as_much_as_the_hypotheses() -> None:
    alike = hypotheses(-1.0, -1.1, -1.1, -1.1)
    assert by_consensus(alike, 0.4, [(MAN, JUMPS), (MAN, JUMPS)])[0].tokens == (MAN, JUMPS)
    assert by_consensus(alike, 0.4, [(GRASS, RUNS, MAN)] + [(DOG, RUNS)] * 2)[0].tokens == (DOG, RUNS)
    # each kind by its mean: the best of two, and the worst
    said = [each.tokens for each in alike]
    others = [(DOG,), (MAN, RUNS, ON, GRASS)]
    weights = np.exp(0.4 * (np.array([-1.0, -1.1, -1.1, -1.1]) + 1.0))
    found = likeness([*said, *others])[:4]
    scores = found[:, :4] @ weights / weights.sum() + 4 * found[:, 4:].mean(axis=1)
    assert [each.tokens for each in by_consensus(alike, 0.4, others)] == [said[row] for row in np.argsort(-scores)]
