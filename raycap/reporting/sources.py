"""What a run left on storage, read for a report; what is missing is named, not raised. Knows no HTML."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from raycap.errors import FormatError, InputError, RaycapError
from raycap.locations import absolute, file_name, is_uri, join, parent
from raycap.model_card import BUNDLE_FOLDER, CARD_FILE, find_bundle
from raycap.parquet import list_tables, read_schema, read_table
from raycap.prepared import PHOTOS_FILE
from raycap.runs import read_run
from raycap.schema import CAPTIONS_FOLDER, FAILURES, HISTORY_FILE, HYPOTHESES_FILE, SCORES_FILE
from raycap.shards import FAILURES_FOLDER
from raycap.storage import exists, is_folder, read_json

METRICS: Final = {
    "cider_d": "CIDEr-D",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "bleu_3": "BLEU-3",
    "bleu_2": "BLEU-2",
    "bleu_1": "BLEU-1",
}
"""What scores are called, the most telling first."""

PHOTO_SCORES: Final = {"cider_d": "CIDEr-D", "bleu_4": "BLEU-4", "meteor": "METEOR", "rouge_l": "ROUGE-L"} | {
    "log_prob": "Log-prob"
}
"""What a photo's caption may be sorted by, where its run says it."""

_Value = TypeVar("_Value")


@dataclass(kw_only=True)
class Source:
    """A run, as far as it can be read.

    Attributes:
        location: what evaluate or caption wrote.
        kind: which of the two.
        record: its run.json; empty if there is none.
        left_out: what could not be read, a sentence each; grows as it is asked for.
    """

    location: str
    kind: Literal["evaluate", "caption"]
    record: Mapping[str, Any]
    left_out: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What people would call it: the folder's name, and the name of the run's folder for one called scores."""
        name = file_name(self.location)
        above = file_name(parent(self.location))
        return f"{above}/{name}" if name in {"scores", "captions"} and above else name

    @cached_property
    def photos(self) -> pa.Table:
        """A row a photo: `image_id`, `uri`, `caption`, `references`, `width` and those of `PHOTO_SCORES` that it has.

        Raises:
            FormatError: if a table is damaged.
        """
        if self.kind == "caption":
            folder = join(self.location, CAPTIONS_FOLDER)
            names = ["image_id", "uri", "caption", "log_prob"]
            tables = [read_table(join(folder, name), columns=names) for name in list_tables(folder)]
            return _as_text(pa.concat_tables(tables, promote_options="permissive"), source=folder)
        location = join(self.location, HYPOTHESES_FILE)
        there = read_schema(location).names
        names = ["image_id", "hypothesis", "references", *(n for n in ("uri", *PHOTO_SCORES) if n in there)]
        table = read_table(location, columns=names)
        table = table.rename_columns([{"hypothesis": "caption"}.get(name, name) for name in names])
        table = table if "uri" in names else table.append_column("uri", self._uris(table["image_id"]))
        return _as_text(table, source=location)

    def _uris(self, image_ids: pa.ChunkedArray) -> pa.Array:
        def read() -> pa.Array:
            manifest = read_table(join(self._place("prepared"), PHOTOS_FILE), columns=["image_id", "uri"])
            return pc.take(manifest["uri"], pc.index_in(image_ids, manifest["image_id"]))

        return self._optional("the photos", read, pa.nulls(len(image_ids), pa.string()))

    @cached_property
    def scores(self) -> Mapping[str, Any]:
        """scores.json; empty for captions, which have none."""
        if self.kind == "caption":
            return {}
        return self._optional("scores", lambda: _mapping(join(self.location, SCORES_FILE)), {})

    @cached_property
    def history(self) -> Mapping[str, Any]:
        """The model's history.json; empty if it is not there."""
        if self.model is None:
            return {}
        location = join(self.model, HISTORY_FILE)
        return self._optional("loss curves", lambda: _history(location), {})

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """The card of the model's bundle; empty if it is not there."""
        if self.model is None:
            return {}
        model = self.model
        return self._optional("the model's card", lambda: _mapping(join(find_bundle(model), CARD_FILE)), {})

    @cached_property
    def model(self) -> str | None:
        """What train wrote, or the bundle by itself; None if the run does not say."""
        place = self._optional("the model", lambda: self._place("model"), None)
        return parent(place) if place is not None and file_name(place) == BUNDLE_FOLDER else place

    @cached_property
    def stages(self) -> dict[str, Mapping[str, Any]]:
        """The run.json of each stage that can be read, in the order that stages run in."""
        stages: dict[str, Mapping[str, Any]] = {}
        options = {"prepare": "prepared", "extract": "features", "train": "model"}
        for stage, option in options.items():
            if self.kind == "evaluate" or (stage == "train" and self.model is not None):
                otherwise: Mapping[str, Any] = {}
                read = partial(self._record_of, option)
                if record := self._optional(f"options and times of {stage}", read, otherwise):
                    stages[stage] = record
        return stages | ({self.kind: self.record} if self.record else {})

    def _record_of(self, option: str) -> Mapping[str, Any]:
        place = self.model if option == "model" and self.model else self._place(option)
        record = read_run(place)
        if record is None:
            raise InputError(f"there is no run.json in {place}")
        return record

    @cached_property
    def failures(self) -> pa.Table:
        """The photos that could not be used, `schema.FAILURES`: of the captions, or of the features."""

        def read() -> pa.Table:
            place = self.location if self.kind == "caption" else self._place("features")
            folder = join(place, FAILURES_FOLDER)
            if self.kind == "evaluate" and not is_folder(place):
                raise InputError(f"there is no folder {place}")
            tables = [read_table(join(folder, name), columns=FAILURES.names) for name in list_tables(folder)]
            return pa.concat_tables(tables) if tables else FAILURES.empty_table()

        return self._optional("failures", read, FAILURES.empty_table())

    def moved(self, location: str) -> str:
        """Return where something is now that lay at `location` when the run was made.

        If the run's output was moved or copied, what lay near it may have come along.
        """
        config = self.record.get("config")
        was = config.get("out") if isinstance(config, dict) else None
        if not isinstance(was, str) or was == self.location or is_uri(location) or is_uri(was) or is_uri(self.location):
            return location
        moved = os.path.normpath(os.path.join(self.location, os.path.relpath(location, was)))
        return moved if exists(moved) else location

    def _place(self, option: str) -> str:
        """Return the location that an option of the run gave."""
        config = self.record.get("config")
        place = config.get(option) if isinstance(config, dict) else None
        if not isinstance(place, str):
            raise InputError(f"no run.json in {self.location} says where")
        return self.moved(place)

    def _optional(self, what: str, read: Callable[[], _Value], otherwise: _Value) -> _Value:
        try:
            return read()
        except (RaycapError, OSError, pa.ArrowException) as error:
            self.left_out.append(f"{what}: {error}")
            return otherwise


