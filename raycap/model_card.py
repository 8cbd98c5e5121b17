"""What a bundle says of its model, and where a bundle is; knows no framework."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, Self

from raycap.config import DecodingConfig
from raycap.encoder_card import EncoderCard
from raycap.errors import FormatError, InputError
from raycap.locations import join
from raycap.schema import FORMAT_VERSION, check_version
from raycap.storage import exists, read_json
from raycap.text import TOKENIZER_FILE

BUNDLE_FOLDER: Final = "bundle"
CARD_FILE: Final = "card.json"
MODEL_FILE: Final = "model.keras"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a bundle says of its model.

    Attributes:
        encoder: what its features must come from.
        max_length: tokens of the longest training caption, start and end included.
        vocab_size: words, start, end and padding.
        training: the training configuration.
        metrics: of the epoch that was kept.
        versions: of the packages it was trained with.
    """

    encoder: EncoderCard
    max_length: int
    vocab_size: int
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    versions: Mapping[str, str]
    format_version: int = FORMAT_VERSION

    @property
    def has_neighbors(self) -> bool:
        """Whether the bundle holds the photos that the model was trained on."""
        return bool(self.training.get("keep_neighbors"))

    @property
    def has_matching(self) -> bool:
        """Whether the bundle holds what tells how well a caption matches a photo."""
        return bool(self.training.get("fit_matching"))

    def require_kept(self, decoding: DecodingConfig) -> None:
        """Check that the bundle holds what a search asks for.

        Raises:
            InputError: if it asks for neighbors or matching, and there are none.
        """
        if decoding.num_neighbors and not self.has_neighbors:
            raise InputError(
                "--num-neighbors needs the photos that the model was trained on, which its bundle does not hold; "
                "give --num-neighbors 0, or train with --keep-neighbors"
            )
        if decoding.matching and not self.has_matching:
            raise InputError(
                "--matching needs what tells how well a caption matches a photo, which the model's bundle does not "
                "hold; give --matching 0, or train with --fit-matching"
            )

    def to_fields(self) -> dict[str, Any]:
        """Return the card's fields, for `from_fields`; what an older raycap did not know only where it is not usual."""
        return {**dataclasses.asdict(self), "encoder": self.encoder.to_fields()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, source: str) -> Self:
        """Return the card whose fields were read from `source`.

        Raises:
            FormatError: if they are not a model card's, or a newer raycap's.
        """
        try:
            check_version(fields["format_version"], source=source)
            encoder = EncoderCard.from_fields(fields["encoder"], source=source)
            card = cls(**{**fields, "encoder": encoder})
            for name in ("max_length", "vocab_size"):
                if type(getattr(card, name)) is not int or getattr(card, name) < 1:
                    raise TypeError(f"{name} is {getattr(card, name)!r:.40}")
            if not isinstance(card.training, Mapping):
                raise TypeError(f"training is {card.training!r:.40}")
            return card
        except (KeyError, TypeError) as error:
            raise FormatError(f"{source} is not a model card: {error}") from error


def is_bundle(location: str) -> bool:
    """Whether all that a bundle cannot do without is at `location`."""
    return all(exists(join(location, name)) for name in (CARD_FILE, MODEL_FILE, TOKENIZER_FILE))


def find_bundle(location: str) -> str:
    """Return the bundle in train's `--out`, or `location` itself if it is one.

    Raises:
        InputError: if there is none.
    """
    for candidate in (join(location, BUNDLE_FOLDER), location):
        if exists(join(candidate, CARD_FILE)):
            return candidate
    raise InputError(
        f"there is no model in {location}; run raycap train first, or give the folder that holds card.json"
    )


def read_card(location: str) -> ModelCard:
    """Return the card of the bundle at `location`, without loading its model."""
    source = join(find_bundle(location), CARD_FILE)
    fields = read_json(source)
    if not isinstance(fields, dict):
        raise FormatError(f"{source} is not a model card: {json.dumps(fields)[:40]}")
    return ModelCard.from_fields(fields, source=source)
