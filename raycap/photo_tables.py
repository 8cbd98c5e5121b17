"""Lists (text) and tables (CSV, JSONL, Parquet) to the photos they name or hold; opens none of them. Knows no Ray."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.config import PhotosConfig
from raycap.errors import InputError
from raycap.locations import absolute, as_text, as_utf8, file_name, join, parent
from raycap.parquet import open_parquet
from raycap.storage import read_bytes

_IMAGE_COLUMNS = (
    "uri",
    "url",
    "path",
    "file_path",
    "filepath",
    "file_name",
    "filename",
    "file",
    "image_path",
    "image",
    "img",
    "photo",
)
_BYTES_COLUMNS = ("image", "img", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content", "data")
_ID_COLUMN = "image_id"
_BATCH_ROWS = 65_536


class Found(NamedTuple):
    """One photo of a source.

    Attributes:
        name: what it is called there: a path relative to a folder, a member of a tar, a row's path.
        uri: where it is; `CONTAINER#NAME` inside a container.
        container: the tar or Parquet file that holds it, or None.
        column: of a Parquet file, that holds it.
        position: of its bytes in a tar, or its row in a Parquet file.
        num_bytes: if the listing says.
        problem: why it cannot be had, or None.
    """

    name: str
    uri: str
    container: str | None = None
    column: str | None = None
    position: int | None = None
    num_bytes: int | None = None
    problem: str | None = None


def damaged(location: str, kind: str, error: Exception) -> Found:
    """Return the row that says that a container cannot be read, or not to its end."""
    name = as_utf8(file_name(location))
    return Found(name, as_text(location), problem=f"not a whole {kind} file: {error}")


def read_content(location: str) -> bytes:
    """Return the content of a list or table.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return read_bytes(location)
    except OSError as error:
        raise InputError(f"cannot read {as_utf8(location)}: {error}") from error


def _named(name: str, base: str) -> Found:
    """Return the photo that a list or table names, relative to `base` unless it is absolute."""
    if name.startswith("/") or "://" in name:
        uri = absolute(name)
    else:
        uri = absolute(join(base, "/".join(part for part in name.split("/") if part not in {"", "."})))
    return Found(as_utf8(name), as_text(uri))


def read_list(content: bytes, base: str) -> Iterator[Found]:
    """Yield the photos of a list of paths: a line each, or ended by a null byte each, as find -print0 writes them."""
    separator = b"\0" if b"\0" in content else b"\n"
    for line in content.removeprefix(b"\xef\xbb\xbf").split(separator):
        name = os.fsdecode(line if separator == b"\0" else line.strip(b"\r"))
        if name.strip():
            yield _named(name, base)


def read_table_of_photos(location: str, config: PhotosConfig) -> Iterator[Found]:
    """Yield the photos of a CSV, TSV, JSONL or Parquet file; a row without a path yields a problem.

    Raises:
        InputError: if the file, or the column with the photos, is missing.
    """
    lower = file_name(location).lower()
    if lower.endswith(".parquet"):
        yield from _parquet(location, config)
        return
    text = read_content(location).decode("utf-8-sig", errors="surrogateescape")
    is_json = lower.endswith((".jsonl", ".ndjson"))
    rows = list(_json_rows(text) if is_json else _csv_rows(text, "\t" if lower.endswith(".tsv") else ","))
    there = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row if name))
    if there and config.id_column is not None and config.id_column not in there:
        raise InputError(f"{location} has no column {config.id_column}; it has {', '.join(there)}")
    column: str | None = None
    for number, row in enumerate(rows, start=1):
        where = f"{location}:{number}"
        if isinstance(row, str):
            yield Found(as_utf8(where), as_text(where), problem=row)
            continue
        column = column or _choose(location, there, config.image_column, _IMAGE_COLUMNS)
        yield _row(where, row.get(column), row.get(config.id_column or _ID_COLUMN), parent(location), column)


def _row(where: str, name: Any, image_id: Any, base: str, column: str) -> Found:
    """Return the photo that a row of a table names."""
    if not isinstance(name, str) or not name.strip():
        return Found(as_utf8(where), as_text(where), problem=f"no path in column {column}")
    photo = _named(name, base)
    return photo if image_id in (None, "") else photo._replace(name=as_utf8(str(image_id)))


