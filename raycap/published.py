"""Scores that others published, each with its protocol and source; knows nothing of how scores are computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """Scores of one published model.

    Attributes:
        name: what the model is called.
        dataset: whose photos were captioned.
        split: of that dataset.
        protocol: of `raycap.metrics.PROTOCOLS`, under which ours may stand beside these.
        scores: by metric.
        source: where they were published.
    """

    name: str
    dataset: str
    split: str
    protocol: str
    scores: Mapping[str, float]
    source: str


PUBLISHED: Final = (
    PublishedScore(
        name="merge model",
        dataset="Flickr8k",
        split="test",
        protocol="standard",
        scores={
            "bleu_1": 0.600,
            "bleu_2": 0.413,
            "bleu_3": 0.273,
            "bleu_4": 0.178,
            "meteor": 0.193,
            "rouge_l": 0.444,
            "cider_d": 0.469,
        },
        source="Tanti et al. 2018, arXiv:1703.09137, mean of three runs",
    ),
    PublishedScore(
        name="Keras tutorial",
        dataset="Flickr8k",
        split="test",
        protocol="tutorial",
        scores={"bleu_1": 0.579, "bleu_2": 0.345, "bleu_3": 0.252, "bleu_4": 0.131},
        source="the tutorial's own figures",
    ),
)
"""What a score of ours may be compared with, where split and protocol are the same."""
