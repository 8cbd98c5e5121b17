"""Caption files and a folder of photos to captions with splits; knows neither tokenizers, Ray nor TensorFlow.

`raycap.caption_files` reads each format; what makes a good record is said here once, in `_Collector`, for all of them.
"""

import hashlib
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raycap.caption_files import DEFAULT_SPLIT_COLUMN, CaptionFile, CaptionFormat, Record
from raycap.errors import DatasetError, InputError
from raycap.images import PHOTO_EXTENSIONS
from raycap.locations import absolute, join
from raycap.schema import CAPTIONS, PHOTOS, SPLITS
from raycap.storage import is_folder, list_files

ProblemKind = Literal[
    "malformed_line",  # cannot be understood; left out
    "not_utf8",  # what could not be decoded became U+FFFD; the caption is kept
    "empty_caption",  # left out
    "unknown_split",  # taken as no split
    "two_splits",  # the first one holds
    "split_without_caption",  # a split file names a photo that no caption names
    "missing_photo",  # captions name it; left out
    "photo_without_caption",  # left out
]

_OTHER_SPLIT_NAMES = {"val": "dev", "valid": "dev", "validation": "dev", "restval": "train"}
_SPLIT_NAMES = {name: name for name in SPLITS} | _OTHER_SPLIT_NAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something in a dataset that could not be used as it is.

    Attributes:
        kind: what is wrong.
        image_id: the photo, or "" where none can be told.
        where: file name and line number or index; the folder of photos, for what it lacks or has too many of.
        detail: what was found, for people.
    """

    kind: ProblemKind
    image_id: str
    where: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """What caption files hold.

    Attributes:
        captions: `(image_id, caption)` in the order of the files, white space at the ends removed.
        splits: split of each photo that has one; empty where the files give none.
        problems: what could not be used as it is.
    """

    captions: list[tuple[str, str]]
    splits: dict[str, str]
    problems: list[Problem]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The photos that exist and have captions.

    Attributes:
        photos: `schema.PHOTOS`, sorted by `image_id`.
        captions: `schema.CAPTIONS` without `clean_caption`, sorted by `image_id`, a photo's own in file order.
        problems: those of the caption files, and what the folder of photos lacks or has too many of.
    """

    photos: pa.Table
    captions: pa.Table
    problems: list[Problem]


def read_captions(
    locations: Sequence[str],
    *,
    format: CaptionFormat = "auto",  # noqa: A002 - the option's name
    image_column: str = "image",
    caption_column: str = "caption",
    split_column: str = DEFAULT_SPLIT_COLUMN,
) -> CaptionSet:
    """Return the captions and splits of one or more files.

    Args:
        locations: `[SPLIT=]PATH` each; a split given so holds for the whole file, whatever the file says. A folder
            stands for the `Flickr8k.token.txt` in it.
        format: of every file; "auto" tells it by extension and content.
        image_column: holds a photo's path relative to the folder of photos (CSV, JSONL, Parquet).
        caption_column: holds its caption, or a list of them.
        split_column: holds its split; need not be there.

    Raises:
        InputError: if there is no such file or format.
        DatasetError: if a file is empty, cannot be read as its format, or holds no captions.
    """
    if not locations:
        raise InputError("no caption file was given")
    found = _Collector()
    for argument in locations:
        prefix, equals, path = argument.partition("=")
        split = _SPLIT_NAMES.get(prefix.lower()) if equals else None
        file = CaptionFile.open(path if split else argument, (image_column, caption_column, split_column))
        found.add_file(file, file.records(format), split)
    return found.finish()


def seeded_splits(image_ids: Iterable[str], *, dev_fraction: float, test_fraction: float, seed: int) -> dict[str, str]:
    """Return a split for each photo, whatever the order of the ids.

    Photos are ranked by a hash of seed and id, so that one photo more moves few others. A fraction above zero gets
    at least one photo, as long as one is left to train on.

    Args:
        image_ids: any; a repeated one counts once.
        dev_fraction: of the photos, 0 or more.
        test_fraction: of the photos, 0 or more, and less than 1 together with `dev_fraction`.
        seed: another one gives other splits.

    Raises:
        InputError: if a fraction is out of range.
    """
    if not (dev_fraction >= 0 and test_fraction >= 0 and dev_fraction + test_fraction < 1):
        raise InputError(f"dev ({dev_fraction}) and test ({test_fraction}) must be 0 or more and together less than 1")
    ranked = sorted(set(image_ids), key=lambda image_id: hashlib.sha256(f"{seed}/{image_id}".encode()).digest())
    spare = max(0, len(ranked) - 1)
    num_dev = min(spare, max(round(len(ranked) * dev_fraction), int(dev_fraction > 0)))
    num_test = min(spare - num_dev, max(round(len(ranked) * test_fraction), int(test_fraction > 0)))
    splits = ["dev"] * num_dev + ["test"] * num_test + ["train"] * (len(ranked) - num_dev - num_test)
    return dict(zip(ranked, splits, strict=True))


