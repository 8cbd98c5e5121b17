"""Photos as a caller in Python gives them: a path, bytes, what Pillow opened, or an array."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raycap.config import LimitsConfig
from raycap.errors import ImageError, ImageShapeError
from raycap.locations import absolute, as_utf8, file_name
from raycap.photo_reader import Address, read_photos

Photo: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path or URI, the bytes of a file, what Pillow opened, or an array of uint8: `(height, width)` is grey, with a third
dimension of 3 it is RGB, of 4 RGBA."""


def is_photo(given: Any) -> TypeGuard[Photo]:
    """Whether what was given is one photo, rather than several."""
    if isinstance(given, np.ndarray):
        return given.ndim in (2, 3)
    return isinstance(given, str | os.PathLike | bytes | Image.Image)


def contents(photos: Iterable[Photo], limits: LimitsConfig) -> Iterator[bytes | Image.Image | ImageError]:
    """Yield what each photo is to be decoded from; files are read a few ahead.

    Raises:
        ImageShapeError: if an array is no photo.
        TypeError: if something else is none.
    """
    read = read_photos([Address(_location(each)) for each in photos if isinstance(each, str | os.PathLike)], limits)
    for photo in photos:
        if isinstance(photo, str | os.PathLike):
            yield next(read)
        elif isinstance(photo, np.ndarray):
            yield _from_array(photo)
        elif isinstance(photo, bytes | Image.Image):
            yield photo
        else:
            raise TypeError(f"a photo is a path, bytes, a Pillow image or an array, not {type(photo).__name__}")


def name_of(photo: Photo) -> str | None:
    """Return what `raycap caption` calls a file by, and knows it by in sampling; None for what is no file."""
    return as_utf8(file_name(_location(photo))) if isinstance(photo, str | os.PathLike) else None


def _location(path: str | os.PathLike[str]) -> str:
    return absolute(os.fspath(path))


def _from_array(photo: NDArray[np.uint8]) -> Image.Image:
    if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[2] not in (3, 4)):
        raise ImageShapeError(f"a photo is (height, width, 3) uint8, not {photo.shape} {photo.dtype}")
    return Image.fromarray(photo)
