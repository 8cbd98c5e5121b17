"""A Keras model cut before its last pooling, where each place of a photo still has a vector. Knows no encoder."""

import math
from typing import Any

import keras


def last_map(model: Any) -> tuple[Any, str] | None:
    """Return a model that shares a model's layers and ends in what its last `GlobalAveragePooling2D` averages.

    Models among its layers are looked into as well. A pooling after which there is a map again, as those inside
    squeeze-and-excitation blocks, is not the last.

    Args:
        model: a Functional or Sequential model with one input, as Keras loads it.

    Returns:
        The model, `(batch, rows, columns, dim)`, and the name of the pooling layer, with those of the models that it is
        in before it; None if there is no such layer.
    """
    for layer in reversed(model.layers):
        if isinstance(layer, keras.layers.GlobalAveragePooling2D):
            is_last = layer.data_format == "channels_last"
            return (keras.Model(model.inputs, layer.input), layer.name) if is_last else None
        found = last_map(layer) if isinstance(layer, keras.Model) else None
        if found is not None:
            return _ending_in(found[0], model, layer), f"{layer.name}/{found[1]}"
        if _is_map(layer):
            return None
    return None


def _is_map(layer: Any) -> bool:
    """Whether what a layer gives has places: of `(batch, 1, 1, dim)`, one vector a photo, there is nothing to tell."""
    shapes = [tensor.shape for tensor in keras.tree.flatten(layer.output)]
    return any(len(shape) == 4 and (None in shape[1:] or math.prod(shape[1:3]) > 1) for shape in shapes)


def _ending_in(cut: Any, outer: Any, inner: Any) -> Any:
    """Return `outer` up to its layer `inner`, a model, in whose place `cut` is the end."""
    if isinstance(outer, keras.Sequential):
        before = outer.layers[: outer.layers.index(inner)]
        return keras.Sequential([keras.Input(outer.input_shape[1:]), *before, cut])
    maps: list[Any] = []

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if layer is inner:
            maps.append(cut(*inputs))
        return layer(*inputs, **options)

    again = keras.models.clone_model(outer, clone_function=lambda layer: layer, call_function=call)
    return keras.Model(again.inputs, maps[0])
