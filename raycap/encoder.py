"""Photos to features: VGG16's fc2, any keras.applications model, or a saved one; knows neither Ray nor files' layout.

A feature is one vector of the whole photo, or spatial: one of each place of the encoder's last feature map.

Reference:
    Simonyan and Zisserman 2015, arXiv:1409.1556, table 1, column D (VGG16).
"""

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.encoder_card import EncoderCard
from raycap.errors import ImageShapeError, WeightsError
from raycap.feature_maps import last_map
from raycap.images import FAST_RESIZE, RESIZE
from raycap.input_sizes import input_size, is_file, is_saved
from raycap.locations import file_name
from raycap.saved_models import checked_copy
from raycap.storage import exists, read_bytes

_IN_MODEL = "in model"


@dataclass(frozen=True)
class Encoder:
    """A model that gives each photo a feature: one vector, or one of each region.

    Attributes:
        card: everything that decides what the feature is.
    """

    card: EncoderCard
    _compute: Callable[[Any], Any]

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the feature of each photo.

        Args:
            images: `(batch, height, width, 3)` uint8, RGB, 0 to 255.

        Returns:
            `(batch, *card.shape)` float32: `(batch, dim)`, or `(batch, num_regions, dim)` of a spatial encoder. Not
            normalised; non-negative for VGG16's fc2 and block5_pool (after ReLU).

        Raises:
            ImageShapeError: if `images` has another shape.
        """
        wanted = (self.card.height_px, self.card.width_px, 3)
        if images.ndim != 4 or images.shape[1:] != wanted or images.dtype != np.uint8:
            raise ImageShapeError(f"{self.card.name} takes (batch, {wanted}) uint8, not {images.shape} {images.dtype}")
        features: NDArray[np.float32] = self._compute(images).numpy()
        return features


def load_encoder(
    name: str,
    *,
    weights: str = "imagenet",
    seed: int = 0,
    exif_orientation: bool = False,
    fast_decode: bool = False,
    spatial: bool = False,
    precision: str = "float32",
) -> Encoder:
    """Return an encoder.

    Args:
        name: `vgg16` (fc2, 4,096 numbers), another keras.applications model in any case, or the location of a saved
            Keras model, `.keras`, that maps `(batch, height, width, 3)` RGB 0..255 to `(batch, dim)`.
        weights: `imagenet`, `random`, or the location of a weights file; unused for a saved model.
        seed: of random weights.
        exif_orientation: kept on the card; photos are turned when they are decoded.
        fast_decode: likewise.
        spatial: keep the last feature map: of VGG16 and VGG19 `block5_pool`, of another keras.applications model what
            it ends in without its top, of a saved model what its last `GlobalAveragePooling2D` averages.
        precision: `float32`, `bfloat16` or `float16`, that layers compute in; weights and features are float32.

    Raises:
        InputError: if there is no such model.
        WeightsError: if the weights cannot be had, or a saved model has other shapes or no feature map.
    """
    if is_saved(name):
        model, card = _load_saved(name, spatial=spatial)
        preprocess = None
    else:
        model, card, preprocess = _load_application(name, weights, seed, spatial=spatial)
    height, width = model.input_shape[1:3]
    *places, dim = model.output_shape[1:]
    shape = (math.prod(places), dim) if spatial else (dim,)
    fields = {"height_px": height, "width_px": width, "dim": dim, "num_regions": math.prod(places)}
    fields |= {
        "resize": FAST_RESIZE if fast_decode else RESIZE,
        "exif_orientation": exif_orientation,
        "weights_hash": hash_weights(model),
        "precision": precision,
    }
    if precision != "float32":
        _compute_in(model, keras.dtype_policies.DTypePolicy(f"mixed_{precision}"))

    def compute(images: Any) -> Any:
        pixels = tf.cast(images, tf.float32)
        features = model(pixels if preprocess is None else preprocess(pixels), training=False)
        return tf.reshape(tf.cast(features, tf.float32), (-1, *shape))

    signature = [tf.TensorSpec([None, height, width, 3], tf.uint8)]
    return Encoder(EncoderCard(**card, **fields), tf.function(compute, input_signature=signature))


def load_trainable(name: str, *, weights: str = "imagenet", seed: int = 0, spatial: bool = False) -> Any:
    """Return an encoder as one Keras model, with all that is done to pixels inside it.

    It maps `(batch, height, width, 3)` RGB 0..255 to `(batch, dim)`; saved, it is an encoder of its own. A spatial one
    ends in the mean of its last feature map.

    Args:
        name: see `load_encoder`; likewise what is raised.
        weights: likewise.
        seed: likewise.
        spatial: likewise.
    """
    if is_saved(name):
        model, _ = _load_saved(name, spatial=spatial)
        return _averaged(model) if spatial else model
    model, _, preprocess = _load_application(name, weights, seed, spatial=spatial)
    photo = keras.Input(model.input_shape[1:])
    whole = keras.Model(photo, model(preprocess(photo)), name=name.lower())
    return _averaged(whole) if spatial else whole


def _averaged(model: Any) -> Any:
    return keras.Model(model.inputs, keras.layers.GlobalAveragePooling2D()(model.output), name=model.name)


def reload_encoder(card: EncoderCard, *, file: str | None = None) -> Encoder:
    """Return the encoder that a card describes, checked against it.

    Args:
        card: kept beside features or in a bundle.
        file: where its saved model or weights file is now, if not where it was.

    Raises:
        WeightsError: if its weights cannot be had.
        EncoderMismatchError: if what is there now is another encoder.
    """
    options: dict[str, Any] = {
        "seed": card.seed,
        "exif_orientation": card.exif_orientation,
        "fast_decode": card.resize == FAST_RESIZE,
        "spatial": card.num_regions > 1,
        "precision": card.precision,
    }
    weights = file or card.weights
    if file is None and is_file(weights) and not exists(weights):
        raise WeightsError(f"the model's encoder is not at {weights} any more; say where it is with --encoder-file")
    if card.preprocessing == _IN_MODEL:
        encoder = load_encoder(weights, **options)
    else:
        encoder = load_encoder(card.name, weights=weights, **options)
    encoder.card.require_same(card, mine=f"the encoder in {weights}", others="the model's training features")
    return encoder


def _compute_in(model: Any, policy: Any) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _compute_in(layer, policy)
        else:
            layer.dtype_policy = policy


def hash_weights(model: Any) -> str:
    """Return the SHA-256 of a model's weights, in order, as hexadecimal."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _load_saved(location: str, *, spatial: bool) -> tuple[Any, dict[str, Any]]:
    input_size(location)  # a file that is no encoder ends here
    try:
        with checked_copy(location) as local:
            model = keras.models.load_model(local, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises all sorts on files that are not its own
        raise WeightsError(f"{location} cannot be loaded as a saved Keras model: {_first_line(error)}") from error
    card = {"name": Path(file_name(location)).stem, "weights": location, "seed": 0, "preprocessing": _IN_MODEL}
    if spatial:
        model, layer = _cut(model, location)
        return model, card | {"layer": layer}
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise WeightsError(f"{location} gives {model.output_shape}; an encoder gives (None, dim), one row a photo")
    return model, card | {"layer": "output"}


def _cut(model: Any, location: str) -> tuple[Any, str]:
    """Return a saved model up to its last feature map, and what that is called."""
    needed = "spatial features need a model whose last map is averaged by a GlobalAveragePooling2D layer"
    try:
        found = last_map(model)
    except Exception as error:  # Keras raises all sorts on models that it did not make itself
        raise WeightsError(f"{location} cannot be cut at its last feature map: {_first_line(error)}") from error
    if found is None:
        raise WeightsError(f"{location} has no feature map to keep; {needed}")
    cut, pooling = found
    shape = cut.output_shape
    if None in shape[1:] or math.prod(shape[1:3]) == 1:
        raise WeightsError(f"{location} averages {shape} in {pooling}; {needed}, of a fixed size above 1 x 1")
    return cut, f"input of {pooling}"


def _load_application(
    name: str, weights: str, seed: int, *, spatial: bool
) -> tuple[Any, dict[str, Any], Callable[[Any], Any]]:
    input_size(name)  # an unknown name ends here
    module, build = _find_application(name)
    is_vgg = build.__name__ in {"VGG16", "VGG19"}
    options: dict[str, Any] = {"include_top": True}  # for block5_pool too: the same file of weights is for both layers
    layer = "block5_pool" if spatial else "fc2"
    if not is_vgg:
        options = {"include_top": False, "pooling": None if spatial else "avg", "input_shape": (*input_size(name), 3)}
        layer = "feature_map" if spatial else "avg_pool"
    if is_file(weights) and not exists(weights):
        raise WeightsError(f"weights must be imagenet, random or a file; there is no {weights}")
    if weights == "random":
        keras.utils.set_random_seed(seed)
    try:
        model = build(weights="imagenet" if weights == "imagenet" else None, **options)
    except Exception as error:  # urllib's errors reach here wrapped in a bare Exception
        raise WeightsError(_how_to_get(build.__name__, error)) from error
    if is_file(weights):
        _load_weights(model, weights)
    if is_vgg:
        model = keras.Model(model.inputs, model.get_layer(layer).output)
    card = {"name": name.lower(), "weights": weights, "seed": seed if weights == "random" else 0, "layer": layer}
    return model, card | {"preprocessing": module.__name__.rsplit(".", 1)[-1]}, module.preprocess_input


def _find_application(name: str) -> tuple[ModuleType, Any]:
    """Return the keras.applications module and the builder of a model, by its name in any case."""
    builders = {each.lower(): builder for each, builder in vars(keras.applications).items() if callable(builder)}
    builder = builders[name.lower()]
    return import_module(builder.__module__), builder


def _load_weights(model: Any, location: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / file_name(location)
        local.write_bytes(read_bytes(location))
        try:
            model.load_weights(local)
        except Exception as error:  # h5py and Keras raise all sorts on files that are not weights
            raise WeightsError(f"{location} does not hold the weights of {model.name}: {_first_line(error)}") from error


def _how_to_get(name: str, error: Exception) -> str:
    url = re.search(r"https?://\S+/([\w.-]+\.h5)", str(error))
    if url is None:
        return f"the ImageNet weights of {name} cannot be had: {_first_line(error)}"
    folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    return (
        f"the ImageNet weights of {name} cannot be downloaded; on a machine with internet download {url.group(0)} and "
        f"put it in {folder}/{url.group(1)}, or name the file with --weights"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