def _csv_rows(text: str, delimiter: str) -> Iterator[dict[str, Any] | str]:
    csv.field_size_limit(sys.maxsize)
    # not strict, all up to the next quotation mark would be one field, and the rows in it lost in silence
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        start = max(2, reader.reader.line_num + 1)  # line 1 is the header
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"not CSV: {error}; lines {start} to {reader.reader.line_num} are lost; quotation marks are doubled"


def _json_rows(text: str) -> Iterator[dict[str, Any] | str]:
    for line in text.split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"not JSON: {error}"
            else:
                yield row if isinstance(row, dict) else "not a JSON object"


def _choose(location: str, there: Sequence[str], wanted: str | None, usual: Iterable[str]) -> str:
    """Return the column that says where photos are, or holds them."""
    if wanted is not None and wanted in there:
        return wanted
    chosen = next((name for name in usual if name in there), None) if wanted is None else None
    if chosen is None:
        raise InputError(
            f"{location} has no column {wanted or 'of a usual name for photos'}; it has {', '.join(map(str, there))}; "
            "say which with --image-column"
        )
    return chosen


@dataclass(frozen=True)
class _Column:
    """The column of a Parquet file that names photos, or holds them.

    Attributes:
        name: its name.
        content: the column with the photos' bytes, a field of it in a struct; None where it names photos.
        inner_name: in a struct, the field with the photo's name, if there is one.
    """

    name: str
    content: str | None = None
    inner_name: str | None = None


def _parquet(location: str, config: PhotosConfig) -> Iterator[Found]:
    try:
        with open_parquet(location) as file:
            schema = file.schema_arrow
            column = _parquet_column(location, schema, config.image_column)
            id_column = config.id_column or _ID_COLUMN
            if config.id_column is not None and id_column not in schema.names:
                raise InputError(f"{location} has no column {id_column}; it has {', '.join(schema.names)}")
            read = [id_column] if id_column in schema.names else []
            if column.content is None:
                read.append(column.name)
            elif column.inner_name:
                read.append(f"{column.name}.{column.inner_name}")
            for number, row in enumerate(_parquet_rows(file, read)):
                yield _parquet_photo(location, column, number, row, row.get(id_column))
    except (pa.ArrowInvalid, OSError) as error:
        yield damaged(location, "Parquet", error)


def _parquet_column(location: str, schema: pa.Schema, wanted: str | None) -> _Column:
    """Return the column that holds the photos, or names them; one that holds them comes first."""
    holding = [name for name in _BYTES_COLUMNS if name in schema.names and _content(schema.field(name))]
    name = holding[0] if holding and wanted is None else _choose(location, schema.names, wanted, _IMAGE_COLUMNS)
    field = schema.field(name)
    if pa.types.is_dictionary(field.type):
        field = field.with_type(field.type.value_type)
    if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        return _Column(name)
    content = _content(field)
    if content is None:
        raise InputError(f"column {name} of {location} is {field.type}; a path, or bytes, is needed: --image-column")
    has_path = pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0
    return _Column(name, content, "path" if has_path else None)


def _content(field: pa.Field) -> str | None:
    """Return what holds a photo's bytes: the column, or the field `bytes` of a struct, as Hugging Face keeps images."""
    if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes"
    return field.name if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) else None


def _parquet_rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    if not columns:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(columns=columns, batch_size=_BATCH_ROWS):
        yield from batch.to_pylist()


def _parquet_photo(location: str, column: _Column, number: int, row: dict[str, Any], image_id: Any) -> Found:
    if column.content is None:
        return _row(f"{location}#{number}", row[column.name], image_id, parent(location), column.name)
    inner = (row.get(column.name) or {}).get(column.inner_name) if column.inner_name else None
    if image_id in (None, ""):
        image_id = inner or f"{file_name(location)}#{number}"
    return Found(as_utf8(str(image_id)), f"{as_text(location)}#{number}", as_text(location), column.content, number)
