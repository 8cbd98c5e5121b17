"""Scores that others have published, to stand beside one's own; data only, knows nothing of how scores are computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """What one model scored.

    Attributes:
        name: the model, and what was different about its scoring.
        dataset: what it was trained and scored on.
        split: the part of it that was scored.
        protocol: that of `raycap.metrics.PROTOCOLS` whose scores can stand beside these.
        scores: by metric, under raycap's names; those that were published.
        source: author, year, title.
    """

    name: str
    dataset: str
    split: str
    protocol: str
    scores: Mapping[str, float]
    source: str


def _bleu(*scores: float) -> dict[str, float]:
    return {f"bleu_{order}": score for order, score in enumerate(scores, start=1)}


_MERGE: Final = "Tanti, Gatt and Camilleri 2018, Where to put the image in an image caption generator"
_TUTORIAL: Final = "Brownlee 2017, How to develop a deep learning photo caption generator from scratch"
_ATTENTION: Final = "Xu et al. 2015, Show, attend and tell"

PUBLISHED: Final[tuple[PublishedScore, ...]] = (
    PublishedScore(
        name="merge model, mean of three runs",
        dataset="Flickr8k",
        split="test",
        protocol="standard",
        scores=_bleu(0.600, 0.413, 0.273, 0.178) | {"meteor": 0.193, "rouge_l": 0.444, "cider_d": 0.469},
        source=_MERGE,
    ),
    PublishedScore(
        name="merge model, best of three runs",
        dataset="Flickr8k",
        split="test",
        protocol="standard",
        scores=_bleu(0.608, 0.419, 0.279, 0.183) | {"cider_d": 0.480},
        source=_MERGE,
    ),
    PublishedScore(
        name="merge model, its captions rescored",
        dataset="Flickr8k",
        split="test",
        protocol="tutorial",
        scores=_bleu(0.620, 0.395, 0.259, 0.164),
        source=_MERGE,
    ),
    PublishedScore(
        name="tutorial's merge model",
        dataset="Flickr8k",
        split="test",
        protocol="tutorial",
        scores=_bleu(0.579, 0.345, 0.252, 0.131),
        source=_TUTORIAL,
    ),
    PublishedScore(
        name="attention over VGG's spatial features (hard), BLEU without brevity penalty",
        dataset="Flickr8k",
        split="test",
        protocol="standard",
        scores=_bleu(0.67, 0.457, 0.314, 0.213),
        source=_ATTENTION,
    ),
)
"""Scores of models of raycap's class. CIDEr is the COCO toolkit's, which is CIDEr-D."""
