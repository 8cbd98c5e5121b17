"""A trained model in the bundle that it travels in; knows neither Ray nor where features come from."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import keras

from raycap.decoders import decoder_of
from raycap.errors import FormatError
from raycap.locations import join
from raycap.matching import MATCHING_FILE, Matching
from raycap.model_card import CARD_FILE, MODEL_FILE, ModelCard, find_bundle, read_card
from raycap.neighbors import NEIGHBORS_FILE, Neighbors
from raycap.saved_models import checked_copy
from raycap.storage import read_text, upload_folder, write_json
from raycap.text import TOKENIZER_FILE, Tokenizer


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that is needed to use it.

    Attributes:
        model: photo features and words so far to the next word; see `raycap.decoders`.
        tokenizer: its vocabulary.
        card: where it comes from.
        neighbors: the photos that it was trained on, if they were kept.
        matching: what tells how well a caption matches a photo, if it was found out.
    """

    model: Any
    tokenizer: Tokenizer
    card: ModelCard
    neighbors: Neighbors | None = None
    matching: Matching | None = None

    def save(self, location: str) -> None:
        """Write the bundle; the card goes last, and a bundle without one is not there yet."""
        with tempfile.TemporaryDirectory() as folder:
            self.model.save(Path(folder) / MODEL_FILE)
            (Path(folder) / TOKENIZER_FILE).write_text(self.tokenizer.to_json(), encoding="utf-8")
            if self.neighbors is not None:
                self.neighbors.save(str(Path(folder) / NEIGHBORS_FILE), self.tokenizer)
            if self.matching is not None:
                self.matching.save(str(Path(folder) / MATCHING_FILE))
            upload_folder(Path(folder), location)
        write_json(join(location, CARD_FILE), self.card.to_fields())

    @classmethod
    def load(cls, location: str) -> Self:
        """Load a bundle.

        Args:
            location: train's `--out`, or the bundle itself.

        Raises:
            InputError: if there is no bundle.
            FormatError: if it is damaged, or a newer raycap's.
        """
        location = find_bundle(location)
        card = read_card(location)
        tokenizer = _load_tokenizer(join(location, TOKENIZER_FILE))
        try:
            with checked_copy(join(location, MODEL_FILE)) as local:
                model = keras.models.load_model(local, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises all sorts on files that are not its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FormatError(f"{join(location, MODEL_FILE)} cannot be loaded: {reason:.300}") from error
        _check_fit(model, tokenizer, card, source=location)
        neighbors, matching = None, None
        if card.has_neighbors:
            neighbors = Neighbors.load(join(location, NEIGHBORS_FILE), tokenizer, dim=card.encoder.dim)
        if card.has_matching:
            size = {"dim": card.encoder.dim, "vocab_size": card.vocab_size}
            matching = Matching.load(join(location, MATCHING_FILE), **size)
        return cls(model, tokenizer, card, neighbors, matching)


def _load_tokenizer(location: str) -> Tokenizer:
    try:
        text = read_text(location)
    except OSError as error:
        raise FormatError(f"{location} cannot be read: {error}") from error
    return Tokenizer.from_json(text, source=location)


def _check_fit(model: Any, tokenizer: Tokenizer, card: ModelCard, *, source: str) -> None:
    """Check that the parts of a bundle belong together, so that captioning does not fail in the middle of it.

    Raises:
        FormatError: if they do not.
    """
    shapes = [tuple(each.shape) for each in (*model.inputs, *model.outputs)]
    expected = [(None, *card.encoder.shape), (None, None), (None, None, card.vocab_size)]
    if shapes != expected or tokenizer.vocab_size != card.vocab_size:
        raise FormatError(f"{source} is damaged: its model, tokenizer and card do not belong together")
    try:
        decoder_of(model)
    except FormatError as error:
        raise FormatError(f"{source} is damaged: {error}") from None
