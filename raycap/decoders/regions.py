"""What decoders with attention make of a photo's regions before any word. Knows no decoder."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.config import ModelConfig
from raycap.decoders.normalization import Moments, normalize

_PHOTOS_A_CALL = 256


def see_regions(feature: Any, config: ModelConfig, moments: Moments | None) -> Any:
    """Return `(batch, num_regions, units)`, what attention looks at.

    Args:
        feature: `(batch, num_regions, dim)`, a symbolic tensor.
        config: dimensions and options.
        moments: of the training features; for `standardize`.
    """
    regions = normalize(feature, config, moments)
    regions = keras.layers.Dense(config.units, activation="relu", name="region_dense")(regions)
    regions = keras.layers.LayerNormalization(name="region_norm")(regions)
    return keras.layers.Dropout(config.dropout, name="region_dropout")(regions)


def to_heads(config: ModelConfig, name: str) -> Any:
    """Return a layer from `(batch, length, units)` to `(batch, length, num_heads, units / num_heads)`."""
    shape, units = (None, config.num_heads, config.units // config.num_heads), config.units
    return keras.layers.EinsumDense("btd,dhk->bthk", shape, bias_axes="hk", kernel_initializer=square(units), name=name)


def from_heads(config: ModelConfig, name: str) -> Any:
    """Return a layer from `(batch, length, num_heads, units / num_heads)` to `(batch, length, units)`."""
    shape, units = (None, config.units), config.units
    return keras.layers.EinsumDense("bthk,hkd->btd", shape, bias_axes="d", kernel_initializer=square(units), name=name)


def square(units: int) -> Any:
    """Return Glorot's initializer of a kernel from as many units to as many, one of them in two axes for the heads.

    Of such a kernel Keras would take a wrong number of inputs, and start it far too small. Each layer needs one of its
    own: an initializer gives the same numbers whenever it is called.
    """
    return keras.initializers.RandomUniform(-((3 / units) ** 0.5), (3 / units) ** 0.5)


def in_parts(photo_side: Callable[[Any], Any], features: NDArray[np.float32]) -> tuple[Any, ...]:
    """Return the tensors that `photo_side` makes of features, `(photos, ...)` each, of so many photos at a time."""
    starts = range(0, len(features), _PHOTOS_A_CALL)
    parts = [photo_side(features[i : i + _PHOTOS_A_CALL]) for i in starts]
    return tuple(tf.concat(each, axis=0) for each in zip(*parts, strict=True))


def look(query: Any, keys: Any, values: Any, rows: Any) -> Any:
    """Return what each hypothesis sees of the regions of its photo, `(rows, num_heads, depth)`.

    Hypotheses of one photo are laid side by side, so that its keys and values are read once for all of them: copied for
    each they are most of what a wide beam costs.

    Args:
        query: `(rows, num_heads, depth)`.
        keys: `(photos, num_regions, num_heads, depth)`.
        values: likewise.
        rows: `(rows,)` int64, the photo of each hypothesis.
    """
    order = tf.cast(tf.argsort(rows, stable=True), tf.int64)[:, tf.newaxis]
    photos = tf.gather(rows, order[:, 0])
    seen, place = tf.unique(photos, tf.int64)
    beside = tf.range(tf.shape(photos, tf.int64)[0]) - tf.searchsorted(photos, photos, out_type=tf.int64)
    width = tf.reduce_max(beside) + 1
    slots = (place * width + beside)[:, tf.newaxis]
    num_slots, shape = tf.size(seen, tf.int64) * width, tf.shape(query, tf.int64)
    laid = tf.scatter_nd(slots, tf.gather_nd(query, order), tf.concat([[num_slots], shape[1:]], axis=0))
    laid = tf.reshape(laid, tf.concat([[-1, width], shape[1:]], axis=0))
    found = keras.ops.dot_product_attention(laid, tf.gather(keys, seen), tf.gather(values, seen))
    found = tf.reshape(found, tf.concat([[-1], shape[1:]], axis=0))
    return tf.scatter_nd(order, tf.gather_nd(found, slots), shape)
