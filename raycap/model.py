"""The merge model, and the bundle that it travels in; knows neither Ray nor where features come from.

Reference:
    Tanti, Gatt and Camilleri 2018, arXiv:1703.09137 (the merge architecture).
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from raycap.config import ModelConfig
from raycap.errors import FormatError
from raycap.locations import join
from raycap.model_card import CARD_FILE, MODEL_FILE, ModelCard, find_bundle, read_card
from raycap.saved_models import checked_copy
from raycap.storage import read_text, upload_folder, write_json
from raycap.text import TOKENIZER_FILE, Tokenizer

Moments = tuple[NDArray[np.float32], NDArray[np.float32]]


def build_model(config: ModelConfig, *, vocab_size: int, feature_dim: int, moments: Moments | None = None) -> Any:
    """Return the merge model in packed form.

    Its inputs are `feature`, `(batch, feature_dim)` float32, and `tokens`, `(batch, length)` int32 padded on the right;
    its output is `(batch, length, vocab_size)` float32 logits: at each place, of the word that comes next. As padding
    is masked, the last place answers for the whole prefix, whatever its length.

    Args:
        config: dimensions and options.
        vocab_size: words, start, end and padding.
        feature_dim: numbers a photo.
        moments: mean and variance of the training features, `(feature_dim,)` each; for `standardize`.
    """
    layers = keras.layers
    feature = keras.Input((feature_dim,), name="feature")
    tokens = keras.Input((None,), dtype="int32", name="tokens")

    photo = _normalize(feature, config, moments)
    photo = layers.Dropout(config.dropout, name="photo_dropout")(photo)
    photo = layers.Dense(config.units, activation="relu", name="photo_dense")(photo)

    words = layers.Embedding(vocab_size, config.embedding_dim, mask_zero=True, name="embedding")(tokens)
    words = layers.Dropout(config.dropout, name="word_dropout")(words)
    words = layers.LSTM(config.units, return_sequences=True, name="lstm")(words)

    photo = layers.Reshape((1, config.units), name="photo_at_each_place")(photo)
    if config.merge == "concat":  # adding zeros of the words' shape repeats the photo at each place
        photo = keras.ops.add(photo, keras.ops.zeros_like(words))
        merged = layers.Concatenate(name="merge")([photo, words])
    else:
        merged = layers.Add(name="merge")([photo, words])
    merged = layers.Dense(config.units, activation="relu", name="merged_dense")(merged)
    logits = layers.Dense(vocab_size, name="next_word")(merged)
    return keras.Model([feature, tokens], logits, name="merge_model")


def _normalize(feature: Any, config: ModelConfig, moments: Moments | None) -> Any:
    if config.normalization == "l2":
        return keras.layers.UnitNormalization(name="normalization")(feature)
    if config.normalization == "standardize":
        layer = keras.layers.Normalization(name="normalization")
        layer.build(feature.shape)
        if moments is not None:
            mean, variance = moments
            layer.adapt_mean.assign(mean)
            # A unit that hardly varies over train says little, and divided by nearly nothing it drowns the others: no
            # deviation counts for less than 0.3 of their root mean square.
            floor = 0.09 * float(np.mean(variance))
            layer.adapt_variance.assign(np.maximum(variance, floor) if floor > 0 else np.ones_like(variance))
            layer.finalize_state()
        return layer(feature)
    return feature


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that is needed to use it.

    Attributes:
        model: the merge model.
        tokenizer: its vocabulary.
        card: where it comes from.
    """

    model: Any
    tokenizer: Tokenizer
    card: ModelCard

    def save(self, location: str) -> None:
        """Write the bundle; the card goes last, and a bundle without one is not there yet."""
        with tempfile.TemporaryDirectory() as folder:
            self.model.save(Path(folder) / MODEL_FILE)
            (Path(folder) / TOKENIZER_FILE).write_text(self.tokenizer.to_json(), encoding="utf-8")
            upload_folder(Path(folder), location)
        write_json(join(location, CARD_FILE), dataclasses.asdict(self.card))

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
        return cls(model, tokenizer, card)


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
    needed = {"photo_dense", "embedding", "lstm", "merged_dense", "next_word"}
    shapes = [tuple(each.shape) for each in (*model.inputs, *model.outputs)]
    expected = [(None, card.encoder.dim), (None, None), (None, None, card.vocab_size)]
    if shapes != expected or tokenizer.vocab_size != card.vocab_size or needed - {each.name for each in model.layers}:
        raise FormatError(f"{source} is damaged: its model, tokenizer and card do not belong together")
