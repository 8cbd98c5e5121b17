"""Reading, listing and atomic writing at a location; the one place that touches a filesystem. Knows no Ray."""

import hashlib
import io
import json
import os
import posixpath
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

import pyarrow as pa
from pyarrow import fs

from raycap.errors import FormatError, InputError
from raycap.locations import as_utf8, is_uri, join

_TEMPORARY_PREFIX = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}(-|$)")
_SPOOL_BYTES = 64 * 2**20
_COPY_BYTES = 8 * 2**20


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem that holds `location`, and its path there.

    Raises:
        InputError: if the scheme is unknown or the URI malformed.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    if location.startswith("file:///"):  # here, as pyarrow fails on names that are not UTF-8
        return fs.LocalFileSystem(), os.fsdecode(unquote_to_bytes(urlsplit(location).path))
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"cannot use {location!r}: {error}") from error
    return filesystem, path


def is_local(location: str) -> bool:
    """Whether `location` is on a filesystem of this machine."""
    return local_path(location) is not None


def local_path(location: str) -> str | None:
    """Return the path of a local location, None elsewhere; Python takes names that pyarrow does not."""
    if not is_uri(location):
        return os.path.abspath(os.path.expanduser(location))
    filesystem, path = resolve(location)
    return path if isinstance(filesystem, fs.LocalFileSystem) else None


def exists(location: str) -> bool:
    """Whether there is a file or folder at `location`."""
    local = local_path(location)
    if local is not None:
        return os.path.exists(local)
    filesystem, path = resolve(location)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def is_folder(location: str) -> bool:
    """Whether there is a folder at `location`."""
    local = local_path(location)
    if local is not None:
        return os.path.isdir(local)
    filesystem, path = resolve(location)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


class WalkedFile(NamedTuple):
    """Something in a folder that is not a folder.

    Attributes:
        name: its path relative to the folder.
        num_bytes: its size, where the listing says.
        problem: for a folder that may not be listed, why; None for a file.
    """

    name: str
    num_bytes: int | None = None
    problem: str | None = None


def walk_files(folder: str, *, recursive: bool = True, hidden: bool = False) -> Iterator[WalkedFile]:
    """Yield the files in a folder, sorted by name within each folder; none if there is no such folder.

    Links to folders are followed, each folder once, however many links lead to it. A link that leads nowhere is
    yielded as a file.

    Args:
        folder: its location.
        recursive: go into the folders inside it.
        hidden: names that begin with a dot too.
    """
    local = local_path(folder)
    if local is not None:
        yield from _walk_local(local, recursive=recursive, hidden=hidden)
        return
    filesystem, path = resolve(folder)
    root = path.rstrip("/") + "/"
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    found = [(each.path.removeprefix(root), each.size) for each in filesystem.get_file_info(selector) if each.is_file]
    for name, size in sorted(found):
        if hidden or not any(part.startswith(".") for part in name.split("/")):
            yield WalkedFile(name, size)


def _walk_local(root: str, *, recursive: bool, hidden: bool) -> Iterator[WalkedFile]:
    seen: set[tuple[int, int]] = set()
    folders = [""]
    links: list[str] = []  # links come last, so that a folder is known by its own name where it has one here
    while folders or links:
        inside = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(root + "/" + inside)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root + "/" + inside) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield WalkedFile(inside.rstrip("/") or ".", problem=f"the folder cannot be listed: {error}")
            continue
        subfolders = []
        for entry in listed:
            if entry.name.startswith(".") and not hidden:
                continue
            if not _is_dir(entry):
                yield WalkedFile(inside + entry.name)
            elif entry.is_symlink():
                links.append(inside + entry.name + "/")
            else:
                subfolders.append(inside + entry.name + "/")
        if not recursive:
            return
        folders += reversed(subfolders)


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or through a folder that may not be entered
        return False


def list_files(folder: str, *, recursive: bool = False) -> list[str]:
    """Return the paths, relative to `folder` and sorted, of the files in it; none if there is no such folder.

    Hidden names (beginning with a dot, raycap's temporary files among them) are left out.

    Raises:
        OSError: if the folder, or one inside it, may not be listed.
    """
    names = []
    for file in walk_files(folder, recursive=recursive):
        if file.problem is not None:
            raise OSError(f"{join(folder, file.name)}: {file.problem}")
        names.append(file.name)
    return sorted(names)


