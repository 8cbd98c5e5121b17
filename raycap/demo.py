"""Every stage in a row on the built-in dataset, on one machine, with nothing to download. Knows no stage's insides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycap.config import (
    DecodingConfig,
    DemoConfig,
    EvaluateConfig,
    ExtractConfig,
    ModelConfig,
    PrepareConfig,
    TrainConfig,
)
from raycap.errors import WeightsError
from raycap.progress import say
from raycap.runs import read_run
from raycap.scenes import write_dataset
from raycap.schema import HYPOTHESES_FILE
from raycap.scores import EvaluateResult
from raycap.stages.evaluate import evaluate
from raycap.stages.extract import extract
from raycap.stages.prepare import prepare
from raycap.stages.train import train
from raycap.storage import read_table, write_text

_NOTICE_FILE = "NOTICE.txt"
_NOTICE = """NOTICE: VGG16 RAN WITH RANDOM WEIGHTS (seed {seed}).
Its ImageNet weights are not on this machine, and could not be downloaded. Random weights are enough to tell the
built-in scenes apart; they are not enough for photographs. Reason: {reason}
"""


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        evaluation: of the test scenes.
        weights: of VGG16: `imagenet` or `random`.
        examples: test scenes: `image_id`, `hypothesis`, `references`.
    """

    evaluation: EvaluateResult
    weights: str
    examples: list[dict[str, Any]]


def demo(config: DemoConfig) -> DemoResult:
    """Draw the dataset, prepare, extract, train and evaluate under `config.out`; run again it only reads.

    Raises:
        InputError: if `config.out` cannot be written to, and what the stages raise.
    """
    out = Path(config.out).expanduser().resolve()
    dataset, prepared = out / "dataset", out / "prepared"
    say(f"drawing {config.num_train + config.num_dev + config.num_test} scenes in {dataset}")
    write_dataset(
        dataset, seed=config.seed, num_train=config.num_train, num_dev=config.num_dev, num_test=config.num_test
    )
    prepare(
        PrepareConfig(
            captions=(str(dataset / "captions.csv"),),
            photos=str(dataset / "photos"),
            out=str(prepared),
            keep_one_letter_words=True,
        )
    )
    weights, features = _extract(config, prepared / "photos.parquet", out)
    train(
        TrainConfig(
            prepared=str(prepared),
            features=str(features),
            out=str(out / "model"),
            model=ModelConfig(normalization="standardize"),
            epochs=24,
            patience=4,
            seed=config.seed,
        )
    )
    evaluation = evaluate(
        EvaluateConfig(
            model=str(out / "model"),
            prepared=str(prepared),
            features=str(features),
            out=str(out / "scores"),
            decoding=DecodingConfig(beam_width=3),
        )
    )
    rows = read_table(str(out / "scores" / HYPOTHESES_FILE)).to_pylist()
    return DemoResult(evaluation, weights, rows[:: max(1, len(rows) // 6)])


def _extract(config: DemoConfig, manifest: Path, out: Path) -> tuple[str, Path]:
    """Extract VGG16 features, with ImageNet weights where they can be had; return which, and where they are."""
    by_imagenet, by_random = out / "features-imagenet", out / "features-random"
    if read_run(str(by_random)) is None:
        try:
            extract(ExtractConfig(manifest=str(manifest), out=str(by_imagenet)))
            return "imagenet", by_imagenet
        except WeightsError as error:
            write_text(str(out / _NOTICE_FILE), _NOTICE.format(seed=config.seed, reason=error))
    extract(ExtractConfig(manifest=str(manifest), out=str(by_random), weights="random", seed=config.seed))
    say((out / _NOTICE_FILE).read_text())
    return "random", by_random
