"""Parquet files, ours and strangers': opened in one place, read as tables, written whole. Knows no Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.errors import FormatError
from raycap.storage import atomic_output, list_files, open_input

_BY_PAGES: Final[dict[str, Any]] = {"pre_buffer": False, "buffer_size": 2**20}


def list_tables(folder: str, *, recursive: bool = False) -> list[str]:
    """Return the names, sorted, of the Parquet files in `folder`; see `list_files`."""
    return [name for name in list_files(folder, recursive=recursive) if name.endswith(".parquet")]


@contextmanager
def open_parquet(source: str | pa.Buffer, *, by_pages: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, perhaps a stranger's.

    Columns of pickles are refused: Ray Data registers an Arrow type whose values it unpickles, and unpickling runs
    whatever code the file's author chose.

    Args:
        source: its location, or its bytes.
        by_pages: read a column as its rows are asked for, not all of a row group at once, which may be a million
            photos.

    Raises:
        OSError: if it is not there, or may not be read.
        pyarrow.ArrowInvalid: if it is not whole Parquet, or has a column of an opaque Python type.
    """
    with open_input(source) if isinstance(source, str) else pa.BufferReader(source) as stream:
        try:
            file = pq.ParquetFile(stream, **(_BY_PAGES if by_pages else {}))
        except (TypeError, ValueError) as error:  # a registered type that cannot read what the file says of it
            raise pa.ArrowInvalid(str(error)) from error
        with file:
            opaque = [field.name for field in file.schema_arrow if _is_opaque(field.type)]
            if opaque:
                raise pa.ArrowInvalid(f"column {opaque[0]} is of a Python type, which could run code when it is read")
            yield file


def _is_opaque(kind: pa.DataType) -> bool:
    """Whether a type is, or holds, one that Python code registered and whose values are bytes for that code to read."""
    if isinstance(kind, pa.ExtensionType):
        return _is_bytes(kind.storage_type) or _is_opaque(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _is_opaque(kind.value_type)
    return any(_is_opaque(kind.field(index).type) for index in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def read_schema(location: str) -> pa.Schema:
    """Return the schema of a Parquet file.

    Raises:
        FormatError: if it is not Parquet.
    """
    with _our_parquet(location) as file:
        return file.schema_arrow


def read_table(location: str, *, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file as a table.

    Raises:
        FormatError: if it is not Parquet, or lacks a column.
    """
    with _our_parquet(location) as file:
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            raise FormatError(f"{location} has no column {', '.join(sorted(missing))}")
        return file.read(columns=columns)


@contextmanager
def _our_parquet(location: str) -> Iterator[pq.ParquetFile]:
    try:
        with open_parquet(location) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:  # missing, or may not be read; a damaged page has no errno
            raise
        raise FormatError(f"{location} is not a whole Parquet file: {error}") from error


def write_table(location: str, table: pa.Table) -> None:
    """Write a Parquet file atomically; features without a dictionary, as their numbers hardly repeat."""
    others = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    with atomic_output(location) as file:
        pq.write_table(table, file, use_dictionary=len(others) == table.num_columns or others)