def open_input(location: str) -> IO[bytes]:
    """Open the file at `location` to be read at any position; close it after use.

    Raises:
        OSError: if it is not there, may not be read, or is a pipe, a socket or a device, which could block for ever.
    """
    local = local_path(location)
    if local is None:
        filesystem, path = resolve(location)
        stream: IO[bytes] = filesystem.open_input_file(path)
        return stream
    if not stat.S_ISREG(os.stat(local).st_mode):
        raise OSError(f"{as_utf8(local)} is a folder" if os.path.isdir(local) else f"{as_utf8(local)} is not a file")
    return open(local, "rb")


def read_bytes(location: str, *, at_most: int = -1) -> bytes:
    """Return the content of the file at `location`, or its first `at_most` bytes."""
    if local_path(location) is not None:
        with open_input(location) as file:
            return file.read(at_most)
    filesystem, path = resolve(location)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read(None if at_most < 0 else at_most))


def num_bytes(location: str) -> int | None:
    """Return the size of the file at `location`, None if there is none."""
    local = local_path(location)
    if local is not None:
        try:
            status = os.stat(local)
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    filesystem, path = resolve(location)
    size: int | None = filesystem.get_file_info(path).size
    return size


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
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{location} is damaged: {error}") from error


@contextmanager
def atomic_output(location: str) -> Iterator[IO[bytes]]:
    """Open a file to write that appears at `location` whole, when the block ends without an error, or not at all.

    On a local disk it is written beside its place under a hidden name, flushed and renamed; for an object store it is
    kept aside, on disk if it is large, and uploaded at the end, under a hidden name too.
    """
    filesystem, path = resolve(location)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield spool
            spool.seek(0)
            _upload(spool, filesystem, path, _temporary(path))
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _temporary(path: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}-{name}")


def _same_temporary(path: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, _TEMPORARY_PREFIX + hashlib.sha256(os.fsencode(name)).hexdigest()[:32])


def _upload(content: IO[bytes], filesystem: fs.FileSystem, path: str, temporary: str) -> None:
    """Upload a file to an object store, where it appears whole.

    pyarrow closes an upload that fails, and what there is of it by then would be there under its name.
    """
    try:
        with filesystem.open_output_stream(temporary, compression=None) as stream:
            shutil.copyfileobj(content, stream, _COPY_BYTES)
        filesystem.move(temporary, path)
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def write_bytes(location: str, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_output(location) as file:
        file.write(content)


def write_text(location: str, content: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(location, content.encode())


def write_small_text(location: str, content: str) -> None:
    """Write a small UTF-8 file atomically, one of very many: it is not flushed to the disk.

    Its hidden name is always the same, so that writing it again removes what a kill left.
    """
    local = local_path(location)
    if local is None:
        filesystem, path = resolve(location)
        _upload(io.BytesIO(content.encode()), filesystem, path, _same_temporary(path))
        return
    os.makedirs(os.path.dirname(local), exist_ok=True)
    temporary = _same_temporary(local)
    Path(temporary).unlink(missing_ok=True)  # it may be a link that a stranger put there: never written through
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            file.write(content)
        os.replace(temporary, local)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(location: str, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(location, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def delete_file(location: str) -> None:
    """Remove the file at `location`."""
    local = local_path(location)
    if local is not None:
        os.remove(local)
        return
    filesystem, path = resolve(location)
    filesystem.delete_file(path)


def delete_folder(location: str) -> None:
    """Remove the folder at `location` and all in it; nothing happens if there is none."""
    if not is_folder(location):
        return
    local = local_path(location)
    if local is not None:
        shutil.rmtree(local)
        return
    filesystem, path = resolve(location)
    filesystem.delete_dir(path)


def upload_folder(source: Path, location: str) -> None:
    """Copy every file of a local folder to `location`, each atomically, in the order of their names."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        write_bytes(join(location, file.relative_to(source).as_posix()), file.read_bytes())


def delete_temporary_files(folder: str) -> None:
    """Remove what killed writers left in a folder, such as a stage's output, and in the folders in it.

    Links are not followed, and of names that begin with a dot only those that this module gives are removed.
    """
    local = local_path(folder)
    if local is not None:
        for inside, _, names in os.walk(local):
            for name in filter(_TEMPORARY.match, names):
                Path(inside, name).unlink(missing_ok=True)
        return
    filesystem, path = resolve(folder)
    for each in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True)):
        if each.is_file and _TEMPORARY.match(each.base_name):
            with suppress(FileNotFoundError):
                filesystem.delete_file(each.path)
