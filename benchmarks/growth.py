"""Each stage at 1, 4 and 16 times the photos: is memory flat, and does time grow as the photos do?

    python benchmarks/growth.py [--full] [--stage extract|caption|train] [WORK_FOLDER]

Extract and caption: small photos and the small encoder of `workload`; a rate is that of the shards after the first, so
that start-up and what was decoded in it do not count. Train: an epoch of the merge model at the tutorial's sizes, five
captions a photo, windows of 1,024 photos. Runs of the three sizes alternate; figures are medians. Prints a table a
stage: the processes' peak memory in MiB, and photos (train: captions) a second.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from caption_scale import rates
from machine import print_table
from stage_cost import Cost, measure
from train_workers import make_data
from workload import make_bundle, make_photos, make_small_encoder

SIZES, FULL_SIZES = (250, 1_000, 4_000), (1_000, 4_000, 16_000)
SMALL_MIB = 100  # smaller processes, such as Ray's own helpers, are left out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="1,000, 4,000 and 16,000 photos, three runs each")
    parser.add_argument("--stage", choices=("extract", "caption", "train"), help="one of them")
    options = parser.parse_args()
    sizes, repetitions = (FULL_SIZES, 3) if options.full else (SIZES, 1)
    for stage in (extract, caption, train):
        if options.stage in {None, stage.__name__}:
            table(stage, options.work, sizes, repetitions)


def table(stage: Callable[[Path, int], tuple[Cost, float]], work: Path, sizes: tuple[int, ...], runs: int) -> None:
    found: dict[int, list[tuple[Cost, float]]] = {count: [] for count in sizes}
    for _ in range(runs):
        for count in sizes:
            found[count].append(stage(work, count))
    peaks = {count: [cost.peak_mib for cost, _ in found[count]] for count in sizes}
    kinds = sorted({kind for each in peaks.values() for run in each for kind, mib in run.items() if mib > SMALL_MIB})

    def row(name: str, values: list[float]) -> tuple[Any, ...]:
        return (name, *values, max(values) / min(values) if min(values) else float("nan"))

    rows = [row(f"{kind}, MiB", [_median(run.get(kind, 0.0) for run in peaks[n]) for n in sizes]) for kind in kinds]
    rows.append(row("photos/s, start-up left out", [_median(rate for _, rate in found[n]) for n in sizes]))
    rows.append(row("seconds in all", [_median(cost.wall_s for cost, _ in found[n]) for n in sizes]))
    print_table(stage.__name__, ("what", *(f"{n:,} photos" for n in sizes), "largest over least"), rows)


def extract(work: Path, count: int) -> tuple[Cost, float]:
    photos = make_photos(work / f"photos-{count}", count, side_px=64)
    paths = sorted(str(path) for path in photos.rglob("*.jpg"))
    manifest, out = work / f"manifest-{count}.parquet", work / "growth"
    pq.write_table(pa.table({"image_id": paths, "uri": [str(Path(path).resolve()) for path in paths]}), manifest)
    encoder = make_small_encoder(work / "small.keras")
    cost = _run(out, "extract", "--manifest", manifest, "--encoder", encoder, "--shard-size", 64)
    return cost, rates(out / "features")[0]


def caption(work: Path, count: int) -> tuple[Cost, float]:
    photos = make_photos(work / f"photos-{count}", count, side_px=64)
    bundle = make_bundle(work / "small-bundle", str(make_small_encoder(work / "small.keras").resolve()))
    out = work / "growth"
    greedy = ("--beam-width", 1, "--max-length", 12, "--shard-size", 64)
    cost = _run(out, "caption", photos, "--model", bundle, *greedy)
    return cost, rates(out / "captions")[0]


def train(work: Path, count: int) -> tuple[Cost, float]:
    data, out = make_data(work / f"train-{count}", count), work / "growth"
    once = ("--epochs", 1, "--shuffle-window", 1024)
    cost = _run(out, "train", "--prepared", data, "--features", data, *once)
    return cost, float(json.loads((out / "history.json").read_text())["history"][0]["captions_per_s"]) / 5


def _run(out: Path, stage: str, *options: object) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    cost = measure([sys.executable, "-m", "raycap", stage, *map(str, options), "--out", str(out), "--quiet"])
    if cost.exit_code:
        raise SystemExit(f"raycap {stage} ended with exit code {cost.exit_code}")
    return cost


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
