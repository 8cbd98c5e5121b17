"""What an encoder says of itself, kept with every feature it made; knows no framework."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, Self, get_args

from raycap.config import Precision
from raycap.errors import EncoderMismatchError, FormatError
from raycap.schema import FORMAT_VERSION, check_version

# fields that the first cards had not, and what all encoders then were
_LATER: Final = {"num_regions": 1, "precision": "float32"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """Everything that decides what feature a photo gets.

    Attributes:
        name: `vgg16`, another keras.applications name, or the stem of a saved model's file.
        weights: `imagenet`, `random`, or the location of the file they came from.
        seed: of random weights.
        weights_hash: SHA-256 over the weights, in order.
        layer: whose output is the feature.
        preprocessing: what is done to 0..255 RGB: a keras.applications module's way, or `in model`.
        height_px: of the photo that the encoder sees.
        width_px: likewise.
        resize: the filter that a photo is resized with, regardless of its aspect.
        exif_orientation: whether the photo was turned upright first.
        dim: numbers a vector.
        num_regions: vectors a photo, in rows from the top left; 1 is one feature of the whole photo.
        precision: what the encoder computes in.
    """

    name: str
    weights: str
    seed: int
    weights_hash: str
    layer: str
    preprocessing: str
    height_px: int
    width_px: int
    resize: str
    exif_orientation: bool
    dim: int
    num_regions: int = 1
    precision: str = "float32"
    format_version: int = FORMAT_VERSION

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a feature: `(dim,)`, or `(num_regions, dim)`."""
        return (self.dim,) if self.num_regions == 1 else (self.num_regions, self.dim)

    def to_fields(self) -> dict[str, Any]:
        """Return the card's fields, for `from_fields`; those of `_LATER` only where they are not what they were before.

        So older cards, and the hashes of such cards, are what they were.
        """
        return {name: value for name, value in dataclasses.asdict(self).items() if _LATER.get(name) != value}

    def to_json(self) -> str:
        """Return the card as JSON, for `from_json`."""
        return json.dumps(self.to_fields())

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Self:
        """Return the card that `to_json` wrote.

        Raises:
            FormatError: if it is no card, or a newer raycap's.
        """
        try:
            return cls.from_fields(json.loads(text), source=source)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{source} carries no encoder card: {error}") from error

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, source: str) -> Self:
        """Return the card whose fields were read from `source`.

        Raises:
            FormatError: if they are not a card's, or a newer raycap's.
        """
        try:
            check_version(fields["format_version"], source=source)
            card = cls(**fields)
            for field in dataclasses.fields(cls):
                value = getattr(card, field.name)
                if type(value) is not field.type:
                    raise TypeError(f"{field.name} is {value!r:.40}")
            if min(card.height_px, card.width_px, card.dim, card.num_regions) < 1:
                numbers = f"{card.num_regions} x {card.dim} numbers"
                raise TypeError(f"{card.height_px} x {card.width_px} photos to {numbers}")
            if card.precision not in get_args(Precision):
                raise TypeError(f"precision is {card.precision!r:.40}")
            return card
        except (KeyError, TypeError) as error:
            raise FormatError(f"{source} carries no encoder card: {error}") from error

    def require_same(self, other: "EncoderCard", *, mine: str, others: str) -> None:
        """Check that two encoders give every photo the same feature.

        Args:
            other: the card to compare with.
            mine: what this card belongs to, for the message.
            others: what the other belongs to.

        Raises:
            EncoderMismatchError: naming what differs.
        """
        where_from = {"weights", "format_version", "seed"}
        pairs = zip(dataclasses.asdict(self).items(), dataclasses.asdict(other).values(), strict=True)
        differing = [(name, a, b) for (name, a), b in pairs if a != b and name not in where_from]
        if differing:
            said = "; ".join(f"{name} {a!r} against {b!r}" for name, a, b in differing)
            raise EncoderMismatchError(
                f"{mine} and {others} come from different encoders ({said}); use the encoder of one for both"
            )
