"""The bytes of listed photos, wherever they lie; decodes nothing. Knows neither Ray nor TensorFlow."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap.config import LimitsConfig
from raycap.errors import ImageError, ImageMissingError, ImageTimeoutError, ImageTooLargeError, InputError
from raycap.parquet import open_parquet
from raycap.storage import open_input, read_bytes
from raycap.time_limit import map_ahead

_FILES_AHEAD = 4  # reads under way at once: what hides the latency of an object store
_PARQUET_ROWS_AT_ONCE = 16


class Address(NamedTuple):
    """Where the bytes of one photo are: columns of `PHOTO_LISTING`."""

    uri: str
    container: str | None = None
    column: str | None = None
    position: int | None = None
    num_bytes: int | None = None
    problem: str | None = None


def addresses(photos: pa.Table) -> list[Address]:
    """Return the address of each photo of a listing, or of a manifest, which has only `uri`."""
    names = [name for name in Address._fields if name in photos.column_names]
    columns = (photos[name].to_pylist() for name in names)
    return [Address(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def read_photos(photos: Sequence[Address], limits: LimitsConfig) -> Iterator[bytes | ImageError]:
    """Yield the bytes of each photo, in order, or why they cannot be had.

    Photos of one Parquet file that follow one another are read in one pass over it.
    """
    late = partial(too_late, limits)
    for (container, column), run in groupby(photos, key=lambda photo: (photo.container, photo.column)):
        if container is not None and column is not None:
            together = list(run)
            rows = _parquet_rows(container, column, [photo.position or 0 for photo in together])
            read = partial(_next_row, rows, max_bytes=limits.max_bytes)
            yield from map_ahead(read, together, ahead=1, limit_s=limits.photo_timeout_s, late=late)
        else:
            read = partial(_read_file, max_bytes=limits.max_bytes)
            yield from map_ahead(read, run, ahead=_FILES_AHEAD, limit_s=limits.photo_timeout_s, late=late)


def too_late(limits: LimitsConfig, _what: Any = None) -> ImageTimeoutError:
    """Return the error of a photo that took too long."""
    return ImageTimeoutError(f"not done in {limits.photo_timeout_s:g} s; --photo-timeout-s allows more")


def _read_file(photo: Address, *, max_bytes: int) -> bytes | ImageError:
    if photo.problem is not None:
        return ImageMissingError(photo.problem)
    try:
        if photo.container is None:
            content = read_bytes(photo.uri, at_most=max_bytes + 1)
        else:
            with open_input(photo.container) as stream:
                stream.seek(photo.position or 0)
                content = stream.read(min(photo.num_bytes or 0, max_bytes + 1))
    except (OSError, ValueError, InputError, pa.ArrowException) as error:
        return ImageMissingError(f"cannot be read: {error}")
    if len(content) > max_bytes:
        return ImageTooLargeError(f"more than {max_bytes} bytes; --max-bytes allows more")
    if photo.num_bytes is not None and photo.container is not None and len(content) < photo.num_bytes:
        return ImageMissingError(f"{photo.container} ends in the middle of it")
    return bytes(content)


def _next_row(rows: Iterator[tuple[int, bytes | None]], photo: Address, *, max_bytes: int) -> bytes | ImageError:
    if getattr(rows, "gi_running", False):  # in the thread of a read that was given up
        return ImageTimeoutError("cannot be read: a row before it is still being read")
    try:
        # a read that was given up may yet have come back, with a row that is nobody's
        content = next(content for row, content in rows if row == photo.position)
    except StopIteration:  # an error in an earlier row ended the file
        return ImageMissingError("cannot be read: the rows before it could not be")
    except (OSError, ValueError, InputError, pa.ArrowException) as error:
        return ImageMissingError(f"cannot be read: {error}")
    if content is None:
        return ImageMissingError("there is no photo in this row")
    if len(content) > max_bytes:
        return ImageTooLargeError(f"more than {max_bytes} bytes; --max-bytes allows more")
    return content


def _parquet_rows(location: str, column: str, wanted: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    """Yield row and photo of some rows, given in rising order, of a Parquet file, a few in memory at a time."""
    with open_parquet(location, by_pages=True) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            inside = [row - first for row in wanted if first <= row < first + size]
            for row, content in zip(inside, _group_rows(file, group, column, inside), strict=True):
                yield first + row, content
            first += size


def _group_rows(file: pq.ParquetFile, group: int, column: str, wanted: Sequence[int]) -> Iterator[bytes | None]:
    if not wanted:
        return
    start = 0
    rows = iter(wanted)
    row = next(rows)
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS_AT_ONCE, row_groups=[group], columns=[column]):
        values = batch.column(0)
        if pa.types.is_struct(values.type):  # of column image.bytes, Arrow gives column image with one field
            values = pc.struct_field(values, 0)
        while row < start + len(batch):
            yield values[row - start].as_py()
            following = next(rows, None)
            if following is None:
                return
            row = following
        start += len(batch)
