"""The train stage: two workers of a core each against one, and how long its steps wait for data.

    python benchmarks/train_workers.py [--full] [WORK_FOLDER]

The merge model at the tutorial's sizes (7,579 words, 4,096 features) on random features and captions, streamed from
Parquet, under Ray Train; the median of the epochs after the first. Two trainings of a core each that know nothing of
each other, at once, are what the machine allows two workers: what they lack of twice one is no cost of working
together. Prints one table.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from machine import print_table
from workload import words

DIM, SHARD, EPOCHS, NUM_DEV = 4_096, 256, 4, 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="1,536 photos instead of 384")
    options = parser.parse_args()
    count = 1_536 if options.full else 384
    data = make_data(options.work / f"train-{count}", count)
    rows = []
    for photos_a_step in (16, 64, 256) if options.full else (16, 64):
        alone = 0.0
        for name, times, num_workers, cores in (
            ("1 worker of 1 core", 1, 1, 1),
            ("two such trainings at once", 2, 1, 1),
            ("2 workers of 1 core", 1, 2, 1),
            ("1 worker of 2 cores", 1, 1, 2),
        ):
            rate, waited = train(data, options.work / "train-out", photos_a_step, num_workers, cores, times)
            alone = alone or rate
            rows.append((f"{photos_a_step} photos a step, {name}", rate, rate / alone, waited))
    columns = ("what", "captions/s", "x one core", "share of time waiting for data")
    print_table(f"raycap train, {count:,} photos", columns, rows)


def train(
    data: Path, out: Path, photos_a_step: int, num_workers: int, cores: int, times: int = 1
) -> tuple[float, float]:
    """Return captions a second, of all trainings where there are several at once, and how much of it is waiting.

    Args:
        data: what `make_data` returned.
        out: to write to.
        photos_a_step: over all workers.
        num_workers: of each training.
        cores: of each worker.
        times: trainings at once.
    """
    options = {
        "--prepared": data,
        "--features": data,
        "--global-batch-size": photos_a_step,
        "--num-workers": num_workers,
        "--cpus-per-worker": cores,
        "--epochs": EPOCHS,
        "--patience": EPOCHS,
    }
    flags = [str(each) for pair in options.items() for each in pair]
    flags += ["--open-ports"] if num_workers > 1 else []
    outs = [out.with_name(f"{out.name}-{number}") for number in range(times)]
    for each in outs:
        shutil.rmtree(each, ignore_errors=True)
    command = [sys.executable, "-m", "raycap", "train", "--quiet", *flags, "--out"]
    running = [subprocess.Popen([*command, str(each)], stderr=subprocess.DEVNULL) for each in outs]
    if any(process.wait() for process in running):
        raise SystemExit(f"{' '.join(command)} failed")
    later = [json.loads((each / "history.json").read_text())["history"][1:] for each in outs]
    rate = sum(statistics.median(entry["captions_per_s"] for entry in each) for each in later)
    return rate, statistics.median(entry["input_wait_s"] / entry["wall_s"] for each in later for entry in each)


def make_data(folder: Path, count: int) -> Path:
    """Write what prepare and extract would, once."""
    from raycap.encoder_card import EncoderCard
    from raycap.features import feature_array
    from raycap.parquet import write_table
    from raycap.schema import CAPTIONS, END_TOKEN, PHOTOS, START_TOKEN, feature_schema
    from raycap.storage import write_text
    from raycap.text import Tokenizer

    if (folder / "tokenizer.json").exists():
        return folder
    rng = np.random.default_rng(0)
    vocabulary = np.array(list(words()))
    ids = [f"{number}.jpg" for number in range(count + NUM_DEV)]
    splits = ["train"] * count + ["dev"] * NUM_DEV
    captions = [
        (image_id, split, text, text)
        for image_id, split in zip(ids, splits, strict=True)
        for text in (" ".join(rng.choice(vocabulary, max(2, round(rng.normal(9.2, 3))))) for _ in range(5))
    ]
    write_table(str(folder / "photos.parquet"), pa.table([ids, ids, splits], schema=PHOTOS))
    write_table(str(folder / "captions.parquet"), pa.table(list(zip(*captions, strict=True)), schema=CAPTIONS))
    card = EncoderCard(
        name="random",
        weights="random",
        seed=0,
        weights_hash="0",
        layer="output",
        preprocessing="in model",
        height_px=224,
        width_px=224,
        resize="nearest",
        exif_orientation=False,
        dim=DIM,
    )
    schema = feature_schema((DIM,), pa.float32(), card.to_json().encode())
    for start in range(0, len(ids), SHARD):
        some = ids[start : start + SHARD]
        features = np.maximum(rng.normal(size=(len(some), DIM)), 0).astype(np.float32)
        table = pa.Table.from_arrays([pa.array(some), feature_array(features, pa.float32())], schema=schema)
        write_table(str(folder / "features" / f"part-{start:06d}.parquet"), table)
    tokenizer = Tokenizer(words=(START_TOKEN, END_TOKEN, *vocabulary.tolist()), max_length=34)
    write_text(str(folder / "tokenizer.json"), tokenizer.to_json())
    return folder


if __name__ == "__main__":
    main()
