"""The command line: `raycap <stage>`; reads options, runs the stage, says what came of it. Nothing else."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raycap.errors import InputError, RaycapError
from raycap.progress import is_quiet, printable, say, show, show_json

if TYPE_CHECKING:
    from raycap.demo import DemoResult
    from raycap.export import ExportResult
    from raycap.reporting.report import ReportResult
    from raycap.scores import EvaluateResult
    from raycap.serve import ServeResult
    from raycap.stages.caption import CaptionPlan, CaptionResult
    from raycap.stages.extract import ExtractResult
    from raycap.stages.prepare import PrepareResult
    from raycap.stages.train import TrainResult

_STAGES: Mapping[str, tuple[str, str]] = {
    "prepare": ("PrepareConfig", "caption files and a photo folder: manifest, captions, tokenizer"),
    "extract": ("ExtractConfig", "a feature for each photo, with Ray Data"),
    "train": ("TrainConfig", "the merge model, with Ray Train"),
    "evaluate": ("EvaluateConfig", "captions of a split and their scores, with Ray Data"),
    "caption": ("CaptionConfig", "captions of new photos, with Ray Data"),
    "export": ("ExportConfig", "a model for programs without raycap: Keras, SavedModel, ONNX"),
    "serve": ("ServeConfig", "captions over HTTP and on a page, with Ray Serve"),
    "demo": ("DemoConfig", "all of it, on a built-in dataset"),
    "report": ("ReportConfig", "scores, plots and a gallery of a run as one HTML file, or of two side by side"),
}
_TOOLS: Mapping[str, str] = {
    "report": "raycap.reporting.report",
    "export": "raycap.export",
    "serve": "raycap.serve",
}  # commands that are no stage, and where they are
_EXIT_DONE, _EXIT_FAILED, _EXIT_INPUT, _EXIT_PHOTOS_FAILED, _EXIT_INTERRUPTED = 0, 1, 2, 3, 130
_SWITCHES = {"--verbose": "RAYCAP_VERBOSE", "--quiet": "RAYCAP_QUIET", "--json": "RAYCAP_JSON"}

_HELP = """usage: raycap STAGE [OPTIONS]

Train a photo captioner and run it over very many photos, on Ray.

stages:
{stages}

raycap STAGE --help lists a stage's options.
--json prints results as JSON, on standard output; --quiet says nothing but errors.
--debug shows where an error comes from; --verbose, what Ray and its workers log.
Exit codes: 0 done, 1 failed, 2 wrong input or options, 3 captioned but for photos that failed, 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Args:
        arguments: without the program's name; by default, this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [each for each in given if each not in {"--debug", *_SWITCHES}]
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        return _EXIT_DONE if words else _EXIT_INPUT
    if words[0] == "--version":
        from raycap import __version__

        print(f"raycap {__version__}")
        return _EXIT_DONE
    with _switched_on(given):
        try:
            return _run(words[0], words[1:])
        except RaycapError as error:
            if "--debug" in given:
                raise
            say(f"raycap {words[0]}: {error}", always=True)
            return _EXIT_INPUT if isinstance(error, InputError) else _EXIT_FAILED
        except Exception as error:
            if "--debug" in given:
                raise
            say(f"raycap {words[0]}: {_in_a_line(error)}", always=True)
            return _EXIT_FAILED
        except KeyboardInterrupt:
            say(f"raycap {words[0]}: interrupted; the same command goes on from here", always=True)
            return _EXIT_INTERRUPTED


def _in_a_line(error: Exception) -> str:
    """Return what a person needs of an error that is not raycap's own; Ray's end with the line that counts."""
    last = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
    if isinstance(error, OSError):
        return f"cannot read or write: {last}; once that is mended, the same command goes on"
    return f"{last} ({type(error).__name__}); --debug shows where it comes from"


@contextmanager
def _switched_on(given: Sequence[str]) -> Iterator[None]:
    """Set the environment variables of the switches that are given, which workers see too, while the block runs."""
    was = dict(os.environ)
    os.environ.update({variable: "1" for switch, variable in _SWITCHES.items() if switch in given})
    if not os.environ.get("RAYCAP_VERBOSE"):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        yield
    finally:
        for variable in _SWITCHES.values():
            os.environ.pop(variable, None)
        os.environ.update(was)


def _help() -> str:
    return _HELP.format(stages="\n".join(f"  {name:<10}{help_text}" for name, (_, help_text) in _STAGES.items()))


def _run(stage: str, options: Sequence[str]) -> int:
    if stage not in _STAGES:
        import difflib

        near = difflib.get_close_matches(stage, _STAGES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(_STAGES)}"
        raise InputError(f"there is no stage {stage!r}{hint}")
    import tyro

    options_in = importlib.import_module("raycap.tool_config" if stage in _TOOLS else "raycap.config")
    config = tyro.cli(
        getattr(options_in, _STAGES[stage][0]),
        prog=f"raycap {stage}",
        args=list(options),
        config=(tyro.conf.OmitArgPrefixes,),  # --units, not --model.units
    )
    if stage == "caption":
        return _caption(config)
    module = _TOOLS.get(stage, "raycap.demo" if stage == "demo" else f"raycap.stages.{stage}")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), stage)
    result = function(config)
    _print_result(result, _SAY[stage](result, config))
    return _EXIT_DONE


def _print_result(result: Any, text: str) -> None:
    """Print what came of a stage, on standard output."""
    if _as_json():
        show_json(asdict(result))
    elif not is_quiet():
        show(text)


