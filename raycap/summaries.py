"""What a person reads of a result: a few lines each, of text alone. Knows results by their fields, and runs nothing."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raycap.progress import counted, printable

if TYPE_CHECKING:
    from raycap.demo import DemoResult
    from raycap.doctor import DoctorResult
    from raycap.inspection import Inspection
    from raycap.stages.caption import CaptionPlan, CaptionResult
    from raycap.stages.evaluate import EvaluateResult
    from raycap.stages.extract import ExtractResult
    from raycap.stages.prepare import PrepareResult
    from raycap.stages.train import TrainResult
    from raycap.workflow import RunResult


def by_reason(reasons: Mapping[str, int]) -> str:
    """Return how many failed for each reason, the most first: `2 ImageDecodeError, 1 ImageMissingError`."""
    return ", ".join(f"{count:,} {printable(name)}" for name, count in Counter(reasons).most_common())


def _failed(number: int, reasons: Mapping[str, int]) -> str:
    return f"{counted(number, 'photo')} failed" + (f": {by_reason(reasons)}" if reasons else "")


def say_prepare(result: "PrepareResult", config: Any) -> str:
    splits = ", ".join(
        f"{split} {counted(photos, 'photo')}, {counted(result.num_captions[split], 'caption')}, "
        f"{counted(result.num_pairs[split], 'pair')}"
        for split, photos in result.num_photos.items()
    )
    problems = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in result.num_problems.items())
    listed = f"{problems}; listed in {config.out}/problems.jsonl" if problems else "none"
    return (
        f"{splits}\nvocabulary {result.vocab_size:,} words with padding, longest caption {result.max_length} tokens\n"
        f"problems: {listed}"
    )


def say_extract(result: "ExtractResult", config: Any) -> str:
    done = f"{counted(result.num_features, 'feature')} in {config.out} ({counted(result.num_new, 'photo')} in this run)"
    if not result.num_failures:
        return done
    return f"{done}\n{_failed(result.num_failures, result.reasons)}; see {config.out}/failures"


def say_train(result: "TrainResult", config: Any) -> str:
    return f"dev loss {result.best_dev_loss:.3f} at epoch {result.best_epoch}; model in {config.out}/bundle"


def say_evaluate(result: "EvaluateResult", config: Any) -> str:
    head = f"{result.split}: {counted(result.num_photos, 'photo')}, {counted(result.num_references, 'reference')}"
    if result.num_missing:
        head += f"; {counted(result.num_missing, 'photo')} left out for want of a feature"
    lines = [head, f"{'protocol':<10}{'captions':<20}{'BLEU-1':>8}{'BLEU-2':>8}{'BLEU-3':>8}{'BLEU-4':>8}"]
    for protocol in result.signatures:
        for whose, scores in result.scores.items():
            values = "".join(f"{value:>8.3f}" for value in scores[protocol].values())
            lines.append(f"{protocol:<10}{whose:<20}{values}")
    if not result.keeps_one_letter_words:
        lines.append('the model cannot say "a": standard scores need prepare --keep-one-letter-words')
    return "\n".join([*lines, f"scores and captions in {config.out}"])


def say_caption(result: "CaptionResult", config: Any) -> str:
    where = f" in {config.out} ({counted(result.num_new, 'photo')} in this run)" if config.out else ""
    lines = [f"{counted(result.num_captions, 'caption')} of {counted(result.num_photos, 'photo')}{where}"]
    if result.num_failures:
        more = f"; see {config.out}/failures; --retry-failed tries again" if config.out else ""
        lines.append(f"{_failed(result.num_failures, result.reasons)}{more}")
    if result.num_left:
        lines.append(f"{counted(result.num_left, 'photo')} left; the same command goes on from there")
    if result.sidecars is not None:
        lines.append(f"{counted(result.sidecars.written, '.txt file')} written")
        if result.sidecars.kept:
            lines.append(f"{counted(result.sidecars.kept, '.txt file')} kept as before; --overwrite-sidecars replaces such files")
    return "\n".join(lines)


def say_plan(planned: "CaptionPlan", config: Any) -> str:
    where = f"{config.out}, {planned.photos_per_shard:,} a file at most" if config.out else "standard output"
    return "\n".join(
        [
            f"{counted(planned.num_photos, 'photo')} found",
            f"{planned.num_captions:,} have a caption, {planned.num_failures:,} have failed",
            f"{planned.num_pending:,} would be captioned ({planned.pending_bytes / 1e6:,.1f} MB), to {where}",
            "nothing was done (--dry-run)",
        ]
    )


def say_demo(result: "DemoResult", config: Any) -> str:
    examples = [
        f"{printable(each['image_id'])}: {each['hypothesis']}\n    a person said: {each['references'][0]}"
        for each in result.examples
    ]
    weights = "RANDOM weights" if result.weights == "random" else "ImageNet weights"
    head = f"test scenes, whose combinations training does not show (VGG16 with {weights})"
    scores = say_evaluate(result.evaluation, config).rsplit("\n", 1)[0]
    return "\n".join([head, *examples, "", scores, f"everything that a real run writes is in {config.out}"])


def say_run(result: "RunResult", config: Any) -> str:
    scores = say_evaluate(result.evaluation, config.evaluate)
    return f"{scores}\nreport in {result.report}" if result.report else scores


def say_inspection(result: "Inspection", config: Any) -> str:
    parts = [_inspected(result), *(f"\n{_inspected(part)}" for part in result.parts)]
    return "\n".join(parts)


def _inspected(found: "Inspection") -> str:
    rows: list[tuple[str, str]] = [("is", found.kind)]
    rows += [(name, _value(value)) for name, value in found.facts.items()]
    if found.failures:
        rows.append(("failures", f"{sum(found.failures.values()):,}: {by_reason(found.failures)}"))
    rows += [("encoder" if not index else "", line) for index, line in enumerate(_pairs(found.encoder))]
    rows += [("columns" if not index else "", line) for index, line in enumerate(_pairs(found.columns))]
    for title, options in (("options", found.changed_options), ("defaults", found.default_options)):
        rows += [(title if not index else "", line) for index, line in enumerate(_pairs(options))]
    if found.versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())))
    for name in ("git_commit", "started_at", "finished_at"):
        if getattr(found, name):
            rows.append((name.partition("_")[0] if name != "git_commit" else "commit", getattr(found, name)))
    if found.unfinished:
        rows.append(("unfinished", found.unfinished))
    if found.num_bytes is not None:
        rows.append(("size", f"{_bytes(found.num_bytes)} in {counted(found.num_files, 'file')}"))
    lines = [f"  {name:<12}{printable(text)}".rstrip() for name, text in rows]
    return "\n".join([printable(found.location), *lines])


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


def say_doctor(result: "DoctorResult", config: Any) -> str:
    widest = max(len(check.name) for check in result.checks)
    lines = []
    for check in result.checks:
        lines.append(f"{check.state:<9}{check.name:<{widest + 2}}{printable(check.found)}")
        if check.advice:
            lines.append(f"{'':<{9 + widest + 2}}-> {printable(check.advice)}")
    problems = sum(check.state == "problem" for check in result.checks)
    warnings = sum(check.state == "warning" for check in result.checks)
    return "\n".join([*lines, "", f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}"])
