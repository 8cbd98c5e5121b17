"""What something that raycap wrote is: a folder of a stage's, a bundle, a whole run, or one file.

Reads records, cards and the ends of Parquet files; loads neither Ray nor TensorFlow.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from raycap import config as stage_configs
from raycap.errors import FormatError, InputError
from raycap.features import FOLDER as FEATURES_FOLDER
from raycap.features import FeatureSet
from raycap.inspected_files import Facts, about_file, about_tables, bundle_facts, encoder_facts, score_facts
from raycap.locations import absolute, as_utf8, join
from raycap.model_card import BUNDLE_FOLDER, CARD_FILE, read_card
from raycap.options import options_of
from raycap.parquet import list_tables, read_table
from raycap.prepared import CAPTIONS_FILE, PHOTOS_FILE
from raycap.runs import RUN_FILE, read_run
from raycap.shards import FAILURES_FOLDER
from raycap.storage import exists, is_folder, num_bytes, walk_files
from raycap.text import TOKENIZER_FILE
from raycap.tool_config import InspectConfig

_RUN_PARTS: Final = ("prepared", "encoder", "features", "model", "scores")
_OPTIONAL_PARTS: Final = frozenset({"encoder"})


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What something is.

    Attributes:
        location: of it.
        kind: in words.
        facts: what there is to know of this kind of thing, by name: rows, vocabulary, scores.
        columns: of its table, with their types.
        encoder: whose features it holds or was trained on.
        failures: how many photos failed for each reason.
        changed_options: that it was made with and that are not the defaults.
        default_options: that are.
        versions: of the packages it was made with.
        git_commit: of the raycap it was made with, where that was a checkout.
        started_at: UTC.
        finished_at: UTC.
        unfinished: what is missing and what to do, where it is not whole.
        num_bytes: of its files.
        num_files: how many.
        parts: the stages' folders of a run.
    """

    location: str
    kind: str
    facts: Facts = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    encoder: Facts = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    changed_options: Facts = field(default_factory=dict)
    default_options: Facts = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    unfinished: str | None = None
    num_bytes: int | None = None
    num_files: int = 1
    parts: tuple["Inspection", ...] = ()


def inspect(config: InspectConfig) -> Inspection:
    """Return what is at a location.

    Raises:
        InputError: if there is nothing, or nothing that raycap knows.
        FormatError: if it is damaged, or a newer raycap's.
    """
    location = absolute(config.path)
    if is_folder(location):
        return _folder(location)
    if not exists(location):
        raise InputError(f"there is nothing at {as_utf8(location)}")
    about = about_file(location)
    return Inspection(
        location=location,
        kind=about.kind,
        facts=about.facts,
        columns=about.columns,
        encoder=about.encoder,
        num_bytes=num_bytes(location),
    )


def _folder(location: str) -> Inspection:
    record = read_run(location)
    if record is not None:
        found = _stage_output(location, record)
    elif exists(join(location, CARD_FILE)):
        found = _bundle(location)
    elif list_tables(location):
        about = about_tables(location)
        found = Inspection(
            location=location, kind=about.kind, facts=about.facts, columns=about.columns, encoder=about.encoder
        )
    else:
        found = _whole_run(location)
    files = list(walk_files(location, hidden=True))
    sizes = [num_bytes(join(location, file.name)) if file.num_bytes is None else file.num_bytes for file in files]
    return replace(found, num_bytes=sum(size or 0 for size in sizes), num_files=len(files))


def _whole_run(location: str) -> Inspection:
    there = [name for name in _RUN_PARTS if exists(join(location, name, RUN_FILE))]
    if not there:
        known = f"neither {RUN_FILE} nor {CARD_FILE}, and no Parquet file"
        raise InputError(f"{as_utf8(location)} is nothing that raycap wrote: it holds {known}")
    parts = tuple(_folder(join(location, name)) for name in there)
    missing = [name for name in _RUN_PARTS if name not in {*there, *_OPTIONAL_PARTS}]
    unfinished = [name for name, part in zip(there, parts, strict=True) if part.unfinished]
    said = [f"no {name}" for name in missing] + [f"{name} is not finished" for name in unfinished]
    report = join(location, "report.html")
    return Inspection(
        location=location,
        kind="a run: the outputs of several stages",
        facts={"holds": ", ".join(there), **({"report": report} if exists(report) else {})},
        unfinished=", ".join(said) or None,
        parts=parts,
    )


def _stage_output(location: str, record: Mapping[str, Any]) -> Inspection:
    stage = str(record["stage"])
    about = _STAGES.get(stage)
    found = about(location, record) if about else Inspection(location=location, kind=f"what {stage} wrote")
    changed, defaults = _options(stage, record.get("config") or {})
    begun = record.get("started_at")
    unfinished = f"begun at {begun}, and not finished; the same command goes on" if record["result"] is None else None
    return replace(
        found,
        failures=_reasons(join(location, FAILURES_FOLDER)),
        changed_options=changed,
        default_options=defaults,
        versions=dict(record.get("versions") or {}),
        git_commit=record.get("git_commit"),
        started_at=begun,
        finished_at=record.get("finished_at"),
        unfinished=unfinished,
    )


