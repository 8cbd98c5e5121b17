"""How the runs were made: options, versions, times and failures of each stage, as tables. Knows no files."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import pyarrow.compute as pc

from raycap.reporting.markup import Content, Markup, element, fragment, hostile
from raycap.reporting.scoring import scrolling, table_of
from raycap.reporting.sources import Source, mapping, number

_NOTHING = "—"


def timing(sources: Sequence[Source]) -> Markup:
    """Return when each stage ran, and what took how long."""
    rows: list[list[Content]] = []
    for name, source in zip(_names(sources), sources, strict=True):
        for stage, record in source.stages.items():
            begun, ended = _time(record.get("started_at")), _time(record.get("finished_at"))
            took = _duration((ended - begun).total_seconds()) if begun and ended else "not finished"
            when = begun.strftime("%Y-%m-%d %H:%M") if begun else _NOTHING
            rows.append([f"{name}{stage}", when, took, "; ".join(_details(stage, source)) or _NOTHING])
    if not rows:
        return Markup()
    return scrolling("Time of each stage", table_of(["stage", "started (UTC)", "took", "of which"], rows))


def training(sources: Sequence[Source]) -> Markup:
    """Return what training came to: a column a run."""
    columns = [dict(_training(source)) for source in sources]
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return Markup()
    rows = [[name, *(column.get(name, _NOTHING) for column in columns)] for name in names]
    return element("div", table_of(["", *("AB" if len(sources) == 2 else ["model"])], rows), class_="plot facts")


def _training(source: Source) -> Iterator[tuple[str, str]]:
    epochs = source.history.get("history", [])
    best = source.history.get("best_epoch")
    if not epochs:
        return
    yield "epochs", f"{len(epochs):,}"
    if isinstance(best, int) and 1 <= best <= len(epochs):
        yield "best epoch", f"{best:,}"
        for split in ("dev", "train"):
            if (loss := number(epochs[best - 1].get(f"{split}_loss"))) is not None:
                yield f"{split} loss there", f"{loss:.3f}"
    for field, what in (("wall_s", "time"), ("input_wait_s", "of which waiting for data")):
        if (seconds := _total(epochs, field)) is not None:
            yield what, _duration(seconds)
    if rates := [rate for each in epochs if (rate := number(each.get("captions_per_s"))) is not None]:
        yield "captions/s, median", f"{median(rates):,.0f}"


def _total(epochs: Sequence[Mapping[str, Any]], field: str) -> float | None:
    values = [value for each in epochs if (value := number(each.get(field))) is not None]
    return sum(values) if values else None


def _details(stage: str, source: Source) -> Iterator[str]:
    if stage == "evaluate" and (seconds := number(source.scores.get("decode_s"))) is not None:
        yield f"captioning {_duration(seconds)}"
    if stage == "train":
        epochs = source.history.get("history", [])
        for field, what in (("wall_s", f"{len(epochs)} epochs"), ("input_wait_s", "waiting for data")):
            if (total := _total(epochs, field)) is not None:
                yield f"{what} {_duration(total)}"


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time and (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def options(sources: Sequence[Source]) -> Markup:
    """Return every option of every stage, folded up; of two runs, what differs first."""
    blocks: list[Markup] = []
    if len(sources) == 2:
        blocks.append(_differences(*sources))
    for name, source in zip(_names(sources), sources, strict=True):
        for stage, record in source.stages.items():
            rows = [(key, _code(value)) for key, value in _flat(mapping(record.get("config")))]
            table = scrolling(f"Options of {name}{stage}", table_of(["option", "value"], rows))
            blocks.append(element("details", element("summary", f"{name}{stage}"), table))
        if source.card:
            shown = {key: value for key, value in source.card.items() if key not in {"training", "versions"}}
            rows = [(key, _code(value)) for key, value in _flat(shown)]
            title = f"{name}model card"
            table = scrolling(title, table_of(["field", "value"], rows))
            blocks.append(element("details", element("summary", title), table))
    return fragment(*blocks)


def _differences(first: Source, second: Source) -> Markup:
    """Return the options and versions in which two runs differ; where they wrote to is no difference."""
    flat = [
        {
            f"{stage}: {key}": value
            for stage, record in source.stages.items()
            for part in ("config", "versions")
            for key, value in _flat(mapping(record.get(part)))
            if key != "out"
        }
        for source in (first, second)
    ]
    keys = [key for key in dict.fromkeys([*flat[0], *flat[1]]) if flat[0].get(key) != flat[1].get(key)]
    if not keys:
        return element("p", "Both runs have the same options and versions.")
    rows = [(key, *(_code(each.get(key, _NOTHING)) for each in flat)) for key in keys]
    return scrolling("Options that differ", table_of(["what differs", "A", "B"], rows))


def versions(sources: Sequence[Source]) -> Markup:
    """Return the versions that each stage ran with: a column a stage, or one for all where they are the same."""
    found = {
        f"{name}{stage}": dict(mapping(record.get("versions"))) | {"git commit": record.get("git_commit")}
        for name, source in zip(_names(sources), sources, strict=True)
        for stage, record in source.stages.items()
    }
    if not found:
        return Markup()
    if all(each == next(iter(found.values())) for each in found.values()):
        found = {"every stage": next(iter(found.values()))}
    packages = dict.fromkeys(package for each in found.values() for package in each)
    rows = [(package, *(_code(each.get(package) or _NOTHING) for each in found.values())) for package in packages]
    return scrolling("Versions", table_of(["package", *found], rows))


def failure_counts(sources: Sequence[Source]) -> Markup:
    """Return how many photos failed, by reason."""
    rows: list[list[Content]] = []
    for name, source in zip(_names(sources), sources, strict=True):
        counts = pc.value_counts(source.failures["error_type"].combine_chunks()).to_pylist()
        counts.sort(key=lambda count: -count["counts"])
        rows += [[fragment(name, hostile(str(each["values"]))), f"{each['counts']:,}"] for each in counts]
    return table_of(["reason", "photos"], rows) if rows else Markup()


def failure_rows(sources: Sequence[Source], *, most: int) -> dict[str, list[str]]:
    """Return the failures for the page's script, a list a column, at most so many of each run."""
    columns: dict[str, list[str]] = {name: [] for name in ("image_id", "stage", "error_type", "error_message")}
    for source in sources:
        table = source.failures.slice(0, most)
        for name, values in columns.items():
            values += [str(value or "") for value in table[name].to_pylist()]
    return columns


def _names(sources: Sequence[Source]) -> list[str]:
    return [""] if len(sources) == 1 else ["A ", "B "]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _code(value: object) -> Markup:
    if isinstance(value, list):
        value = ", ".join(map(str, value[:20])) + (f" and {len(value) - 20} more" if len(value) > 20 else "")
    return element("code", hostile(_NOTHING if value is None else str(value)))