def open_source(location: str) -> Source:
    """Find the output of evaluate or caption at `location`, or in the run folder that it is.

    Raises:
        InputError: if there is none.
        FormatError: if its record is damaged, or a newer raycap's.
    """
    location = absolute(location)
    if not is_folder(location):
        raise InputError(f"there is no folder {location}; give what raycap evaluate or raycap caption wrote")
    for folder in (location, join(location, "scores")):
        if exists(join(folder, HYPOTHESES_FILE)):
            return Source(location=folder, kind="evaluate", record=read_run(folder) or {})
    for folder in (location, join(location, "captions")):
        if list_tables(join(folder, CAPTIONS_FOLDER)):
            return Source(location=folder, kind="caption", record=read_run(folder) or {})
    raise InputError(
        f"{location} holds neither {HYPOTHESES_FILE} nor {CAPTIONS_FOLDER}/*.parquet; give what raycap evaluate or "
        "raycap caption wrote, or the folder that holds scores/"
    )


def number(value: object) -> float | None:
    """Return what a file says where it is a number that can be shown, otherwise None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def mapping(value: object) -> Mapping[str, Any]:
    """Return what a file says where it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def scores_of(scores: Mapping[str, Any], whose: str, protocol: str) -> dict[str, float]:
    """Return the scores of the model or of a baseline under a protocol, by metric; empty if there are none."""
    found = mapping(mapping(mapping(scores.get("scores")).get(whose)).get(protocol))
    return {name: value for name in METRICS if (value := number(found.get(name))) is not None}


def _as_text(table: pa.Table, *, source: str) -> pa.Table:
    """Return a table whose columns of text are strings, and its references lists of them.

    Raises:
        FormatError: if they are something else.
    """
    kinds = {"image_id": pa.string(), "uri": pa.string(), "caption": pa.string(), "references": pa.list_(pa.string())}
    try:
        for name in set(kinds) & set(table.column_names):
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kinds[name]))
    except pa.ArrowException as error:
        raise FormatError(f"{source} is damaged: column {name} is {table[name].type}") from error
    return table.set_column(table.column_names.index("image_id"), "image_id", pc.fill_null(table["image_id"], ""))


def _mapping(location: str) -> Mapping[str, Any]:
    content = read_json(location)
    if not isinstance(content, dict):
        raise FormatError(f"{location} is damaged: it is no object")
    return content


def _history(location: str) -> Mapping[str, Any]:
    content = _mapping(location)
    epochs = content.get("history")
    if not isinstance(epochs, list) or not all(isinstance(each, dict) for each in epochs):
        raise FormatError(f"{location} is damaged: it holds no list of epochs")
    return content
