"""What a person reads of the result of a command that is no stage. Knows results by their fields, and runs nothing."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from raycap.progress import counted, printable
from raycap.summaries import by_reason, say_evaluate

if TYPE_CHECKING:
    from raycap.demo import DemoResult
    from raycap.doctor import DoctorResult
    from raycap.export import ExportResult
    from raycap.inspection import Inspection
    from raycap.reporting.report import ReportResult
    from raycap.serve import ServeResult
    from raycap.workflow import RunResult


def say_demo(result: "DemoResult", config: Any) -> str:
    """Return examples and scores."""
    examples = [
        f"{printable(each['image_id'])}: {each['hypothesis']}\n    a person said: {each['references'][0]}"
        for each in result.examples
    ]
    weights = "RANDOM weights" if result.weights == "random" else "ImageNet weights"
    head = f"test scenes, whose combinations training does not show (VGG16 with {weights})"
    scores = say_evaluate(result.evaluation, config).rsplit("\n", 1)[0]
    report = [f"report in {result.report}"] if result.report else []
    return "\n".join([head, *examples, "", scores, *report, f"everything that a real run writes is in {config.out}"])


def say_run(result: "RunResult", config: Any) -> str:
    """Return the scores, and where the report is."""
    scores = say_evaluate(result.evaluation, config.evaluate)
    return f"{scores}\nreport in {result.report}" if result.report else scores


def say_report(result: "ReportResult", _: Any) -> str:
    """Return where the report is and what it shows."""
    shown = f"{counted(result.num_photos, 'photo')}, {result.num_thumbnails:,} of them shown"
    lines = [f"{result.location}: {shown}, {result.num_bytes / 1e6:.1f} MB; open it in a browser"]
    if result.num_unreadable:
        lines.append(f"{counted(result.num_unreadable, 'photo')} could not be read; a placeholder stands there")
    return "\n".join([*lines, *(f"left out: {printable(each)}" for each in result.left_out)])


def say_export(result: "ExportResult", _: Any) -> str:
    """Return where the model is, and what it takes and gives."""
    what = f"{result.feature_dim:,} numbers of {printable(result.encoder)} and words so far"
    return f"{result.location}: {what}, to the next of {result.vocab_size:,} words; docs/formats.md shows its use"


def say_serve(result: "ServeResult", _: Any) -> str:
    """Return how long photos were captioned."""
    return f"stopped after {result.served_s:,.0f} s"


def say_inspection(result: "Inspection", _: Any) -> str:
    """Return what was found, a line each."""
    return "\n\n".join([_inspected(result), *(_inspected(part, briefly=True) for part in result.parts)])


def _inspected(found: "Inspection", *, briefly: bool = False) -> str:
    rows: list[tuple[str, Iterable[str]]] = [("is", [found.kind])]
    if found.unfinished:
        rows.append(("unfinished", [found.unfinished]))
    rows += [(name.replace("_", " "), [_value(value)]) for name, value in found.facts.items()]
    if found.failures:
        rows.append(("failures", [f"{sum(found.failures.values()):,}: {by_reason(found.failures)}"]))
    rows.append(("encoder", _pairs(found.encoder)))
    if not briefly:
        rows.append(("columns", _pairs(found.columns)))
    rows.append(("options", [f"{name} = {_value(value)}" for name, value in found.changed_options.items()]))
    if not briefly:
        rows.append(
            ("defaults", _wrapped(f"{name} = {_value(value)}" for name, value in found.default_options.items()))
        )
        rows.append(("versions", _wrapped(_pairs(found.versions))))
        rows.append(("commit", [found.git_commit] if found.git_commit else []))
        rows.append(("started", [found.started_at] if found.started_at else []))
    rows.append(("finished", [found.finished_at] if found.finished_at else []))
    if found.num_bytes is not None:
        rows.append(("size", [f"{_bytes(found.num_bytes)} in {counted(found.num_files, 'file')}"]))
    column = 2 + max(len(name) for name, _ in rows)
    lines = [printable(found.location)]
    for name, texts in rows:
        for number, text in enumerate(texts):
            lines.append(f"  {'' if number else printable(name):<{column}}{printable(text)}".rstrip())
    return "\n".join(lines)


def _wrapped(items: Iterable[str]) -> list[str]:
    return textwrap.wrap(", ".join(items), 92, break_long_words=False, break_on_hyphens=False)


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {_value(value)}" for name, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _bytes(number: int) -> str:
    size, units = float(number), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def say_doctor(result: "DoctorResult", _: Any) -> str:
    """Return what was looked at, a line each, and what to do."""
    widest = max(len(check.name) for check in result.checks)
    lines = []
    for check in result.checks:
        lines.append(f"{check.state:<9}{check.name:<{widest + 2}}{printable(check.found)}")
        if check.advice:
            lines.append(f"{'':<{9 + widest + 2}}-> {printable(check.advice)}")
    problems = sum(check.state == "problem" for check in result.checks)
    warnings = sum(check.state == "warning" for check in result.checks)
    return "\n".join([*lines, "", f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}"])
