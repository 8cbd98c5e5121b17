"""Intervals and paired comparisons."""

import numpy as np
import pytest
from caption_cases import drawn_captions, measured

from raycap import bootstrap
from raycap.bootstrap import RESAMPLES, compare, intervals
from raycap.metrics import PROTOCOLS, Statistics


def learnt_captions(count, *, seed):
    """Captions of which half are what a person said, so that no score is nothing."""
    hypotheses, references = drawn_captions(count, seed=seed)
    hypotheses[::2] = [some[0] for some in references[::2]]
    return hypotheses, references


def with_means(scores: np.ndarray) -> Statistics:
    """Statistics whose ROUGE-L are given."""
    rows = np.stack([scores, np.ones_like(scores)], axis=1)
    return Statistics(PROTOCOLS["standard"], {"bleu": np.ones((len(scores), 10)), "rouge_l": rows, "cider_d": rows})


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_interval_holds_its_score(protocol, seed):
    statistics = measured(*learnt_captions(200, seed=seed), protocol)
    found = intervals(statistics, seed=seed)
    assert found.keys() == statistics.scores().keys()
    for name, (low, high) in found.items():
        assert low <= statistics.scores()[name] <= high, name
        assert low < high
    assert intervals(statistics, seed=seed) == found
    assert intervals(statistics, seed=seed + 1) != found


def test_an_interval_is_as_wide_as_theory_has_it():
    scores = np.random.default_rng(0).normal(0.4, 0.2, 900)
    low, high = intervals(with_means(scores), seed=0)["rouge_l"]
    error = scores.std() / np.sqrt(len(scores))
    assert (low, high) == pytest.approx((scores.mean() - 1.96 * error, scores.mean() + 1.96 * error), abs=0.15 * error)


def test_one_photo_has_no_width():
    [low, high] = intervals(with_means(np.array([0.25])), seed=0)["rouge_l"]
    assert low == high == 0.25


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch):
    statistics = measured(*drawn_captions(30, seed=0), PROTOCOLS["standard"])
    at_once = intervals(statistics, seed=3)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 70)
    for name, ends in intervals(statistics, seed=3).items():
        assert ends == pytest.approx(at_once[name])


def test_a_run_does_not_differ_from_itself():
    statistics = measured(*drawn_captions(50, seed=0), PROTOCOLS["standard"])
    for each in compare(statistics, statistics, seed=0).values():
        assert (each.difference, each.low, each.high, each.p) == (0, 0, 0, 1)


def test_a_small_difference_that_all_photos_share_is_sure():
    """Unpaired, a hundredth would be lost in a spread of .2."""
    scores = np.random.default_rng(0).normal(0.4, 0.2, 300)
    better, worse = with_means(scores + 0.01), with_means(scores)
    found = compare(better, worse, seed=0)["rouge_l"]
    assert (found.difference, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert found.p == pytest.approx(2 / (RESAMPLES + 1))
    turned = compare(worse, better, seed=0)["rouge_l"]
    assert (turned.difference, turned.p) == (pytest.approx(-0.01), found.p)


def test_noise_is_not_sure():
    rng = np.random.default_rng(1)
    scores, noise = rng.normal(0.4, 0.1, 400), rng.normal(0, 0.1, 400)
    found = compare(with_means(scores + noise - noise.mean() + 0.001), with_means(scores), seed=0)["rouge_l"]
    assert found.low < 0 < found.high
    assert found.p > 0.5


def test_p_is_what_the_normal_distribution_says():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1, 1000)
    noise = (noise - noise.mean()) / noise.std() + 1.96 / np.sqrt(1000)  # z is 1.96
    found = compare(with_means(noise), with_means(np.zeros(1000)), seed=0)["cider_d"]
    assert found.p == pytest.approx(0.05, abs=0.03)


def test_metrics_that_one_run_lacks_are_left_out():
    one = measured(*drawn_captions(10, seed=0), PROTOCOLS["standard"])
    other = Statistics(one.protocol, one.tables | {"meteor": np.ones((10, 23))})
    assert "meteor" not in compare(other, one, seed=0).keys() | compare(one, other, seed=0).keys()
