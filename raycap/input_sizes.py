"""The photo size that each encoder takes, told without importing TensorFlow."""

from typing import Any, Final

from raycap.errors import InputError, WeightsError
from raycap.locations import split_query
from raycap.saved_models import read_config
from raycap.storage import exists, read_bytes

SAVED_MODEL_SUFFIX: Final = ".keras"

_FAMILIES: Final[dict[int, str]] = {
    224: """vgg16 vgg19 resnet50 resnet101 resnet152 resnet50v2 resnet101v2 resnet152v2 mobilenet mobilenetv2
        mobilenetv3small mobilenetv3large densenet121 densenet169 densenet201 nasnetmobile efficientnetb0
        efficientnetv2b0 convnexttiny convnextsmall convnextbase convnextlarge convnextxlarge""",
    240: "efficientnetb1 efficientnetv2b1",
    260: "efficientnetb2 efficientnetv2b2",
    299: "xception inceptionv3 inceptionresnetv2",
    300: "efficientnetb3 efficientnetv2b3",
    331: "nasnetlarge",
    380: "efficientnetb4",
    384: "efficientnetv2s",
    456: "efficientnetb5",
    480: "efficientnetv2m efficientnetv2l",
    528: "efficientnetb6",
    600: "efficientnetb7",
}
APPLICATION_SIZES: Final[dict[str, int]] = {name: px for px, names in _FAMILIES.items() for name in names.split()}
"""Pixels a side of the photos that each keras.applications model was trained on, by its lower-case name."""


def is_file(weights: str) -> bool:
    """Whether weights are the location of a file, rather than `imagenet` or `random`."""
    return weights not in {"imagenet", "random"}


def is_saved(encoder: str) -> bool:
    """Whether an encoder is the location of a saved Keras model, rather than a keras.applications name."""
    return split_query(encoder)[0].endswith(SAVED_MODEL_SUFFIX)


def input_size(encoder: str) -> tuple[int, int]:
    """Return the height and width, in pixels, of the photos that an encoder takes.

    Args:
        encoder: a keras.applications name in any case, or the location of a saved Keras model.

    Raises:
        InputError: if there is no such encoder.
        WeightsError: if the file is not a saved Keras model with one photo as its input.
    """
    if is_saved(encoder):
        return _saved_input_size(encoder)
    if encoder.lower() not in APPLICATION_SIZES:
        known = ", ".join(sorted(APPLICATION_SIZES))
        raise InputError(
            f"there is no encoder {encoder!r}; give a saved model ({SAVED_MODEL_SUFFIX}) or one of {known}"
        )
    side = APPLICATION_SIZES[encoder.lower()]
    return side, side


def _saved_input_size(location: str) -> tuple[int, int]:
    if not exists(location):
        raise InputError(f"there is no saved model at {location}")
    try:
        config = read_config(read_bytes(location))
        layers = config["config"]["layers"]
        shapes = [layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{location} is not a saved Keras model: {error}") from error
    if len(shapes) != 1 or not _is_photo(shapes[0]):
        raise WeightsError(f"{location} takes {shapes}; an encoder takes one photo, (None, height, width, 3)")
    return shapes[0][1], shapes[0][2]


def _is_photo(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == 4
        and shape[3] == 3
        and all(isinstance(side, int) for side in shape[1:3])
    )
