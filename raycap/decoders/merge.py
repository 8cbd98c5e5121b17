"""The merge model: photo and words meet after the LSTM, which never sees the photo.

Knows neither Ray nor where features come from.

Reference:
    Tanti, Gatt and Camilleri 2018, arXiv:1703.09137 (the merge architecture).
"""

from typing import Any

import keras

from raycap.config import ModelConfig
from raycap.decoders.normalization import Moments, normalize

LAYERS = frozenset({"photo_dense", "embedding", "lstm", "merged_dense", "next_word"})
"""That a merge model has."""


def build(
    config: ModelConfig, *, vocab_size: int, feature_shape: tuple[int, ...], moments: Moments | None = None
) -> Any:
    """Return the merge model in packed form.

    Its inputs are `feature`, `(batch, *feature_shape)` float32, of which regions are averaged, and `tokens`,
    `(batch, length)` int32 padded on the right; its output is `(batch, length, vocab_size)` float32 logits: at each
    place, of the word that comes next. As padding is masked, the last place answers for the whole prefix, whatever its
    length.

    Args:
        config: dimensions and options.
        vocab_size: words, start, end and padding.
        feature_shape: `(dim,)` or `(num_regions, dim)`.
        moments: of the training features; for `standardize`.
    """
    layers = keras.layers
    feature = keras.Input(feature_shape, name="feature")
    tokens = keras.Input((None,), dtype="int32", name="tokens")

    photo = feature if len(feature_shape) == 1 else layers.GlobalAveragePooling1D(name="whole_photo")(feature)
    photo = normalize(photo, config, moments)
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
