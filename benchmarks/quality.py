"""What each choice does to the captions of dev: loss, scores with their intervals, cost. Reproduces docs/quality.md.

    python benchmarks/quality.py [WORK_FOLDER] --captions FILE ... --photos FOLDER --encoder MODEL [--only NAME ...]

Each row is a `raycap run` of its own, scored on dev, under the `standard` protocol; photos are encoded once for whole
features, and for spatial ones once for each number of views, by the encoder as it is (`one, ...`, `best as it is`) and
fine-tuned; `paper, encoder of best` wants the latter to be there. A run that is there already is only read. Never give
it a test split to choose by.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")
PAPER, BEST = ("--preset", "paper"), ("--preset", "best")
AS_IT_IS = ("--finetune-epochs", "0")
ONE = (*BEST, *AS_IT_IS, "--num-members", "1")
DECODED = {
    "--evaluate.beam-width",
    "--length-penalty",
    "--no-repeat-ngram",
    "--consensus",
    "--num-neighbors",
    "--matching",
}
CIDER = ("--cider-epochs", "1", "--select-by", "cider_d")
BEAM = ("--consensus", "0", "--num-neighbors", "0", "--matching", "0", "--evaluate.beam-width", "5")
VARIANTS: dict[str, tuple[str, ...]] = {
    "tutorial": ("--keep-one-letter-words",),
    "paper": PAPER,
    "paper, greedy": (*PAPER, "--evaluate.beam-width", "1"),
    "paper, 256 units": (*PAPER, "--units", "256", "--embedding-dim", "256"),
    "paper, standardized": (*PAPER, "--normalization", "standardize"),
    "paper, encoder of best": PAPER,
    "paper, encoder of best, standardized": (*PAPER, "--normalization", "standardize"),
    "paper, label smoothing": (*PAPER, "--label-smoothing", "0.1"),
    "paper, averaged weights": (*PAPER, "--weight-average", "0.999"),
    "best": BEST,
    "best as it is": (*BEST, *AS_IT_IS),
    "best as it is, no matching": (*BEST, *AS_IT_IS, "--matching", "0"),
    "best, no matching": (*BEST, "--matching", "0"),
    "best, no matching, no neighbors": (*BEST, "--matching", "0", "--num-neighbors", "0", "--consensus", "0.3"),
    "best, five models": (*BEST, "--num-members", "5"),
    "best, beam 5, no consensus": (*BEST, *BEAM),
    "best, beam 5, length penalty 0.7": (*BEST, *BEAM, "--length-penalty", "0.7"),
    "best, consensus 0.2": (*BEST, "--consensus", "0.2"),
    "best, consensus of 10": (*BEST, "--evaluate.beam-width", "10"),
    "finetuned": (*BEST, "--num-members", "1"),
    "one": ONE,
    "one, beam 5, no consensus": (*ONE, *BEAM),
    "one, beam 5, length penalty 0.7": (*ONE, *BEAM, "--length-penalty", "0.7"),
    "one, photos mirrored": (*ONE, "--num-views", "2"),
    "one, photos alone": (*ONE, "--num-views", "1"),
    "one, Transformer": (*ONE, "--decoder", "transformer", "--dropout", "0.2"),
    "one, no averaged weights": (*ONE, "--weight-average", "0"),
    "one, no label smoothing": (*ONE, "--label-smoothing", "0"),
    "one, dropout 0.5": (*ONE, "--dropout", "0.5"),
    "one, CIDEr-D epoch": (*ONE, *CIDER),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/quality", type=Path)
    parser.add_argument("--captions", nargs="+", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    print(f"{'run':<34}{'epochs':>7}{'train min':>11}{'dev loss':>10}" + "".join(f"{name:>17}" for name in METRICS))
    for name in options.only:
        out = run(name, options)
        history = json.loads((model_folder(name, options.work) / "history.json").read_text())
        scores = json.loads((out / "scores/scores.json").read_text())
        loss = history["best_dev_loss"]
        epochs = history["history"] + (finetuning(options.work) if is_finetuned(name) else [])
        minutes = sum(entry["wall_s"] for entry in epochs) / 60
        values = "".join(_with_interval(scores, metric) for metric in METRICS)
        print(f"{name:<34}{len(history['history']):>7}{minutes:>11.1f}{loss:>10.3f}{values}", flush=True)


def run(name: str, options: argparse.Namespace) -> Path:
    """Run a variant, as far as it is not there; return its folder."""
    flags = VARIANTS[name]
    out: Path = options.work / _folder(name)
    views = flags[flags.index("--num-views") + 1] if "--num-views" in flags else "4"
    kind, encoder = "whole", options.encoder
    if "best" in flags:
        kind = f"{'finetuned' if is_finetuned(name) else 'spatial'}-{views}"
    elif "encoder of best" in name:
        kind, encoder = "finetuned-whole", str(next((options.work / "encoder").glob("*.keras")))
    words = "words" if "--preset" in flags else "all-words"
    shared = ["--train.out", str(model_folder(name, options.work))]
    shared += ["--finetune-out", str(options.work / "encoder")]
    shared += ["--prepare.out", str(options.work / words), "--extract.out", str(options.work / f"features-{kind}")]
    command = [sys.executable, "-m", "raycap", "run", "--captions", *options.captions, "--photos", options.photos]
    command += ["--encoder", encoder, "--evaluate.split", "dev", "--out", str(out), "--no-report"]
    subprocess.run([*command, *shared, *flags, "--quiet"], check=True, stderr=subprocess.DEVNULL)
    return out


def is_finetuned(name: str) -> bool:
    """Whether a variant's features are of the fine-tuned encoder."""
    return "best" in VARIANTS[name] and not set(AS_IT_IS) <= {*VARIANTS[name]}


def finetuning(work: Path) -> list[dict[str, Any]]:
    """Return the epochs of the encoder that is fine-tuned for all variants."""
    history: list[dict[str, Any]] = json.loads((work / "encoder/history.json").read_text())["history"]
    return history


def model_folder(name: str, work: Path) -> Path:
    """Return where the model of a variant is: of what differs in decoding alone, one for all."""
    is_alike = DECODED.intersection(VARIANTS[name])
    return work / _folder(name.partition(",")[0] if is_alike else name) / "model"


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _with_interval(scores: dict[str, Any], metric: str) -> str:
    low, high = scores["intervals"]["standard"][metric]
    return f"{scores['scores']['model']['standard'][metric]:>7.3f} ±{(high - low) / 2:.3f}".rjust(17)


if __name__ == "__main__":
    main()
