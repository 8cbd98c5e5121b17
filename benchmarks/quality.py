"""What each choice does to the captions of dev: loss, scores with their intervals, cost. Reproduces docs/quality.md.

    python benchmarks/quality.py [WORK_FOLDER] --captions FILE ... --photos FOLDER --encoder MODEL [--only NAME ...]

Each row is a `raycap run` of its own, scored on dev, under the `standard` protocol. What rows have in common is made
once: words, features of a kind, the fine-tuned encoder, and a model where rows differ in decoding alone. A run that is
there already is only read. Never give it a test split to choose by.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from machine import output_of

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider_d")


class Variant(NamedTuple):
    """A row of the table.

    Attributes:
        trained: options of raycap run that decide the model.
        decoded: options that decide how its captions are found.
        num_views: of each photo, as the decoder's regions; 0 for one feature a photo.
        is_tuned: whether features are those of the encoder that `best` fine-tunes.
    """

    trained: tuple[str, ...]
    decoded: tuple[str, ...] = ()
    num_views: int = 0
    is_tuned: bool = False


PAPER, BEST = ("--preset", "paper"), ("--preset", "best")
ONE = (*BEST, "--finetune-epochs", "0", "--num-members", "1")
ALONE = (*ONE, "--num-views", "1")
AS_IT_IS = (*BEST, "--finetune-epochs", "0")
NO_MATCHING = ("--matching", "0")
NO_NEIGHBORS = (*NO_MATCHING, "--num-neighbors", "0", "--consensus", "0.3")
BEAM = (*NO_NEIGHBORS[:-1], "0", "--no-mirrored", "--beam-width", "5", "--length-penalty")
VARIANTS: dict[str, Variant] = {
    "tutorial": Variant(()),
    "paper": Variant(PAPER),
    "paper, greedy": Variant(PAPER, ("--beam-width", "1")),
    "paper, features as they are": Variant((*PAPER, "--normalization", "none")),
    "paper, standardized": Variant((*PAPER, "--normalization", "standardize")),
    "paper, 256 units": Variant((*PAPER, "--units", "256", "--embedding-dim", "256")),
    "paper, label smoothing": Variant((*PAPER, "--label-smoothing", "0.1")),
    "paper, averaged weights": Variant((*PAPER, "--weight-average", "0.999")),
    "paper, cosine": Variant((*PAPER, "--epochs", "20", "--schedule", "cosine", "--warmup-steps", "200")),
    "paper, encoder of best": Variant(PAPER, is_tuned=True),
    "paper, encoder of best, standardized": Variant((*PAPER, "--normalization", "standardize"), is_tuned=True),
    "alone": Variant(ALONE, (*BEAM, "0.7"), 1),
    "alone, length penalty 0": Variant(ALONE, (*BEAM, "0"), 1),
    "mirrored": Variant((*ONE, "--num-views", "2"), (*BEAM, "0.7"), 2),
    "one": Variant(ONE, (), 4),
    "one, length penalty 0": Variant(ONE, (*BEAM, "0"), 4),
    "one, length penalty 0.4": Variant(ONE, (*BEAM, "0.4"), 4),
    "one, length penalty 0.7": Variant(ONE, (*BEAM, "0.7"), 4),
    "one, length penalty 1": Variant(ONE, (*BEAM, "1"), 4),
    "one, consensus": Variant(ONE, (*NO_NEIGHBORS, "--no-mirrored"), 4),
    "one, photo mirrored": Variant(ONE, NO_NEIGHBORS, 4),
    "one, neighbors": Variant(ONE, NO_MATCHING, 4),
    "one, 512 units": Variant((*ONE, "--units", "512", "--embedding-dim", "512"), (), 4),
    "one, Transformer": Variant((*ONE, "--decoder", "transformer", "--dropout", "0.2"), (), 4),
    "one, CIDEr-D epoch": Variant((*ONE, "--cider-epochs", "1", "--select-by", "cider_d"), (), 4),
    "two": Variant(AS_IT_IS, (), 4),
    "two, no matching": Variant(AS_IT_IS, NO_MATCHING, 4),
    "two, no neighbors": Variant(AS_IT_IS, NO_NEIGHBORS, 4),
    "five": Variant((*AS_IT_IS, "--num-members", "5"), (), 4),
    "finetuned": Variant((*BEST, "--num-members", "1"), (), 4, is_tuned=True),
    "best": Variant(BEST, (), 4, is_tuned=True),
    "best, no matching": Variant(BEST, NO_MATCHING, 4, is_tuned=True),
    "best, no neighbors": Variant(BEST, NO_NEIGHBORS, 4, is_tuned=True),
    "best, another seed": Variant((*BEST, "--train.seed", "1"), (), 4, is_tuned=True),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/quality", type=Path)
    parser.add_argument("--captions", nargs="+", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    print(f"{'run':<38}{'epochs':>7}{'train min':>11}{'dev loss':>10}" + "".join(f"{name:>14}" for name in METRICS))
    for name in options.only:
        out = run(name, options)
        history = json.loads((model_folder(name, options.work) / "history.json").read_text())
        scores = json.loads((out / "scores/scores.json").read_text())
        minutes = sum(entry["wall_s"] for entry in [*history["history"], *tuning(name, options.work)]) / 60
        values = "".join(_with_interval(scores, metric) for metric in METRICS)
        loss = history["best_dev_loss"]
        print(f"{name:<38}{len(history['history']):>7}{minutes:>11.1f}{loss:>10.3f}{values}", flush=True)


def run(name: str, options: argparse.Namespace) -> Path:
    """Run a variant, as far as it is not there; return its folder."""
    command = [sys.executable, "-m", "raycap", "run", "--captions", *options.captions, "--photos", options.photos]
    command += [*flags(name, options.work, options.encoder), "--quiet"]
    output_of(name, command)
    work: Path = options.work
    return work / _folder(name)


def flags(name: str, work: Path, encoder: str) -> list[str]:
    """Return the options of a variant's run, but for the dataset's."""
    variant = VARIANTS[name]
    if variant.is_tuned and not variant.num_views:
        encoder = str(work / "encoder" / f"{Path(encoder).stem}-finetuned.keras")  # which `best` leaves there
    kind = ("tuned-" if variant.is_tuned else "") + (f"spatial-{variant.num_views}" if variant.num_views else "whole")
    places = {"train": model_folder(name, work), "prepare": work / ("words" if variant.trained else "all-words")}
    places |= {"extract": work / f"features-{kind}"}
    shared = [each for stage, place in places.items() for each in (f"--{stage}.out", str(place))]
    shared += ["--finetune-out", str(work / "encoder"), "--out", str(work / _folder(name))]
    return ["--encoder", encoder, "--evaluate.split", "dev", "--no-report", *shared, *variant.trained, *variant.decoded]


def tuning(name: str, work: Path) -> list[dict[str, Any]]:
    """Return the epochs in which the encoder of a variant was fine-tuned, once for all."""
    if not VARIANTS[name].is_tuned:
        return []
    epochs: list[dict[str, Any]] = json.loads((work / "encoder/history.json").read_text())["history"]
    return epochs


def model_folder(name: str, work: Path) -> Path:
    """Return where the model of a variant is: one for all that differ in decoding alone, named after the first."""
    first = next(
        other
        for other, variant in VARIANTS.items()
        if variant._replace(decoded=()) == VARIANTS[name]._replace(decoded=())
    )
    return work / _folder(first) / "model"


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _with_interval(scores: dict[str, Any], metric: str) -> str:
    low, high = scores["intervals"]["standard"][metric]
    return f"{scores['scores']['model']['standard'][metric]:>7.3f} ±{(high - low) / 2:.3f}".rjust(14)


if __name__ == "__main__":
    main()
