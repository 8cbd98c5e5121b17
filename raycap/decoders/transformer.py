"""The Transformer decoder: each word looks back at the words before it, and at the regions of the photo.

Knows neither Ray nor where features come from.

Reference:
    Vaswani et al. 2017, arXiv:1706.03762, sections 3.1 to 3.5 (the decoder, its positions and its dropout); Xiong et
    al. 2020, arXiv:2002.04745, figure 1b (normalisation before each part of a block, and after the last block).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from raycap.config import ModelConfig
from raycap.decoders.normalization import Moments
from raycap.decoders.places import Places, pack
from raycap.decoders.regions import from_heads, see_regions, to_heads
from raycap.schema import PAD_ID

_PARTS = {
    *(f"{to}_{part}" for to in ("past", "photo") for part in ("norm", "query", "key", "value", "out", "dropout")),
    *("wide_norm", "wide", "wide_dropout", "narrow", "narrow_dropout"),
}
LAYERS = frozenset(
    {"region_dropout", "embedding", "word_dropout", "last_norm", "last_dropout", "next_word"}
    | {f"block_1_{part}" for part in _PARTS}
)
"""That a Transformer model has; it may have more blocks."""


def build(
    config: ModelConfig, *, vocab_size: int, feature_shape: tuple[int, ...], moments: Moments | None = None
) -> Any:
    """Return the Transformer decoder.

    Its inputs are `feature`, `(batch, num_regions, dim)` float32, and `tokens`, `(batch, length)` int32 padded on the
    right; its output is `(batch, length, vocab_size)` float32 logits: at each place, of the word that comes next. A
    padded place is the last word once more, so that the last place answers for the whole prefix.

    Args:
        config: dimensions and options.
        vocab_size: words, start, end and padding.
        feature_shape: `(num_regions, dim)`.
        moments: of the training features; for `standardize`.
    """
    ops = keras.ops
    feature = keras.Input(feature_shape, name="feature")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    layers = _layers(config, vocab_size)
    regions = see_regions(feature, config, moments)
    photo = [layers[name](regions) for name in _of_the_photo(config.num_layers)]

    places = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    last = ops.sum(ops.cast(ops.not_equal(tokens, PAD_ID), "int32"), axis=1, keepdims=True) - 1
    here = ops.minimum(places, ops.maximum(last, 0))
    before = ops.expand_dims(ops.expand_dims(here, 2) >= ops.expand_dims(places, 1), 1)  # (batch, 1, length, length)
    hidden = decode(
        layers.__getitem__,
        embed(layers.__getitem__, ops.take_along_axis(tokens, here, axis=1), here),
        photo,
        recall=lambda _, query, keys, values: ops.dot_product_attention(query, keys, values, mask=before),
        look=ops.dot_product_attention,
    )
    return keras.Model([feature, tokens], layers["next_word"](hidden), name="transformer_model")


def _of_the_photo(num_blocks: int) -> list[str]:
    """Return the names of the layers that make keys and values of regions, for each block."""
    return [f"block_{number}_photo_{part}" for number in range(1, num_blocks + 1) for part in ("key", "value")]


def _layers(config: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """Return the layers that see words, and those that make keys and values of regions, by name."""
    layers, units = keras.layers, config.units
    spread = keras.initializers.RandomNormal(stddev=units**-0.5)
    made = [
        layers.Embedding(vocab_size, units, embeddings_initializer=spread, name="embedding"),
        layers.Dropout(config.dropout, name="word_dropout"),
    ]
    for block in (f"block_{number}" for number in range(1, config.num_layers + 1)):
        for to in (f"{block}_past", f"{block}_photo"):
            made += [
                layers.LayerNormalization(name=f"{to}_norm"),
                *(to_heads(config, f"{to}_{part}") for part in ("query", "key", "value")),
                from_heads(config, f"{to}_out"),
                layers.Dropout(config.dropout, name=f"{to}_dropout"),
            ]
        made += [
            layers.LayerNormalization(name=f"{block}_wide_norm"),
            layers.Dense(4 * units, activation="relu", name=f"{block}_wide"),
            layers.Dropout(config.dropout, name=f"{block}_wide_dropout"),
            layers.Dense(units, name=f"{block}_narrow"),
            layers.Dropout(config.dropout, name=f"{block}_narrow_dropout"),
        ]
    made += [
        layers.LayerNormalization(name="last_norm"),
        layers.Dropout(config.dropout, name="last_dropout"),
        layers.Dense(vocab_size, name="next_word"),
    ]
    return {layer.name: layer for layer in made}


def embed(layer: Callable[[str], Any], tokens: Any, places: Any, *, training: bool | None = None) -> Any:
    """Return words with their positions, `(..., units)` float32.

    Positions are sines and cosines, which need no weights and know no greatest length.

    Args:
        layer: returns the model's layer of a name.
        tokens: `(...)` int32.
        places: `(...)` int32, from 0.
        training: with dropout.
    """
    words = layer("embedding")(tokens)
    units = words.shape[-1]
    numbers = np.arange(units)
    rates = (1e-4 ** (numbers // 2 * 2 / units)).astype(np.float32)
    phases = (numbers % 2 * np.pi / 2).astype(np.float32)
    angles = keras.ops.expand_dims(keras.ops.cast(places, "float32"), -1) * rates + phases
    return layer("word_dropout")(words * units**0.5 + keras.ops.sin(angles), training=training)


def decode(
    layer: Callable[[str], Any],
    words: Any,
    photo: Sequence[Any],
    *,
    recall: Callable[[int, Any, Any, Any], Any],
    look: Callable[[Any, Any, Any], Any],
    training: bool | None = None,
) -> Any:
    """Return what the layer over the vocabulary sees, `(batch, length, units)`: the blocks, however words are laid out.

    Args:
        layer: returns the model's layer of a name.
        words: `(batch, length, units)`, of `embed`.
        photo: keys of the regions for the first block, their values, keys for the second block, and so on.
        recall: takes a block's index, and query, keys and values of the words, `(batch, length, num_heads, depth)`
            each; returns what each word finds in the words up to itself, of that shape.
        look: takes the query, and a block's keys and values of the regions; returns what each word finds there.
        training: with dropout.
    """
    for index, (keys, values) in enumerate(zip(photo[::2], photo[1::2], strict=True)):
        block = f"block_{index + 1}"

        def part(name: str, inputs: Any, block: str = block) -> Any:
            return layer(f"{block}_{name}")(inputs)

        def add(name: str, found: Any, words: Any, block: str = block) -> Any:
            return words + layer(f"{block}_{name}_dropout")(found, training=training)

        each = part("past_norm", words)
        found = recall(index, *(part(f"past_{name}", each) for name in ("query", "key", "value")))
        words = add("past", part("past_out", found), words)
        found = look(part("photo_query", part("photo_norm", words)), keys, values)
        words = add("photo", part("photo_out", found), words)
        wide = layer(f"{block}_wide_dropout")(part("wide", part("wide_norm", words)), training=training)
        words = add("narrow", part("narrow", wide), words)
    return layer("last_dropout")(layer("last_norm")(words), training=training)


def photo_side(model: Any) -> Any:
    """Return the part of a Transformer model that sees no words: features to the `photo` of `decode`."""
    num_blocks = sum(layer.name.endswith("_photo_key") for layer in model.layers)
    return keras.Model(model.inputs[0], [model.get_layer(name).output for name in _of_the_photo(num_blocks)])


class TransformerForcing:
    """A Transformer model's layers, run over captions that are known; see `places.Forcing`."""

    def __init__(self, model: Any) -> None:
        """Take the layers of a Transformer model, which stay its own."""
        self._layer, self._photo_side = model.get_layer, photo_side(model)

    def __call__(self, features: Any, photos: Any, tokens: Any, targets: Any, *, training: bool) -> Places:
        """Return the words to predict; keys and values of a photo are worked out once for all its captions.

        Words are packed, and padded only where they look at each other and at the photo.
        """
        photo = self._photo_side(features, training=training)
        packed = pack(tokens, targets)

        def recall(_: int, *each: Any) -> Any:
            padded = packed.pad(tf.stack([part[0] for part in each], axis=1), tokens)
            query, keys, values = tf.unstack(padded, axis=2)
            return packed.take(keras.ops.dot_product_attention(query, keys, values, is_causal=True))[tf.newaxis]

        def look(query: Any, keys: Any, values: Any) -> Any:
            seen = keras.ops.dot_product_attention(
                packed.pad(query[0], tokens), tf.gather(keys, photos), tf.gather(values, photos)
            )
            return packed.take(seen)[tf.newaxis]

        words = embed(self._layer, packed.tokens, packed.places, training=training)[tf.newaxis]
        hidden = decode(self._layer, words, photo, recall=recall, look=look, training=training)
        return Places(hidden[0], packed.captions, packed.labels)
