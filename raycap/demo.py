"""The workflow on the built-in dataset, on one machine, with nothing to download. Knows no stage's insides."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycap.errors import InputError, StaleError, WeightsError
from raycap.locations import absolute
from raycap.options import build
from raycap.parquet import read_table
from raycap.progress import say
from raycap.runs import RUN_FILE, read_run
from raycap.scenes import write_dataset
from raycap.schema import HYPOTHESES_FILE
from raycap.scores import EvaluateResult
from raycap.storage import delete_file, write_text
from raycap.tool_config import DemoConfig, RunConfig
from raycap.workflow import RunResult, run

_NOTICE_FILE = "NOTICE.txt"
_NOTICE = """NOTICE: VGG16 RAN WITH RANDOM WEIGHTS (seed {seed}).
Its ImageNet weights are not on this machine, and could not be downloaded. Random weights are enough to tell the
built-in scenes apart; they are not enough for photographs. Reason: {reason}
"""
_OLD_FOLDERS = ("features-random", "features-imagenet")


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        evaluation: of the test scenes.
        weights: of VGG16: `imagenet` or `random`.
        examples: test scenes: `image_id`, `hypothesis`, `references`.
        report: where the report is, if one was written.
    """

    evaluation: EvaluateResult
    weights: str
    examples: list[dict[str, Any]]
    report: str | None


def demo(config: DemoConfig) -> DemoResult:
    """Draw the dataset and run every stage on it under `config.out`; called again it only reads.

    Raises:
        InputError: if `config.out` cannot be written to, or holds another demo; and what the stages raise.
    """
    out = Path(absolute(config.out))
    old = next((name for name in _OLD_FOLDERS if (out / name).exists()), None)
    if old is not None:
        raise InputError(f"{out} holds the demo of an older raycap ({old}); delete it, or give another --out")
    dataset = out / "dataset"
    say(f"drawing {config.num_train + config.num_dev + config.num_test} scenes in {dataset}")
    write_dataset(
        dataset, seed=config.seed, num_train=config.num_train, num_dev=config.num_dev, num_test=config.num_test
    )
    try:
        weights, result = _run(config, out, dataset)
    except StaleError as error:
        raise InputError(f"{error.what}; delete {out}, or give another --out") from error
    if weights == "random":
        say((out / _NOTICE_FILE).read_text())
    rows = read_table(str(out / "scores" / HYPOTHESES_FILE)).to_pylist()
    return DemoResult(result.evaluation, weights, rows[:: max(1, len(rows) // 6)], result.report)


def _run(config: DemoConfig, out: Path, dataset: Path) -> tuple[str, RunResult]:
    """Run the stages, with ImageNet weights where they can be had; return which, and what came of it."""
    values = _values(config, out, dataset)
    random = values | {("extract", "weights"): "random", ("extract", "seed"): config.seed}
    if _weights_there(out) == "random":
        return "random", run(build(RunConfig, random))
    try:
        return "imagenet", run(build(RunConfig, values))
    except WeightsError as error:
        write_text(str(out / _NOTICE_FILE), _NOTICE.format(seed=config.seed, reason=error))
    # out of the block above, as the error's traceback would keep that job's actors, and they their CPUs
    say("VGG16's ImageNet weights cannot be had; random ones take their place")
    delete_file(str(out / "features" / RUN_FILE))  # it says that features are by ImageNet weights; there are none
    return "random", run(build(RunConfig, random))


def _weights_there(out: Path) -> str:
    """Return which of VGG16's weights the features there were made with; ImageNet's are tried first."""
    record: Mapping[str, Any] = read_run(str(out / "features")) or {"config": {}}
    return str(record["config"].get("weights", "imagenet"))


def _values(config: DemoConfig, out: Path, dataset: Path) -> dict[tuple[str, ...], Any]:
    """Return the options of the run, by path."""
    return {
        ("out",): str(out),
        ("prepare", "captions"): (str(dataset / "captions.csv"),),
        ("prepare", "photos"): str(dataset / "photos"),
        ("prepare", "keep_one_letter_words"): True,
        ("train", "model", "normalization"): "standardize",
        ("train", "epochs"): 24,
        ("train", "patience"): 4,
        ("train", "seed"): config.seed,
        ("evaluate", "decoding", "beam_width"): 3,
    }
