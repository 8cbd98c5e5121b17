"""One caption file of any format to records; judges nothing it reads, and knows neither photos, Ray nor TensorFlow.

A format is a stream of items (lines, entries, rows) and a function that parses one item. An item that cannot be parsed
becomes a record with an error; a file that cannot be read at all is a `DatasetError`.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa

from raycap.errors import DatasetError, InputError
from raycap.locations import absolute, join
from raycap.parquet import open_parquet
from raycap.schema import SPLITS
from raycap.storage import exists, is_folder, read_bytes

CaptionFormat = Literal["auto", "flickr8k", "coco", "karpathy", "csv", "jsonl", "parquet"]

FLICKR8K_FILE: Final = "Flickr8k.token.txt"
DEFAULT_SPLIT_COLUMN: Final = "split"

_FLICKR8K_LINE = re.compile(r"([^\t]+)#\d+ *\t(.*)")
_EXTENSIONS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_DELIMITERS = ",\t;|"
_HEAD_BYTES = 1 << 16


class Record(NamedTuple):
    """What one item of a caption file says of a photo; any value may be of any type.

    Attributes:
        where: file name and line number, index or row.
        image_id: the photo.
        captions: its captions; none in a line of a split file.
        split: its split, or None.
        error: why the item could not be parsed; "" if it could.
    """

    where: str
    image_id: Any = None
    captions: Sequence[Any] = ()
    split: Any = None
    error: str = ""


@dataclass(frozen=True)
class CaptionFile:
    """A caption file in memory.

    Attributes:
        location: where it was read.
        content: its bytes.
        columns: names of the columns of image, caption and split.
    """

    location: str
    content: bytes
    columns: tuple[str, str, str]

    @property
    def name(self) -> str:
        """Its name without the folder."""
        return posixpath.basename(self.location)

    @property
    def text(self) -> str:
        """Its content; what is not UTF-8 becomes U+FFFD."""
        return _text(self.content)

    @classmethod
    def open(cls, location: str, columns: tuple[str, str, str]) -> "CaptionFile":
        """Read the file at `location`, or the Flickr8k file in the folder there.

        Raises:
            InputError: if there is none, or it may not be read.
            DatasetError: if it is empty.
        """
        for candidate in (absolute(location), join(absolute(location), FLICKR8K_FILE)):
            content = _content(candidate)
            if content is None:
                continue
            if not content or content.isspace():
                raise DatasetError(f"{candidate} is empty; give a file with captions")
            return cls(candidate, content, columns)
        raise InputError(f"no caption file at {absolute(location)}, nor a {FLICKR8K_FILE} in a folder of that name")

    def records(self, file_format: CaptionFormat) -> Iterator[Record]:
        """Yield a record an item, in file order.

        Raises:
            InputError: if there is no such format.
            DatasetError: if the file is not of that format, or lacks a column.
        """
        if file_format not in {"auto", *_READERS}:
            raise InputError(f"no caption format {file_format!r}; there are auto, {', '.join(_READERS)}")
        return _READERS[self._detect() if file_format == "auto" else file_format](self)

    def unusable(self, reason: object) -> DatasetError:
        """Return the error that says why this file cannot be used, and the way out."""
        return DatasetError(
            f"cannot use {self.location}: {reason}. If it was taken for what it is not, say what it is: --format "
            f"{'|'.join(_READERS)}; CSV, JSONL and Parquet also take --image-column, --caption-column, --split-column"
        )

    def _detect(self) -> str:
        extension = posixpath.splitext(self.location)[1].lower()
        if extension in _EXTENSIONS:
            return _EXTENSIONS[extension]
        head = _text(self.content[:_HEAD_BYTES]).lstrip()
        if head.startswith("{"):
            if b'"sentences"' in self.content:
                return "karpathy"
            return "coco" if b'"annotations"' in self.content else "jsonl"
        if any(_FLICKR8K_LINE.fullmatch(line) for line in head.splitlines()):
            return "flickr8k"
        if self.columns[0] in head.partition("\n")[0]:
            return "csv"
        raise self.unusable("its format cannot be told from its name or content")


def _content(location: str) -> bytes | None:
    """Return the content of the file at `location`, or None if there is no file."""
    try:
        return read_bytes(location) if exists(location) and not is_folder(location) else None
    except OSError as error:
        raise InputError(f"cannot read {location}: {error}") from error


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace")


_Parsed = tuple[Any, Sequence[Any], Any]  # image_id, captions, split


def _parse(items: Iterable[tuple[str, Any]], parse: Callable[[Any], _Parsed]) -> Iterator[Record]:
    for where, item in items:
        try:
            parsed = parse(item)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            yield Record(where, error=reason if isinstance(item, Exception) else f"{reason}: {item!r:.80}")
        else:
            yield Record(where, *parsed)


def _lines(name: str, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield f"{name}:{number}", line.rstrip("\n")


def _flickr8k(file: CaptionFile) -> Iterator[Record]:
    def parse(line: str) -> _Parsed:
        match = _FLICKR8K_LINE.fullmatch(line)
        if not match:
            raise ValueError("not PHOTO#NUMBER<tab>CAPTION")
        return match[1], [match[2]], None

    yield from _parse(_lines(file.name, file.text), parse)
    for split in SPLITS:
        name = f"Flickr_8k.{split}Images.txt"
        content = _content(join(posixpath.dirname(file.location), name))
        if content is not None:
            yield from (Record(where, line, (), split) for where, line in _lines(name, _text(content)))


def _json(file: CaptionFile) -> Any:
    try:
        return json.loads(file.text)
    except (ValueError, RecursionError) as error:
        raise file.unusable(f"it is not JSON: {error}") from error


def _entries(file: CaptionFile, document: Any, key: str) -> Iterator[tuple[str, Any]]:
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise file.unusable(f"it has no list of {key}")
    return ((f"{file.name} {key}[{index}]", entry) for index, entry in enumerate(entries))


def _coco(file: CaptionFile) -> Iterator[Record]:
    document = _json(file)
    photos = [photo for _, photo in _entries(file, document, "images") if isinstance(photo, dict)]
    names = {str(photo.get("id")): photo.get("file_name") for photo in photos}

    def parse(annotation: Any) -> _Parsed:
        return names.get(str(annotation["image_id"])), [annotation["caption"]], None

    return _parse(_entries(file, document, "annotations"), parse)


def _karpathy(file: CaptionFile) -> Iterator[Record]:
    def parse(photo: Any) -> _Parsed:
        captions = [sentence["raw"] for sentence in photo["sentences"]]
        return posixpath.join(photo.get("filepath") or "", photo["filename"]), captions or [None], photo.get("split")

    return _parse(_entries(file, _json(file), "images"), parse)


def _row(file: CaptionFile, row: Any) -> _Parsed:
    image, caption, split = file.columns
    cell = row[caption]
    return row[image], (cell or [None]) if isinstance(cell, list) else [cell], row.get(split)


def _check_columns(file: CaptionFile, names: Sequence[str]) -> None:
    """Raise if a column is missing; the one of splits may be, unless it was asked for by another name."""
    missing = [name for name in file.columns if name not in {*names, DEFAULT_SPLIT_COLUMN}]
    if missing:
        raise file.unusable(f"it has no column {' or '.join(missing)}; it has {', '.join(names):.200}")


def _jsonl(file: CaptionFile) -> Iterator[Record]:
    return _parse(_lines(file.name, file.text), lambda line: _row(file, json.loads(line)))


def _csv(file: CaptionFile) -> Iterator[Record]:
    lines = io.StringIO(file.text, newline="")
    first_line = lines.readline()
    delimiter = max(_DELIMITERS, key=first_line.count)
    try:
        header = [name.strip() for name in next(csv.reader([first_line], delimiter=delimiter))]
    except csv.Error as error:
        raise file.unusable(f"its first line is no header: {error}") from error
    _check_columns(file, header)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[str, list[str] | csv.Error]]:
        while True:
            start = reader.line_num + 2  # line 1 is the header
            try:
                row: list[str] | csv.Error = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = csv.Error(f"{error}; lines {start} to {reader.line_num + 1} are lost")
            if row:
                yield f"{file.name}:{start}", row

    def parse(row: list[str] | csv.Error) -> _Parsed:
        if isinstance(row, csv.Error):
            raise ValueError(row)
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells, where the header has {len(header)}")
        return _row(file, dict(zip(header, row, strict=True)))

    return _parse(rows(), parse)


def _parquet(file: CaptionFile) -> Iterator[Record]:
    try:
        with open_parquet(pa.py_buffer(file.content)) as parquet:
            _check_columns(file, parquet.schema_arrow.names)
            table = parquet.read(columns=[name for name in parquet.schema_arrow.names if name in file.columns])
    except (pa.ArrowException, OSError) as error:
        raise file.unusable(f"it is not whole Parquet: {error}") from error
    rows = (row for batch in table.to_batches() for row in batch.to_pylist())
    return _parse(((f"{file.name} row {index}", row) for index, row in enumerate(rows)), lambda row: _row(file, row))


_READERS: dict[str, Callable[[CaptionFile], Iterator[Record]]] = {
    "flickr8k": _flickr8k,
    "coco": _coco,
    "karpathy": _karpathy,
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
