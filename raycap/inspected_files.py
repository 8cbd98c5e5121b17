"""What one file, or a folder of Parquet files, that raycap wrote is. Reads as little as it can; no framework."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from raycap.encoder_card import EncoderCard
from raycap.errors import FormatError, InputError
from raycap.locations import as_utf8, file_name, join, parent
from raycap.model_card import MODEL_FILE, ModelCard
from raycap.neighbors import NEIGHBORS_FILE
from raycap.parquet import list_tables, open_parquet
from raycap.saved_models import read_config
from raycap.schema import CAPTIONS, CARD_KEY, FAILURES, GENERATED, PHOTOS
from raycap.storage import read_bytes, read_json

Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file is.

    Attributes:
        kind: in words.
        facts: what there is to know of it.
        columns: of its table.
        encoder: of its features, or its model.
    """

    kind: str
    facts: Facts = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    encoder: Facts = field(default_factory=dict)


def about_file(location: str) -> About:
    """Return what a file is.

    Raises:
        InputError: if it is none that raycap reads.
        FormatError: if it is damaged.
    """
    name = file_name(location).lower()
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            return reader(location)
    raise InputError(f"{as_utf8(location)} is no file that raycap writes: those end in {', '.join(_READERS)}")


def about_tables(folder: str) -> About:
    """Return what the Parquet files of a folder together are; their columns are those of the first."""
    names = list_tables(folder)
    rows = 0
    for name in names:
        schema, num_rows = _parquet(join(folder, name))
        if name == names[0]:
            first = schema
        rows += num_rows
    return _about_table(first, {"rows": rows, "shards": len(names)})


def encoder_facts(card: EncoderCard) -> Facts:
    """Return what there is to know of an encoder."""
    less = "" if card.precision == "float32" else f", computed in {card.precision}"
    return {
        "name": card.name,
        "weights": f"{card.weights}{f' (seed {card.seed})' if card.weights == 'random' else ''}",
        "hash": card.weights_hash[:12],
        "feature": f"{' x '.join(f'{size:,}' for size in card.shape)} numbers, of {card.layer}{less}",
        "photos": f"{card.height_px} x {card.width_px}, {card.resize}{', upright' if card.exif_orientation else ''}",
    }


def bundle_facts(location: str, card: ModelCard) -> Facts:
    """Return what there is to know of a bundle's model."""
    number = parameters(join(location, MODEL_FILE))
    facts: Facts = {"parameters": number, "vocabulary": card.vocab_size, "max length": card.max_length}
    if card.has_neighbors:
        facts["neighbors"] = f"{_parquet(join(location, NEIGHBORS_FILE))[1]:,} training photos"
    if card.has_matching:
        facts["matching"] = "of captions and photos"
    return facts


def score_facts(scores: Mapping[str, Mapping[str, float]]) -> Facts:
    """Return the scores under each protocol, on a line each."""
    return {
        protocol: ", ".join(f"{name.replace('_', '-').upper()} {value:.3f}" for name, value in values.items())
        for protocol, values in scores.items()
    }


def parameters(location: str) -> int:
    """Return how many numbers a saved Keras model has learnt or holds, without loading it.

    Raises:
        FormatError: if it is not a saved Keras model.
    """
    import h5py

    content = read_bytes(location)
    total = 0

    def add(name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset) and not {"optimizer", "seed_generator"}.intersection(name.split("/")):
            total += item.size

    try:
        read_config(content)  # what is no saved model, or would fill the memory, ends here
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "r") as file:
            file.visititems(add)
    except (ValueError, OSError, KeyError) as error:
        raise FormatError(f"{location} is not a saved Keras model: {error}") from error
    return total


def _parquet(location: str) -> tuple[pa.Schema, int]:
    try:
        with open_parquet(location) as file:
            return file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
        raise FormatError(f"{location} is not whole Parquet: {error}") from error


def _about_table(schema: pa.Schema, facts: Facts) -> About:
    columns = {field.name: str(field.type) for field in schema}
    metadata = schema.metadata or {}
    if CARD_KEY in metadata and "feature" in columns:  # captions that were made of features carry the card too
        card = EncoderCard.from_json(metadata[CARD_KEY], source="the file")
        return About(kind="features", facts=facts, columns=columns, encoder=encoder_facts(card))
    kinds = [kind for kind, names in _TABLES.items() if names <= columns.keys()]
    return About(kind=kinds[0] if kinds else "a table that raycap did not write", facts=facts, columns=columns)


