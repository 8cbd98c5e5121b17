"""URIs and atomic writes; the one place that touches a filesystem. Knows neither Ray nor TensorFlow.

A location is an absolute local path or a URI that pyarrow's filesystems speak (`file://`, `s3://`, `gs://`, ...).
"""

import io
import json
import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raycap.errors import FormatError, InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Config = TypeVar("_Config", bound="DataclassInstance")
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
_TEMPORARY_PREFIX = ".tmp-"


def absolute(location: str) -> str:
    """Return `location` as an absolute local path or a URI, so that it means the same in every process."""
    if _SCHEME.match(location):
        return location.rstrip("/")
    return os.path.abspath(os.path.expanduser(location))


def with_absolute(config: _Config, *names: str) -> _Config:
    """Return a dataclass with some of its fields made absolute; None stays None."""
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    return replace(config, **{name: value and absolute(value) for name, value in values.items()})


def join(location: str, *names: str) -> str:
    """Return the location of something inside `location`; a name may hold any character, escaped in a URI.

    A URI's query, such as `?endpoint_override=...`, stays at its end.
    """
    if _SCHEME.match(location):
        path, mark, query = location.partition("?")
        return posixpath.join(path, *(quote(name) for name in names)) + mark + query
    return posixpath.join(location, *names)


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem that holds `location`, and its path there.

    Raises:
        InputError: if the scheme is unknown or the URI malformed.
    """
    if not _SCHEME.match(location):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"cannot use {location!r}: {error}") from error
    return filesystem, path


def exists(location: str) -> bool:
    """Whether there is a file or folder at `location`."""
    filesystem, path = resolve(location)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def is_folder(location: str) -> bool:
    """Whether there is a folder at `location`."""
    filesystem, path = resolve(location)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


def list_files(folder: str, *, recursive: bool = False) -> list[str]:
    """Return the paths, relative to `folder` and sorted, of the files in it; none if there is no such folder.

    Hidden names (beginning with a dot, raycap's temporary files among them) are left out.
    """
    filesystem, path = resolve(folder)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    root = path.rstrip("/") + "/"
    names = (info.path.removeprefix(root) for info in filesystem.get_file_info(selector) if info.is_file)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def read_bytes(location: str) -> bytes:
    """Return the content of the file at `location`."""
    filesystem, path = resolve(location)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def read_text(location: str) -> str:
    """Return the content of a UTF-8 file; a byte-order mark is dropped, bytes that are not UTF-8 are replaced."""
    return read_bytes(location).decode("utf-8-sig", errors="replace")


def read_json(location: str) -> Any:
    """Return the content of a JSON file that raycap wrote.

    Raises:
        FormatError: if it is not JSON.
    """
    try:
        return json.loads(read_text(location))
    except ValueError as error:
        raise FormatError(f"{location} is damaged: {error}") from error


def read_table(location: str, *, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file as a table.

    Raises:
        FormatError: if it is not Parquet, or lacks a column.
    """
    filesystem, path = resolve(location)
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise FormatError(f"{location} has no column {', '.join(sorted(missing))}")
            return file.read(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:  # missing, or may not be read; a damaged page has no errno
            raise
        raise FormatError(f"{location} is not a whole Parquet file: {error}") from error


@contextmanager
def atomic_output(location: str) -> Iterator[IO[bytes]]:
    """Open a file to write that appears at `location` whole, when the block ends without an error, or not at all.

    On a local disk it is written beside its place under a hidden name, flushed and renamed; for an object store it is
    held in memory and uploaded at the end.
    """
    filesystem, path = resolve(location)
    if not isinstance(filesystem, fs.LocalFileSystem):
        buffer = io.BytesIO()  # closing an upload, even because of an error, would show what there is of it
        yield buffer
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(buffer.getbuffer())
        return
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}-{name}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(location: str, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_output(location) as file:
        file.write(content)


def write_text(location: str, content: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(location, content.encode())


def write_json(location: str, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(location, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(location: str, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with atomic_output(location) as file:
        pq.write_table(table, file)


def delete_file(location: str) -> None:
    """Remove the file at `location`."""
    filesystem, path = resolve(location)
    filesystem.delete_file(path)


def delete_folder(location: str) -> None:
    """Remove the folder at `location` and all in it; nothing happens if there is none."""
    filesystem, path = resolve(location)
    if is_folder(location):
        filesystem.delete_dir(path)


def upload_folder(source: Path, location: str) -> None:
    """Copy every file of a local folder to `location`, each atomically, in the order of their names."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        write_bytes(join(location, file.relative_to(source).as_posix()), file.read_bytes())


def delete_temporary_files(folder: str) -> None:
    """Remove what killed writers left in a local folder; other filesystems never show an unfinished file."""
    filesystem, path = resolve(folder)
    if isinstance(filesystem, fs.LocalFileSystem):
        for leftover in Path(path).glob(f"{_TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)