def assemble(captions: CaptionSet, photos: str, *, dev_fraction: float, test_fraction: float, seed: int) -> Dataset:
    """Match captions with the photos of a folder; a photo's id is its path relative to the folder.

    A file name that the captions give without a folder (COCO's) is taken for the one photo of that name in a subfolder.
    Where no file gave any split, `seeded_splits` gives every photo one; otherwise a photo in none has a null split.

    Args:
        captions: from `read_captions`.
        photos: a folder; searched once, with its subfolders, for files with one of `PHOTO_EXTENSIONS`.
        dev_fraction: see `seeded_splits`, like the next two.
        test_fraction: of the photos.
        seed: any number.

    Raises:
        InputError: if there is no such folder, no photo in it, or a fraction is out of range.
        DatasetError: if not one caption names a photo in it.
    """
    folder = absolute(photos)
    present = _photos_in(folder)
    captions = _locate(captions, present)
    captioned = Counter(image_id for image_id, _ in captions.captions)
    kept = sorted(captioned.keys() & present)
    if not kept:
        raise DatasetError(
            f"no caption names a photo in {folder}: captions name {min(captioned, default='none')!r}, photos are named "
            f"{min(present)!r}; give the folder that the names in the caption files start from"
        )
    splits = captions.splits or seeded_splits(kept, dev_fraction=dev_fraction, test_fraction=test_fraction, seed=seed)
    rows = sorted((row for row in captions.captions if row[0] in present), key=lambda row: row[0])
    caption_schema = pa.schema([CAPTIONS.field(name) for name in ("image_id", "split", "caption")])
    return Dataset(
        photos=_table(PHOTOS, [(name, join(folder, name), splits.get(name)) for name in kept]),
        captions=_table(caption_schema, [(name, splits.get(name), caption) for name, caption in rows]),
        problems=[*captions.problems, *_mismatches(captioned, present, folder)],
    )


def _locate(captions: CaptionSet, present: set[str]) -> CaptionSet:
    """Return the captions with bare file names turned into paths, where just one photo has the name."""
    paths: dict[str, list[str]] = {}
    for path in present:
        paths.setdefault(posixpath.basename(path), []).append(path)

    def located(name: str) -> str:
        found = paths.get(name, [])
        return found[0] if name not in present and len(found) == 1 else name

    return CaptionSet(
        captions=[(located(name), caption) for name, caption in captions.captions],
        splits={located(name): split for name, split in captions.splits.items()},
        problems=captions.problems,
    )


def _photos_in(folder: str) -> set[str]:
    if not is_folder(folder):
        raise InputError(f"no folder of photos at {folder}")
    names = {name for name in list_files(folder, recursive=True) if name.lower().endswith(PHOTO_EXTENSIONS)}
    if not names:
        raise InputError(f"{folder} holds no photo, no file that ends in {', '.join(PHOTO_EXTENSIONS)}")
    return names


def _mismatches(captioned: Counter[str], present: set[str], folder: str) -> Iterator[Problem]:
    for name in sorted(captioned.keys() - present):
        detail = f"named by {captioned[name]} captions, but not there"
        yield Problem(kind="missing_photo", image_id=name, where=folder, detail=detail)
    for name in sorted(present - captioned.keys()):
        yield Problem(kind="photo_without_caption", image_id=name, where=folder, detail="no caption names this photo")


def _table(schema: pa.Schema, rows: Sequence[tuple[str | None, ...]]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=schema)


class _Collector:
    """Checks records of any format, keeps what is good of them and notes what is not."""

    def __init__(self) -> None:
        self.captions: list[tuple[str, str]] = []
        self.splits: dict[str, str] = {}
        self.problems: list[Problem] = []
        self._split_lines: dict[str, str] = {}

    def add_file(self, file: CaptionFile, records: Iterable[Record], split: str | None) -> None:
        num_captions, num_problems = len(self.captions), len(self.problems)
        for record in records:
            if split is None:
                self.add(record)
            elif record.captions or record.error:  # not a line of a split file
                self.add(record._replace(split=split))
        if len(self.captions) == num_captions:
            first = [f" ({problem.where}: {problem.detail})" for problem in self.problems[num_problems:]][:1]
            raise file.unusable(f"it holds no captions{''.join(first)}")

    def note(self, kind: ProblemKind, where: str, image_id: str, detail: str) -> None:
        self.problems.append(Problem(kind=kind, image_id=image_id, where=where, detail=detail))

    def add(self, record: Record) -> None:
        if record.error or not isinstance(record.image_id, str) or not record.image_id.strip():
            self.note("malformed_line", record.where, "", record.error or f"names no photo: {record.image_id!r:.80}")
            return
        image_id = sys.intern(_utf8(record.image_id.strip()))  # one string a photo, not one a caption
        if record.split not in (None, ""):
            split = _SPLIT_NAMES.get(str(record.split).strip().lower())
            if split is None:
                self.note("unknown_split", record.where, image_id, f"{record.split!r:.80} is no split")
            elif (first := self.splits.setdefault(image_id, split)) != split:
                self.note("two_splits", record.where, image_id, f"put in {split}, but it is already in {first}")
        if not record.captions:
            self._split_lines[image_id] = record.where
        for caption in record.captions:
            self.add_caption(image_id, "" if caption is None else caption, record.where)

    def add_caption(self, image_id: str, caption: Any, where: str) -> None:
        if not isinstance(caption, str):
            self.note("malformed_line", where, image_id, f"the caption is not text: {caption!r:.80}")
        elif not caption.strip():
            self.note("empty_caption", where, image_id, "the caption is empty")
        else:
            self.captions.append((image_id, _utf8(caption.strip())))
            if "\ufffd" in self.captions[-1][1]:
                self.note("not_utf8", where, image_id, f"the file is not all UTF-8: {caption!r:.80}")

    def finish(self) -> CaptionSet:
        captioned = {image_id for image_id, _ in self.captions}
        for image_id in [name for name in self._split_lines if name not in captioned]:
            self.note("split_without_caption", self._split_lines[image_id], image_id, "no caption names this photo")
        return CaptionSet(captions=self.captions, splits=self.splits, problems=self.problems)


def _utf8(text: str) -> str:
    """Return `text` as it can be stored: half a surrogate pair, which JSON may hold, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