def _about_parquet(location: str) -> About:
    schema, num_rows = _parquet(location)
    return _about_table(schema, {"rows": num_rows})


def _about_json(location: str) -> About:
    content = read_json(location)
    if isinstance(content, dict):
        names = content.keys()
        if {"stage", "identity"} <= names:
            stage = str(content["stage"])
            return About(kind=f"the record of a run of {stage}; inspect {parent(location)} says more")
        if {"encoder", "max_length", "vocab_size"} <= names:
            card = ModelCard.from_fields(content, source=location)
            facts = {"vocabulary": card.vocab_size, "max length": card.max_length}
            return About(kind="the card of a model bundle", facts=facts, encoder=encoder_facts(card.encoder))
        for kind, wanted in _DOCUMENTS.items():
            if wanted <= names:
                of_model = score_facts(content["scores"].get("model", {})) if "signatures" in wanted else {}
                return About(kind=kind, facts={**_sizes(content), **of_model})
        return About(kind="JSON that raycap did not write", facts=_sizes(content))
    length = {"entries": len(content)} if isinstance(content, list) else {}
    return About(kind="JSON that raycap did not write", facts=length)


def _sizes(content: dict[str, Any]) -> Facts:
    """Return what is at the top of a JSON object: values that are short, and how long the others are."""
    return {
        name: f"{len(value):,} entries" if isinstance(value, list | dict) else value
        for name, value in list(content.items())[:20]
        if not isinstance(value, str) or len(value) <= 100
    }


def _about_jsonl(location: str) -> About:
    lines = [line for line in read_bytes(location).splitlines() if line.strip()]
    try:
        first = json.loads(lines[0]) if lines else {}
    except ValueError as error:
        raise FormatError(f"{location} is not JSON lines: {error}") from error
    return _about_rows(list(first) if isinstance(first, dict) else [], len(lines))


def _about_csv(location: str) -> About:
    text = io.StringIO(read_bytes(location).decode("utf-8-sig", errors="replace"), newline="")
    try:
        header, *rows = list(csv.reader(text)) or [[]]
    except csv.Error as error:
        raise FormatError(f"{location} is not CSV: {error}") from error
    return _about_rows(header, len(rows))


def _about_rows(names: list[str], rows: int) -> About:
    columns = dict.fromkeys(names, "")
    kinds = [kind for kind, wanted in _TABLES.items() if wanted <= columns.keys()]
    return About(kind=kinds[0] if kinds else "a table that raycap did not write", facts={"rows": rows}, columns=columns)


def _about_model(location: str) -> About:
    number = parameters(location)
    config = read_config(read_bytes(location)).get("config", {})
    layers = config.get("layers", []) if isinstance(config, dict) else []
    names = [str(layer.get("class_name")) for layer in layers if isinstance(layer, dict)]
    return About(kind="a saved Keras model", facts={"parameters": number, "layers": names[:40]})


_TABLES: Final[dict[str, frozenset[str]]] = {
    "captions that a model made, beside what people said": frozenset({"image_id", "hypothesis", "references"}),
    "captions that a model made": frozenset(GENERATED.names[:5]),
    "photos that failed, and why": frozenset(FAILURES.names),
    "captions that people wrote, cleaned": frozenset(CAPTIONS.names),
    "a manifest: the photos of a dataset and their splits": frozenset(PHOTOS.names),
    "a manifest": frozenset({"image_id", "uri"}),
    "problems that prepare found": frozenset({"kind", "where", "detail"}),
}
_DOCUMENTS: Final[dict[str, frozenset[str]]] = {
    "scores of a model": frozenset({"scores", "signatures", "split"}),
    "the history of a training": frozenset({"history", "best_epoch"}),
    "a vocabulary": frozenset({"words", "max_length"}),
}
_READERS: Final[dict[str, Callable[[str], About]]] = {
    ".parquet": _about_parquet,
    ".json": _about_json,
    ".jsonl": _about_jsonl,
    ".csv": _about_csv,
    ".keras": _about_model,
}
