"""Parquet captions as one file of another format, a shard in memory at a time. Knows neither Ray nor TensorFlow."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

import pyarrow as pa

from raycap.locations import join
from raycap.parquet import list_tables, open_parquet, read_table
from raycap.storage import atomic_output

EXPORT_FILES: Final = {
    "jsonl": "captions.jsonl",
    "csv": "captions.csv",
    "imagefolder": "imagefolder/metadata.jsonl",  # where it is no dataset's own, should `out` be one
    "coco": "coco_results.json",
}
"""The file, inside the output, of each format."""

# What a spreadsheet takes for a formula, or may once it has dropped what comes before, and what is so already escaped.
_FORMULA = re.compile("'*(\\s*[=+@\uff1d\uff0b\uff0d\uff20-]|[\t\r\n])")
# COCO's own names of photos, which hold the number that COCO's annotations tell them by.
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")


def export_location(out: str, file_format: str) -> str:
    """Return where the captions of an output are as one file of a format."""
    return join(out, EXPORT_FILES[file_format])


def export(captions: str, out: str, file_format: str, photos: pa.Table) -> None:
    """Write all captions of an output as one file.

    Args:
        captions: folder with the shards.
        out: the output.
        file_format: `jsonl`; `csv`, where a list is JSON and text that a spreadsheet would run is quoted by ';
            `imagefolder`, Hugging Face's `metadata.jsonl`, whose `file_name` is the `image_id`; or `coco`, a list of
            results as the COCO caption toolkit takes them.
        photos: the listing, whose order the rows take, shard by shard; photos that are not in it come last.
    """
    with atomic_output(export_location(out, file_format)) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        _WRITERS[file_format](text, _rows(captions, photos))
        text.flush()
        text.detach()


def coco_id(image_id: str) -> int | str:
    """Return the number in a name as COCO gives photos, `COCO_val2014_000000123456.jpg`; of another, the name."""
    stem = posixpath.splitext(posixpath.basename(image_id))[0]
    match = _COCO_NAME.fullmatch(stem)
    return int(match[1]) if match else image_id


def _rows(captions: str, photos: pa.Table) -> Iterator[dict[str, Any]]:
    place = {uri: number for number, uri in enumerate(photos["uri"].to_pylist())}
    names = list_tables(captions)
    firsts = {name: place.get(_first_uri(join(captions, name)), len(place)) for name in names}
    for name in sorted(names, key=lambda name: (firsts[name], name)):
        yield from read_table(join(captions, name)).to_pylist()


def _first_uri(location: str) -> str:
    with open_parquet(location) as file:
        batch = next(file.iter_batches(batch_size=1, columns=["uri"]))
        return str(batch.column(0)[0])


def _write_jsonl(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    for row in rows:
        file.write(_json(row) + "\n")


def _write_imagefolder(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    _write_jsonl(file, ({"file_name": row["image_id"], "text": row["caption"]} for row in rows))


def _write_coco(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    file.write("[")
    for number, row in enumerate(rows):
        file.write(",\n" if number else "\n")
        file.write(_json({"image_id": coco_id(row["image_id"]), "caption": row["caption"]}))
    file.write("\n]\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_csv(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.writer(file)
    header: list[str] = []
    for row in rows:
        if not header:
            header = list(row)
            writer.writerow(header)
        writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return _json(value)
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


_WRITERS: dict[str, Callable[[TextIO, Iterator[dict[str, Any]]], None]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "imagefolder": _write_imagefolder,
    "coco": _write_coco,
}
