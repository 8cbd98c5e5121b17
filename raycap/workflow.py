"""Every stage in order, each only where there is something to do, and the report last. Knows no stage's insides."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

from raycap.config import FinetuneConfig
from raycap.errors import InputError, StaleError
from raycap.locations import absolute, file_name, join, parent
from raycap.progress import say
from raycap.reporting.report import REPORT_FILE, report
from raycap.runs import RUN_FILE, read_run
from raycap.scores import EvaluateResult
from raycap.sole_writer import sole_writer
from raycap.stages.evaluate import evaluate
from raycap.stages.extract import extract
from raycap.stages.finetune import finetune, finetuned_encoder
from raycap.stages.prepare import prepare
from raycap.stages.train import train
from raycap.storage import delete_file, delete_folder, exists, is_folder, read_text
from raycap.summaries import say_extract, say_finetune, say_prepare, say_train
from raycap.tool_config import ReportConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to.

    Attributes:
        out: the run folder.
        seconds: of the stages that had something to do.
        up_to_date: those that had nothing.
        evaluation: of the split that was scored.
        report: where the report is, if one was written.
    """

    out: str
    seconds: dict[str, float]
    up_to_date: list[str]
    evaluation: EvaluateResult
    report: str | None


class _Stage(NamedTuple):
    """One stage of a run.

    Attributes:
        name: of the stage.
        function: the stage.
        config: its options.
        holds: the names of what it writes under `config.out`; a name that ends in / is a folder.
        say: its result in words; None where that is said at the end.
    """

    name: str
    function: Callable[[Any], Any]
    config: Any
    holds: tuple[str, ...]
    say: Callable[[Any, Any], str] | None


def run(config: RunConfig) -> RunResult:
    """Run the stages that are not up to date, in order; after an interruption the same call goes on.

    A stage is up to date if its output was made with the same options from the same inputs.

    Raises:
        StaleError: if an output was not, and `config.redo` does not allow to make it anew.
        InputError: if `config.redo` does, but it lies outside `config.out`; and what the stages raise.
    """
    config = replace(config, out=absolute(config.out))
    stages = _stages(config)
    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    for number, stage in enumerate(stages):
        say(f"[{number + 1}/{len(stages)}] {stage.name}")
        started, before = time.monotonic(), _record(stage)
        results[stage.name] = _call(stages, number, config)
        took = time.monotonic() - started
        if before is not None and _record(stage) == before:
            say(f"{stage.name}: up to date")
            continue
        seconds[stage.name] = took
        _delete_report(config.out)  # it is of what was there before, and a kill may come before the next
        if stage.say is not None:
            say(stage.say(results[stage.name], stage.config))
        say(f"{stage.name}: done in {timedelta(seconds=round(took))}")
    return RunResult(
        out=config.out,
        seconds=seconds,
        up_to_date=[stage.name for stage in stages if stage.name not in seconds],
        evaluation=results["evaluate"],
        report=_report(config.out, has_news=bool(seconds or config.evaluate.against)) if config.report else None,
    )


def _stages(config: RunConfig) -> list[_Stage]:
    tuned = _finetuned(config) if config.tuning.finetune_epochs else None
    encoder = finetuned_encoder(tuned) if tuned else config.extract.encoder
    stages = [
        _Stage(
            "prepare",
            prepare,
            config.prepare,
            ("photos.parquet", "captions.parquet", "tokenizer.json", "descriptions.txt", "problems.jsonl"),
            say_prepare,
        ),
        _Stage("extract", extract, replace(config.extract, encoder=encoder), ("features/", "failures/"), say_extract),
        _Stage(
            "train",
            train,
            config.train,
            ("bundle/", "checkpoints/", "members/", "tensorboard/", "history.json", "model.svg"),
            say_train,
        ),
        _Stage("evaluate", evaluate, config.evaluate, ("scores.json", "hypotheses.parquet"), None),
    ]
    if tuned:
        holds = (file_name(encoder), "history.json", "checkpoints/")
        stages.insert(1, _Stage("finetune", finetune, tuned, holds, say_finetune))
    return stages


def _finetuned(config: RunConfig) -> FinetuneConfig:
    """Return the options by which the encoder is fine-tuned: those of photos are extract's, of learning train's."""
    extract, train = config.extract, config.train
    shared = ("encoder", "weights", "spatial", "seed", "exif_orientation", "fast_decode", "limits")
    return FinetuneConfig(
        prepared=config.prepare.out,
        out=config.finetune_out,
        tuning=config.tuning,
        use_gpu=train.use_gpu,
        cpus_per_worker=train.cpus_per_worker,
        max_restarts=train.max_restarts,
        **{name: getattr(extract, name) for name in shared},
    )


def _record(stage: _Stage) -> str | None:
    """Return a stage's record as it is, which changes whenever the stage does something."""
    location = join(absolute(stage.config.out), RUN_FILE)
    return read_text(location) if exists(location) else None


def _call(stages: Sequence[_Stage], number: int, config: RunConfig) -> Any:
    """Return a stage's result, of its output made anew where that is stale and may be."""
    stage = stages[number]
    try:
        return stage.function(stage.config)
    except StaleError as error:
        if not config.redo:
            way_out = "give --redo to make it and what follows anew, another --out, or the old options"
            raise StaleError(error.what, way_out) from error
        say(f"{stage.name}: {error.what}, and is made anew")
    keeps_features = stage.name == "prepare" and not config.tuning.finetune_epochs and _has_same_photos(config)
    stale = [each for each in stages[number:] if not (keeps_features and each.name == "extract")]
    for each in stale:
        _require_own(each, config.out)
    for each in reversed(stale):  # what comes last first, so that a kill in between leaves what is still stale
        _forget(each)
    return stage.function(stage.config)


def _has_same_photos(config: RunConfig) -> bool:
    """Whether the prepared dataset is of the photos that it should be, so that their features are right still."""
    record = read_run(absolute(config.prepare.out))
    return record is not None and record["identity"].get("photos") == absolute(config.prepare.photos)


def _require_own(stage: _Stage, out: str) -> None:
    """Check that what a stage wrote may be removed.

    Raises:
        InputError: if it lies elsewhere than in the run folder, where it may serve others too.
    """
    place = absolute(stage.config.out)
    record = read_run(place)
    if record is not None and (parent(place) != out or record["stage"] != stage.name):
        raise InputError(f"{place} is not this run's own, and --redo leaves it alone; delete it, or give another --out")


def _forget(stage: _Stage) -> None:
    """Remove what a stage wrote, its record last."""
    place = absolute(stage.config.out)
    record = read_run(place)
    if record is None:
        return
    encoder = (record["result"] or {}).get("encoder")  # of a finetune stage; another than now, it has another name
    with sole_writer(place):
        for name in (*stage.holds, *([file_name(encoder)] if encoder else []), RUN_FILE):
            location = join(place, name.rstrip("/"))
            if is_folder(location):
                delete_folder(location)
            elif exists(location):
                delete_file(location)


def _delete_report(out: str) -> None:
    location = join(out, REPORT_FILE)
    if exists(location):
        delete_file(location)


def _report(out: str, *, has_news: bool) -> str:
    """Write the report, if there is something new; return where it is."""
    location = join(out, REPORT_FILE)
    if has_news or not exists(location):
        report(ReportConfig(runs=(out,), out=location))
    return location
