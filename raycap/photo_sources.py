"""What a user gives as photos, to a table with a row a photo; opens containers, but no photo. Knows no Ray.

Photos come as files, folders, globs, lists of paths (text, CSV, JSONL, Parquet), tar files (WebDataset's layout) and
Parquet files that hold the photos themselves. Every source becomes rows of `PHOTO_LISTING`. What cannot be listed - a
folder that may not be read, a damaged container, a row without a path - becomes a row with a problem, so that it ends
in the failures table and the counts add up.
"""

import io
import os
import posixpath
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
from wcmatch import glob

from raycap.config import PhotosConfig
from raycap.errors import InputError
from raycap.images import PHOTO_EXTENSIONS
from raycap.locations import absolute, as_text, as_utf8, file_name, is_uri, join, parent, split_query, unescaped
from raycap.photo_tables import Found, damaged, read_content, read_list, read_table_of_photos
from raycap.progress import say
from raycap.schema import PHOTO_LISTING
from raycap.storage import exists, is_folder, is_local, open_input, walk_files

STANDARD_INPUT: Final = "-"

_LISTS = (".txt", ".lst")
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_TAR = ".tar"
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_CONTAINERS = frozenset((_TAR, ".tgz", ".gz", ".bz2", ".xz", ".zst", *_LISTS, *_TABLES))
_MAGIC = frozenset("*?[{")
_GLOB_FLAGS = glob.GLOBSTAR | glob.BRACE | glob.DOTGLOB
_MOST_IN_BRACES = 100_000
# of a remote tar: its members' headers come in pieces of half a kilobyte, each of which would be a request
_TAR_BUFFER_BYTES = 2**20


def find_photos(locations: Sequence[str], config: PhotosConfig | None = None) -> pa.Table:
    """Return a row of `PHOTO_LISTING` for each photo of some sources, each photo once, in the order given.

    A photo's id is its path inside the folder, list or container that was given; its name, where it was itself given.
    Where that would make two photos one, ids are whole URIs. Names that are not UTF-8 have their bytes escaped.

    Args:
        locations: files, folders, globs, lists, tables, containers; `-` reads paths from standard input.
        config: how they are read.

    Raises:
        InputError: if something is not there or cannot be used, or there is no photo at all.
    """
    if not locations:
        raise InputError("there is nothing to caption: give photos, folders, globs, lists, or - for standard input")
    config = config or PhotosConfig()
    found: dict[str, Found] = {}
    for location in _without_sidecars(locations):
        for each in _source(location, config):
            # of two members of one name in a tar the later counts, as tar has it
            if each.uri not in found or each.container is not None:
                found[each.uri] = each
    if not found:
        raise InputError(f"there are no photos in {', '.join(locations)}{_hint(locations)}")
    names = Counter(each.name for each in found.values())
    columns = {
        "image_id": [each.name if names[each.name] == 1 else uri for uri, each in found.items()],
        "uri": list(found),
    }
    for name in PHOTO_LISTING.names[2:]:
        columns[name] = [getattr(each, name) for each in found.values()]
    return pa.Table.from_pydict(columns, schema=PHOTO_LISTING)


def _without_sidecars(locations: Sequence[str]) -> list[str]:
    """Return locations without `a.txt` and `a.jpg.txt` where there is `a.jpg`: a shell gives them for `holiday/*`."""
    photos = {each for each in locations if each.lower().endswith(PHOTO_EXTENSIONS)}
    captions = {name + ".txt" for each in photos for name in (each, posixpath.splitext(each)[0])}
    kept = [each for each in locations if each not in captions]
    if len(kept) < len(locations):
        say(f"{len(locations) - len(kept)} .txt files beside photos of the same names are taken for their captions")
    return kept


def _hint(locations: Sequence[str]) -> str:
    """Say what a folder without photos holds instead."""
    for location in locations:
        if is_folder(location):
            for suffix in (_TAR, ".parquet"):
                names = [each.name for each in walk_files(location) if each.name.endswith(suffix)]
                if names:
                    path, query = split_query(location)
                    pattern = f"{path}/{'**/' if any('/' in name for name in names) else ''}*{suffix}{query}"
                    return f"; to read the {suffix} files there, give '{as_utf8(pattern)}'"
    return f", no file that ends in {' '.join(PHOTO_EXTENSIONS)}"


