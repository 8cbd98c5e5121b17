"""How sure scores are: photos drawn again and again from those scored. Knows what scores are made of, not captions.

References:
    Efron 1979, Bootstrap methods: another look at the jackknife.
    Koehn 2004, Statistical significance tests for machine translation evaluation.
    Davison and Hinkley 1997, Bootstrap methods and their application (why 1 is added to what p counts).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raycap.metrics import Statistics

RESAMPLES: Final = 1000
"""How often photos are drawn."""

_TAILS = (2.5, 97.5)  # per cent, outside of a 95% interval
_DRAWS_AT_ONCE = 2**22  # photos; what is held in memory is 8 bytes each, twice


@dataclass(frozen=True)
class Difference:
    """What one run scores more than another on the same photos.

    Attributes:
        difference: the score less the other's.
        low: lower end of the 95% interval.
        high: its upper end.
        p: twice the share of resamples in which the difference is zero or has the other sign; never 0.
    """

    difference: float
    low: float
    high: float
    p: float


def intervals(statistics: Statistics, *, seed: int) -> dict[str, list[float]]:
    """Return the 95% interval of each metric: the middle of what resamples of the photos score.

    CIDEr-D's weights of n-grams stay those of all the photos.

    Args:
        statistics: of one photo or more.
        seed: of the draws; the same seed draws the same photos for every protocol.
    """
    drawn = _resampled(statistics, seed=seed)
    return {name: [float(end) for end in np.percentile(scores, _TAILS)] for name, scores in drawn.items()}


def compare(mine: Statistics, other: Statistics, *, seed: int) -> dict[str, Difference]:
    """Return by how much each metric differs, in a paired bootstrap: both runs are scored on the same drawn photos.

    Args:
        mine: of one photo or more.
        other: of the same photos, in the same order.
        seed: of the draws.
    """
    mine_drawn, other_drawn = _resampled(mine, seed=seed), _resampled(other, seed=seed)
    mine_scores, other_scores = mine.scores(), other.scores()
    return {
        name: _difference(float(mine_scores[name] - other_scores[name]), mine_drawn[name] - other_drawn[name])
        for name in mine_scores
        if name in other_scores
    }


def _difference(difference: float, drawn: NDArray[np.float64]) -> Difference:
    low, high = np.percentile(drawn, _TAILS)
    flips = np.count_nonzero(drawn * np.sign(difference) <= 0)
    return Difference(difference, float(low), float(high), min(1.0, 2 * float(flips + 1) / (len(drawn) + 1)))


def _resampled(statistics: Statistics, *, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return what each metric is in each resample, `(1000,)`."""
    num_photos = len(statistics.tables["bleu"])
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // num_photos)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn = rng.integers(num_photos, size=(count, num_photos)) + num_photos * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * num_photos).reshape(count, num_photos)
        parts.append(statistics.scores(weights.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