def _as_json() -> bool:
    return bool(os.environ.get("RAYCAP_JSON"))


def _caption(config: Any) -> int:
    from raycap.stages.caption import caption, plan

    if config.dry_run:
        planned = plan(config)
        _print_result(planned, _say_plan(planned, config))
        return _EXIT_DONE
    result = caption(config, show=_show_caption)
    line = _say_caption(result, config)
    if config.out:
        _print_result(result, line)
    else:
        say(line)  # standard output holds the captions
    return _EXIT_PHOTOS_FAILED if result.num_failures else _EXIT_DONE


def _show_caption(row: Mapping[str, Any]) -> None:
    if _as_json():
        shown = ("image_id", "uri", "caption", "log_prob", "num_tokens", "alternatives", "width", "height")
        failed = ("image_id", "uri", "error_type", "error_message")
        names = [name for name in (shown if row["error_type"] is None else failed) if name in row]
        show_json({name: row[name] for name in names})
        return
    name = printable(row["image_id"])
    if row["error_type"] is None:
        show(f"{name}\t{printable(row['caption'])}\t{row['log_prob']:.3f}")
    else:
        say(f"{name}: {printable(row['error_message'])} ({row['error_type']})", always=True)


def _say_prepare(result: "PrepareResult", config: Any) -> str:
    splits = ", ".join(
        f"{split} {photos:,} photos, {result.num_captions[split]:,} captions, {result.num_pairs[split]:,} pairs"
        for split, photos in result.num_photos.items()
    )
    problems = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in result.num_problems.items())
    listed = f"{problems}; listed in {config.out}/problems.jsonl" if problems else "none"
    return (
        f"{splits}\nvocabulary {result.vocab_size:,} words with padding, longest caption {result.max_length} tokens\n"
        f"problems: {listed}"
    )


def _say_extract(result: "ExtractResult", config: Any) -> str:
    failed = f", {result.num_failures:,} failed: see {config.out}/failures" if result.num_failures else ""
    return f"{result.num_features:,} features in {config.out} ({result.num_new:,} photos in this run){failed}"


def _say_train(result: "TrainResult", config: Any) -> str:
    return f"dev loss {result.best_dev_loss:.3f} at epoch {result.best_epoch}; model in {config.out}/bundle"


def _say_evaluate(result: "EvaluateResult", config: Any) -> str:
    from raycap.score_tables import evaluation_text

    return f"{evaluation_text(result)}\nscores and captions in {config.out}"


def _say_caption(result: "CaptionResult", config: Any) -> str:
    where = f" in {config.out} ({result.num_new:,} photos in this run)" if config.out else ""
    lines = [f"{result.num_captions:,} captions of {result.num_photos:,} photos{where}"]
    if result.num_failures:
        reasons = f": see {config.out}/failures; --retry-failed tries them again" if config.out else ""
        lines.append(f"{result.num_failures:,} photos failed{reasons}")
    if result.num_left:
        lines.append(f"{result.num_left:,} photos left; the same command goes on with them")
    if result.sidecars is not None:
        lines.append(f"{result.sidecars.written:,} .txt files written")
        if result.sidecars.kept:
            lines.append(f"{result.sidecars.kept:,} .txt files kept as they were; --overwrite-sidecars replaces them")
    return "\n".join(lines)


def _say_plan(planned: "CaptionPlan", config: Any) -> str:
    where = f"{config.out}, {planned.photos_per_shard:,} a file at most" if config.out else "standard output"
    return "\n".join(
        [
            f"{planned.num_photos:,} photos found",
            f"{planned.num_captions:,} have a caption, {planned.num_failures:,} have failed",
            f"{planned.num_pending:,} would be captioned ({planned.pending_bytes / 1e6:,.1f} MB), to {where}",
            "nothing was done (--dry-run)",
        ]
    )


def _say_export(result: "ExportResult", _: Any) -> str:
    what = f"{result.feature_dim:,} numbers of {printable(result.encoder)} and words so far"
    return f"{result.location}: {what}, to the next of {result.vocab_size:,} words; docs/formats.md shows its use"


def _say_serve(result: "ServeResult", _: Any) -> str:
    return f"stopped after {result.served_s:,.0f} s"


def _say_demo(result: "DemoResult", config: Any) -> str:
    examples = [
        f"{printable(each['image_id'])}: {each['hypothesis']}\n    a person said: {each['references'][0]}"
        for each in result.examples
    ]
    weights = "RANDOM weights" if result.weights == "random" else "ImageNet weights"
    head = f"test scenes, whose combinations training does not show (VGG16 with {weights})"
    scores = _say_evaluate(result.evaluation, config).rsplit("\n", 1)[0]
    return "\n".join([head, *examples, "", scores, f"everything that a real run writes is in {config.out}"])


def _say_report(result: "ReportResult", _config: Any) -> str:
    shown = f"{result.num_photos:,} photos, {result.num_thumbnails:,} of them shown"
    lines = [f"{result.location}: {shown}, {result.num_bytes / 1e6:.1f} MB; open it in a browser"]
    if result.num_unreadable:
        lines.append(f"{result.num_unreadable:,} photos could not be read, and have a placeholder")
    return "\n".join([*lines, *(f"left out: {printable(each)}" for each in result.left_out)])


_SAY: Mapping[str, Callable[[Any, Any], str]] = {
    "prepare": _say_prepare,
    "extract": _say_extract,
    "train": _say_train,
    "evaluate": _say_evaluate,
    "export": _say_export,
    "serve": _say_serve,
    "demo": _say_demo,
    "report": _say_report,
}
