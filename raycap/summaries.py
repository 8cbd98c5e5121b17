"""What a person reads of a stage's result: a few lines of text. Knows results by their fields, and runs nothing."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raycap.progress import counted, printable

if TYPE_CHECKING:
    from raycap.scores import EvaluateResult
    from raycap.stages.caption import CaptionPlan, CaptionResult
    from raycap.stages.extract import ExtractResult
    from raycap.stages.finetune import FinetuneResult
    from raycap.stages.prepare import PrepareResult
    from raycap.stages.train import TrainResult


def by_reason(reasons: Mapping[str, int]) -> str:
    """Return how many failed for each reason, the most first: `2 ImageDecodeError, 1 ImageMissingError`."""
    return ", ".join(f"{count:,} {printable(name)}" for name, count in Counter(reasons).most_common())


def _failed(number: int, reasons: Mapping[str, int]) -> str:
    return f"{counted(number, 'photo')} failed" + (f": {by_reason(reasons)}" if reasons else "")


def say_prepare(result: "PrepareResult", config: Any) -> str:
    """Return what was read, in words."""
    splits = "\n".join(
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
    """Return the features, in words."""
    done = f"{counted(result.num_features, 'feature')} in {config.out} ({counted(result.num_new, 'photo')} in this run)"
    if not result.num_failures:
        return done
    return f"{done}\n{_failed(result.num_failures, result.reasons)}; see {config.out}/failures"


def say_finetune(result: "FinetuneResult", _: Any) -> str:
    """Return the encoder, in words."""
    return f"dev loss {result.best_dev_loss:.2f} at epoch {result.best_epoch}; encoder in {result.encoder}"


def say_train(result: "TrainResult", config: Any) -> str:
    """Return the model, in words."""
    return f"dev loss {result.best_dev_loss:.3f} at epoch {result.best_epoch}; model in {config.out}/bundle"


def say_evaluate(result: "EvaluateResult", config: Any) -> str:
    """Return the scores as tables."""
    from raycap.score_tables import evaluation_text

    return f"{evaluation_text(result)}\nscores and captions in {config.out}"


def say_caption(result: "CaptionResult", config: Any) -> str:
    """Return the captions, in words."""
    where = f" in {config.out} ({counted(result.num_new, 'photo')} in this run)" if config.out else ""
    lines = [f"{counted(result.num_captions, 'caption')} of {counted(result.num_photos, 'photo')}{where}"]
    if result.num_failures:
        more = f"; see {config.out}/failures; --retry-failed tries again" if config.out else ""
        lines.append(f"{_failed(result.num_failures, result.reasons)}{more}")
    if result.num_left:
        more = "; the same command goes on from there" if config.out else ""
        lines.append(f"{counted(result.num_left, 'photo')} left{more}")
    if result.sidecars is not None:
        lines.append(f"{counted(result.sidecars.written, '.txt file')} written")
        if result.sidecars.kept:
            lines.append(
                f"{counted(result.sidecars.kept, '.txt file')} kept as before; --overwrite-sidecars replaces such files"
            )
    return "\n".join(lines)


def say_plan(planned: "CaptionPlan", config: Any) -> str:
    """Return what a run would do, in words."""
    where = f"{config.out}, {planned.photos_per_shard:,} a file at most" if config.out else "standard output"
    return "\n".join(
        [
            f"{counted(planned.num_photos, 'photo')} found",
            f"{planned.num_captions:,} have a caption, {planned.num_failures:,} have failed",
            f"{planned.num_pending:,} would be captioned ({planned.pending_bytes / 1e6:,.1f} MB), to {where}",
            "nothing was done (--dry-run)",
        ]
    )
