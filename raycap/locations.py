"""Locations as text: absolute paths and URIs, taken apart and put together; touches no filesystem.

A location is an absolute local path or a URI that pyarrow's filesystems speak (`file://`, `s3://`, `gs://`, ...).
"""

import os
import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Config = TypeVar("_Config", bound="DataclassInstance")
_UNESCAPED = re.compile(r"[^!-~]|%(?![0-9a-fA-F]{2})")
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")


def is_uri(location: str) -> bool:
    """Whether `location` is a URI rather than a local path."""
    return _SCHEME.match(location) is not None


def absolute(location: str) -> str:
    """Return `location` as an absolute local path or a URI, so that it means the same in every process.

    What a URI may not hold, as a space, is escaped: an object store's own tools show names as they are.
    """
    if is_uri(location):
        return _UNESCAPED.sub(lambda found: quote(os.fsencode(found[0])), location).rstrip("/")
    return os.path.abspath(os.path.expanduser(location))


def with_absolute(config: _Config, *names: str) -> _Config:
    """Return a dataclass with some of its fields made absolute; None stays None."""
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    return replace(config, **{name: value and absolute(value) for name, value in values.items()})


def join(location: str, *names: str) -> str:
    """Return the location of something inside `location`; a name may hold any character, escaped in a URI.

    A URI's query, such as `?endpoint_override=...`, stays at its end.
    """
    if is_uri(location):
        path, query = split_query(location)
        return posixpath.join(path, *(quote(os.fsencode(name)) for name in names)) + query
    return posixpath.join(location, *names)


def split_query(location: str) -> tuple[str, str]:
    """Return `location` without its query, and the query with its `?`; a local path has none."""
    path, mark, query = location.partition("?") if is_uri(location) else (location, "", "")
    return path, mark + query


def file_name(location: str) -> str:
    """Return the name of the file at `location`: unescaped, and without a query, where that is a URI."""
    name = posixpath.basename(split_query(location)[0])
    return unescaped(name) if is_uri(location) else name


def unescaped(name: str) -> str:
    """Return a part of a URI's path as the name that it is."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(name)))


def parent(location: str) -> str:
    """Return the location of the folder that holds `location`; a URI keeps its query."""
    path, query = split_query(location)
    return posixpath.dirname(path) + query


def without_suffix(location: str) -> str:
    """Return `location` without its extension, and without a URI's query."""
    return posixpath.splitext(split_query(location)[0])[0]


def as_text(location: str) -> str:
    """Return `location` in valid UTF-8, as files of ours hold it: a path that is not becomes a `file://` URI."""
    return location if _is_utf8(location) else "file://" + quote(_as_bytes(location))


def as_utf8(name: str) -> str:
    r"""Return a name for people in valid UTF-8: bytes that are not are escaped, such as `\xff`."""
    return name if _is_utf8(name) else _as_bytes(name).decode("utf-8", "backslashreplace")


def _as_bytes(name: str) -> bytes:
    """Return a file's name as the system has it; half a character, as JSON can hold, is no file's and is escaped."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