def _options(stage: str, config: Mapping[str, Any]) -> tuple[Facts, Facts]:
    """Return the options of a record that differ from the defaults, and those that do not."""
    known = getattr(stage_configs, f"{stage.capitalize()}Config", None)
    defaults = {option.path: option.default for option in options_of(known)} if known else {}
    changed: Facts = {}
    same: Facts = {}
    for path, value in _flat(config):
        default = defaults.get(path, ...)
        is_same = value == (list(default) if isinstance(default, tuple) else default)
        (same if is_same else changed)[".".join(path)] = value
    return changed, same


def _flat(config: Mapping[str, Any], at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    rows: list[tuple[tuple[str, ...], Any]] = []
    for name, value in config.items():
        rows += _flat(value, (*at, name)) if isinstance(value, dict) else [((*at, name), value)]
    return rows


def _reasons(folder: str) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for name in list_tables(folder):
        reasons.update(read_table(join(folder, name), columns=["error_type"])["error_type"].to_pylist())
    return dict(reasons)


def _result(record: Mapping[str, Any], *names: str) -> Facts:
    result = record["result"] or {}
    return {name.removeprefix("num_").replace("_", " "): result[name] for name in names if name in result}


def _prepared(location: str, record: Mapping[str, Any]) -> Inspection:
    facts: Facts = {}
    for name in ("num_photos", "num_captions"):
        by_split = (record["result"] or {}).get(name) or {}
        facts[name.removeprefix("num_")] = ", ".join(f"{split} {count:,}" for split, count in by_split.items())
    facts |= _result(record, "vocab_size", "max_length")
    problems = (record["result"] or {}).get("num_problems") or {}
    facts["problems"] = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in problems.items()) or "none"
    missing = [name for name in (PHOTOS_FILE, CAPTIONS_FILE, TOKENIZER_FILE) if not exists(join(location, name))]
    if missing and record["result"] is not None:
        raise FormatError(f"{location} is damaged: it lacks {', '.join(missing)}; run raycap prepare again")
    return Inspection(location=location, kind="a prepared dataset: manifest, captions, tokenizer", facts=facts)


def _finetuned(location: str, record: Mapping[str, Any]) -> Inspection:
    facts = {
        "epochs": len((record["result"] or {}).get("history", [])),
        **_result(record, "best_epoch", "best_dev_loss", "encoder"),
    }
    return Inspection(
        location=location, kind="what finetune wrote: an encoder", facts=facts if record["result"] else {}
    )


def _features(location: str, _: Mapping[str, Any]) -> Inspection:
    folder = join(location, FEATURES_FOLDER)
    if not list_tables(folder):
        return Inspection(location=location, kind="features, of which there are none yet")
    about = about_tables(folder)
    card = FeatureSet.open(location).card  # shards of different encoders end here
    return Inspection(
        location=location, kind="features", facts=about.facts, columns=about.columns, encoder=encoder_facts(card)
    )


def _trained(location: str, record: Mapping[str, Any]) -> Inspection:
    kind = "what train wrote: a model bundle, its history and logs"
    facts = {
        "epochs": len((record["result"] or {}).get("history", [])),
        **_result(record, "best_epoch", "best_dev_loss"),
    }
    if not exists(join(location, BUNDLE_FOLDER, CARD_FILE)):
        return Inspection(location=location, kind=kind, facts=facts if record["result"] else {})
    bundle = join(location, BUNDLE_FOLDER)
    card = read_card(bundle)
    facts |= bundle_facts(bundle, card)
    return Inspection(location=location, kind=kind, facts=facts, encoder=encoder_facts(card.encoder))


def _bundle(location: str) -> Inspection:
    card = read_card(location)
    metrics = {name.replace("_", " "): card.metrics[name] for name in ("epoch", "dev_loss") if name in card.metrics}
    facts = bundle_facts(location, card)
    changed, defaults = _options("train", card.training)
    return Inspection(
        location=location,
        kind="a model bundle",
        facts={**facts, **metrics},
        encoder=encoder_facts(card.encoder),
        changed_options=changed,
        default_options=defaults,
        versions=dict(card.versions),
    )


def _scored(location: str, record: Mapping[str, Any]) -> Inspection:
    scores: Mapping[str, Any] = (record["result"] or {}).get("scores") or {}
    facts = {**_result(record, "num_photos"), **score_facts(scores)}
    return Inspection(location=location, kind="scores of a model, and its captions", facts=facts)


def _captioned(location: str, record: Mapping[str, Any]) -> Inspection:
    folder = join(location, "captions")
    if not list_tables(folder):
        return Inspection(location=location, kind="captions, of which there are none yet")
    about = about_tables(folder)
    facts = {**about.facts, **_result(record, "num_photos", "num_left")}
    return Inspection(location=location, kind="captions of photos", facts=facts, columns=about.columns)


_STAGES: Final[Mapping[str, Any]] = {
    "prepare": _prepared,
    "finetune": _finetuned,
    "extract": _features,
    "train": _trained,
    "evaluate": _scored,
    "caption": _captioned,
}