def _source(location: str, config: PhotosConfig) -> Iterable[Found]:
    """Yield the photos of what a user gave."""
    if location == STANDARD_INPUT:
        return read_list(sys.stdin.buffer.read(), os.getcwd())
    location = absolute(location)
    if is_folder(location):
        return _folder(location, config)
    if exists(location) or os.path.islink(location):
        return _file(location, config)
    if _MAGIC.intersection(split_query(location)[0]):
        return _glob(location, config)
    raise InputError(f"there is no photo or folder at {as_utf8(location)}")


def _file(location: str, config: PhotosConfig) -> Iterable[Found]:
    lower = file_name(location).lower()
    if lower.endswith(_COMPRESSED_TARS):
        raise InputError(f"{location} is compressed, so photos cannot be read out of it one by one; decompress it")
    if lower.endswith(_TAR):
        return _tar(location)
    if lower.endswith(_LISTS):
        return read_list(read_content(location), parent(location))
    if lower.endswith(_TABLES):
        return read_table_of_photos(location, config)
    return [Found(as_utf8(file_name(location)), as_text(location))]


def _folder(location: str, config: PhotosConfig) -> Iterator[Found]:
    for file in walk_files(location, hidden=config.hidden):
        if file.problem is not None or file.name.lower().endswith(PHOTO_EXTENSIONS):
            uri = as_text(join(location, file.name))
            yield Found(as_utf8(file.name), uri, num_bytes=file.num_bytes, problem=file.problem)


def _glob(pattern: str, config: PhotosConfig) -> Iterator[Found]:
    """Yield what the files that match a pattern hold; names are relative to its part without wildcards."""
    path, query = split_query(pattern)
    parts = path.split("/")
    plain = next(index for index, part in enumerate(parts) if _MAGIC.intersection(part))
    while plain + 1 < len(parts) and is_folder("/".join(parts[: plain + 1]) + query):
        plain = next(
            index
            for index, part in enumerate(parts)
            if index > plain and (_MAGIC.intersection(part) or index == len(parts) - 1)
        )
    base, relative = ("/".join(parts[:plain]) or "/") + query, "/".join(parts[plain:])
    if is_uri(pattern):
        relative = unescaped(relative)  # as the names that it is matched with are
    try:
        matcher = glob.compile(relative, flags=_GLOB_FLAGS, limit=_MOST_IN_BRACES)
    except Exception as error:  # wcmatch's own, of more names than that, is of no public type
        raise InputError(f"{as_utf8(pattern)} cannot be used: {error}; * in place of braces may do") from None
    recursive = "/" in relative or "**" in relative
    files = walk_files(base, hidden=config.hidden or "/." in f"/{relative}", recursive=recursive)
    matching = [file for file in files if file.problem is not None or matcher.match(file.name)]
    if not matching:
        raise InputError(f"no file matches {as_utf8(pattern)}")
    for file in matching:
        location = join(base, file.name)
        extension = posixpath.splitext(file.name)[1].lower()
        # what is no photo is opened if its extension is asked for: * beside photos should not open every .txt
        if file.problem is None and extension in _CONTAINERS:
            if extension == _TAR or extension[1:] in parts[-1].lower():
                for each in _file(location, config):
                    yield each._replace(name=posixpath.join(as_utf8(file.name), each.name))
        elif file.problem is not None or extension in {"", *PHOTO_EXTENSIONS} or extension[1:] in parts[-1].lower():
            yield Found(as_utf8(file.name), as_text(location), num_bytes=file.num_bytes, problem=file.problem)


@contextmanager
def _open_tar(location: str) -> Iterator[Any]:
    with open_input(location) as stream:
        yield stream if is_local(location) else io.BufferedReader(stream, _TAR_BUFFER_BYTES)


def _tar(location: str) -> Iterator[Found]:
    """Yield the photos of a tar file; one that is damaged yields those before the damage, and a problem."""
    try:
        with _open_tar(location) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.isreg() and member.name.lower().endswith(PHOTO_EXTENSIONS):
                    name = as_utf8(member.name)
                    uri = f"{as_text(location)}#{name}"
                    yield Found(name, uri, as_text(location), None, member.offset_data, member.size)
            stream.seek(archive.offset)  # where tarfile stopped, which it does at a damaged header too
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("damaged or truncated header")
    except (tarfile.TarError, OSError) as error:
        yield damaged(location, "tar", error)
