"""The attention decoder: after each word it looks at the regions of the photo. Knows neither Ray nor features' source.

Reference:
    Lu, Xiong, Parikh and Socher 2017, arXiv:1612.01887, section 2.2 (attention from the LSTM's new state; ours has
    several heads, and no sentinel).
"""

from typing import Any

import keras
import tensorflow as tf

from raycap.config import ModelConfig
from raycap.decoders.normalization import Moments
from raycap.decoders.packed_lstm import packed_lstm
from raycap.decoders.places import Places, pack
from raycap.decoders.regions import see_regions, to_heads
from raycap.schema import PAD_ID

LAYERS = frozenset(
    {"region_dropout", "photo", "embedding", "word_dropout", "lstm", "lstm_dropout", "merged_dense", "next_word"}
    | {f"attention_{name}" for name in ("query", "key", "value")}
)
"""That an attention model has."""


def build(
    config: ModelConfig, *, vocab_size: int, feature_shape: tuple[int, ...], moments: Moments | None = None
) -> Any:
    """Return the attention decoder.

    Its inputs are `feature`, `(batch, num_regions, dim)` float32, and `tokens`, `(batch, length)` int32 padded on the
    right; its output is `(batch, length, vocab_size)` float32 logits: at each place, of the word that comes next.

    Args:
        config: dimensions and options.
        vocab_size: words, start, end and padding.
        feature_shape: `(num_regions, dim)`.
        moments: of the training features; for `standardize`.

    """
    layers = keras.layers
    feature = keras.Input(feature_shape, name="feature")
    tokens = keras.Input((None,), dtype="int32", name="tokens")

    regions = see_regions(feature, config, moments)
    photo = layers.GlobalAveragePooling1D(name="photo")(regions)
    keys, values = (to_heads(config, f"attention_{name}")(regions) for name in ("key", "value"))

    words = layers.Embedding(vocab_size, config.embedding_dim, mask_zero=True, name="embedding")(tokens)
    words = layers.Dropout(config.dropout, name="word_dropout")(words)
    words = layers.Concatenate(name="words_and_photo")([words, _at_each_place(photo, words)])
    # the mask is given, as Keras loses it on the way; with it the last place answers for the whole prefix
    present = keras.ops.not_equal(tokens, PAD_ID)
    words = layers.LSTM(config.units, return_sequences=True, name="lstm")(words, mask=present)
    words = layers.Dropout(config.dropout, name="lstm_dropout")(words)

    seen = keras.ops.dot_product_attention(to_heads(config, "attention_query")(words), keys, values)
    seen = layers.Reshape((-1, config.units), name="seen")(seen)
    merged = layers.Concatenate(name="merge")([words, seen, _at_each_place(photo, words)])
    merged = layers.Dense(config.units, activation="tanh", name="merged_dense")(merged)
    merged = layers.LayerNormalization(name="merged_norm")(merged)
    merged = layers.Dropout(config.dropout, name="merged_dropout")(merged)
    logits = layers.Dense(vocab_size, name="next_word")(merged)
    return keras.Model([feature, tokens], logits, name="attention_model")


def _at_each_place(photo: Any, words: Any) -> Any:
    """Repeat `(batch, units)` at each place of `(batch, length, anything)`."""
    places = keras.ops.zeros_like(words[:, :, :1])
    return keras.ops.add(keras.ops.expand_dims(photo, 1), places)


def photo_side(model: Any) -> Any:
    """Return the part of an attention model that sees no words: features to photo, keys and values."""
    outputs = [model.get_layer(name).output for name in ("photo", "attention_key", "attention_value")]
    return keras.Model(model.inputs[0], outputs)


class AttentionForcing:
    """An attention model's layers, run over captions that are known; see `places.Forcing`."""

    def __init__(self, model: Any) -> None:
        """Take the layers of an attention model, which stay its own."""
        layer = model.get_layer
        self._photo_side = photo_side(model)
        self._embedding, self._lstm, self._query = layer("embedding"), layer("lstm"), layer("attention_query")
        self._word_dropout, self._lstm_dropout = layer("word_dropout"), layer("lstm_dropout")
        self._after = [layer(name) for name in ("merged_dense", "merged_norm", "merged_dropout")]

    def __call__(self, features: Any, photos: Any, tokens: Any, targets: Any, *, training: bool) -> Places:
        """Return the words to predict; the photo's part is worked out once for all its captions."""
        photo, keys, values = self._photo_side(features, training=training)
        packed = pack(tokens, targets)
        embedded = self._word_dropout(self._embedding(packed.tokens), training=training)
        cell = self._lstm.cell
        words_part, photo_part = tf.split(cell.kernel, [embedded.shape[1], photo.shape[1]])
        mine = tf.gather(photos, packed.captions)  # the photo of each word
        gates = tf.matmul(embedded, words_part) + tf.gather(tf.matmul(photo, photo_part) + cell.bias, mine)
        words = packed_lstm(gates, tf.convert_to_tensor(cell.recurrent_kernel), packed.counts)
        words = self._lstm_dropout(words, training=training)

        query = packed.pad(self._query(words[tf.newaxis])[0], tokens)
        seen = keras.ops.dot_product_attention(query, tf.gather(keys, photos), tf.gather(values, photos))
        seen = tf.reshape(packed.take(seen), tf.shape(words))
        merged = tf.concat([words, seen, tf.gather(photo, mine)], axis=1)
        for each in self._after:
            merged = each(merged, training=training)
        return Places(merged, packed.captions, packed.labels)
