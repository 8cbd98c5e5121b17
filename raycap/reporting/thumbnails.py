"""Photos, wherever they lie, as small pictures for a page; knows neither pages, Ray nor TensorFlow."""

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
from PIL import Image

from raycap.config import LimitsConfig, PhotosConfig
from raycap.errors import ImageError, RaycapError
from raycap.images import decode_thumbnail
from raycap.photo_reader import Address, addresses, read_photos, too_late
from raycap.photo_sources import find_photos
from raycap.progress import Progress
from raycap.time_limit import map_ahead

_QUALITIES = (76, 55, 35, 15)
_MOST_BYTES = 12_000  # a thousand of them, in base64, are 16 MB
_GIVE_UP_AFTER = 48  # photos, none of which can be read: the others lie on another machine too
_CONTAINER = re.compile(r"(.*?\.(?:tar|parquet))#", re.IGNORECASE | re.DOTALL)


@dataclass(kw_only=True)
class Thumbnails:
    """Small pictures.

    Attributes:
        pictures: WebP in base64, by the photo's row.
        failed: photos that could not be shown, by type of error.
        not_tried: photos left out, as none before them could be read.
    """

    pictures: dict[int, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    not_tried: int = 0


def make_thumbnails(
    uris: Mapping[int, str], *, longest_px: int, image_column: str | None = None, limits: LimitsConfig | None = None
) -> Thumbnails:
    """Read photos and make them small, several at once; one that cannot be read is counted.

    Args:
        uris: where the photos are, by their rows; `CONTAINER#NAME` inside a tar or Parquet file.
        longest_px: the longer side of each picture.
        image_column: of Parquet files, the column that holds the photos, if it is none of a usual name.
        limits: what one photo may cost.
    """
    limits = limits or LimitsConfig(photo_timeout_s=20)
    places = _find(uris, image_column)
    # those of a container one after another, and in their order: it is read in one pass
    rows = sorted(places, key=lambda row: (places[row].container or places[row].uri, places[row].position or 0))
    contents = read_photos([places[row] for row in rows], limits)
    make = partial(_make, longest_px=longest_px, max_pixels=limits.max_pixels)
    made: Iterator[bytes | ImageError] = map_ahead(
        make,
        contents,
        ahead=os.cpu_count() or 1,
        limit_s=limits.photo_timeout_s,
        late=partial(too_late, limits),
    )
    thumbnails = Thumbnails()
    with Progress("read photos", len(rows), unit="photos") as progress:
        for tried, (row, picture) in enumerate(zip(rows, made, strict=True), start=1):
            progress.update(tried)
            if isinstance(picture, bytes):
                thumbnails.pictures[row] = base64.b64encode(picture).decode()
                continue
            thumbnails.failed[type(picture).__name__] += 1
            if tried == _GIVE_UP_AFTER and not thumbnails.pictures:
                thumbnails.not_tried = len(rows) - tried
                break
    return thumbnails


def _find(uris: Mapping[int, str], image_column: str | None) -> dict[int, Address]:
    """Return the address of each photo; one in a container is looked for there."""
    inside: dict[str, Address] = {}
    found = filter(None, map(_CONTAINER.match, set(uris.values())))
    for container in sorted({match[1] for match in found}):
        try:
            photos = find_photos([container], PhotosConfig(image_column=image_column))
        except (RaycapError, OSError, pa.ArrowException):
            continue  # each photo says why it cannot be read
        inside |= {address.uri: address for address in addresses(photos)}
    return {row: inside.get(uri, Address(uri)) for row, uri in uris.items()}


def _make(content: bytes | ImageError, *, longest_px: int, max_pixels: int) -> bytes | ImageError:
    """Return a photo as WebP of at most `_MOST_BYTES`, or why not."""
    if isinstance(content, ImageError):
        return content
    try:
        picture = Image.fromarray(decode_thumbnail(content, longest_px=longest_px, max_pixels=max_pixels))
    except ImageError as error:
        return error
    while True:
        for quality in _QUALITIES:
            with io.BytesIO() as stream:
                picture.save(stream, "WEBP", quality=quality)
                if stream.tell() <= _MOST_BYTES:
                    return stream.getvalue()
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))
