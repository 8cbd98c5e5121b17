"""Captioning more and more photos: is memory flat, and is the last photo captioned as fast as the first?

    python benchmarks/caption_scale.py [--full] [WORK_FOLDER]

Small photos, a small encoder (MobileNetV2 at 96 x 96, some 4 ms a photo on two cores), and greedy captions of at most
12 tokens. Prints one table: a row a run, memory in MiB, the rate over the whole run (without start-up),
that of its last tenth over that of its first, and the same of the core seconds that a photo takes in all processes
together, which the machine's slow minutes move less.
"""

import argparse
import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from stage_cost import Cost, measure
from workload import make_bundle, make_photos, make_small_encoder

SIZES, FULL_SIZES = (2_000, 8_000), (10_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="10,000 and 100,000 photos")
    options = parser.parse_args()
    bundle = make_bundle(options.work / "small-bundle", str(make_small_encoder(options.work / "small.keras").resolve()))
    rows = []
    for count in FULL_SIZES if options.full else SIZES:
        photos = make_photos(options.work / f"photos-{count}", count, side_px=64)
        out = options.work / f"captions-{count}"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "raycap", "caption", str(photos), "--model", str(bundle), "--out", str(out)]
        cost = measure([*command, "--beam-width", "1", "--max-length", "12", "--quiet"])
        rows.append((count, cost, *rates(out / "captions"), cpu_growth(out / "captions", cost)))
    kinds = sorted({kind for _, cost, *_ in rows for kind in cost.peak_mib if cost.peak_mib[kind] > 100})
    print(f"{'photos':<50}" + "".join(f"{count:>12,}" for count, *_ in rows) + f"{'ratio':>8}")
    for name, values in (
        ("wall time, s", [cost.wall_s for _, cost, *_ in rows]),
        ("photos/s", [row[2] for row in rows]),
        ("last tenth's photos/s over first tenth's", [row[3] for row in rows]),
        ("last tenth's core seconds a photo over first tenth's", [row[4] for row in rows]),
        *((f"{kind}, MiB", [cost.peak_mib.get(kind, 0.0) for _, cost, *_ in rows]) for kind in kinds),
    ):
        ratio = values[-1] / values[0] if values[0] else float("nan")
        print(f"{name[:49]:<50}" + "".join(f"{value:>12,.2f}" for value in values) + f"{ratio:>8.2f}")


def finished(captions: Path) -> list[tuple[float, int]]:
    """Return when each shard of a run appeared, in seconds since the epoch, and its photos; the earliest first."""
    return sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in captions.glob("*.parquet"))


def rates(captions: Path) -> tuple[float, float]:
    """Return photos a second over a run, and the last tenth's over the first's, by when its shards appeared."""
    shards = finished(captions)
    tenth = max(1, len(shards) // 10)

    def rate(part: list[tuple[float, int]]) -> float:
        # the first shard's photos were begun before it appeared
        return sum(count for _, count in part[1:]) / max(part[-1][0] - part[0][0], 1e-9)

    return rate(shards), rate(shards[-tenth - 1 :]) / rate(shards[: tenth + 1])


def cpu_growth(captions: Path, cost: Cost) -> float:
    """Return the core seconds a photo of the last tenth of a run over those of the first."""
    shards = finished(captions)
    times, counts = (np.array(column, float) for column in zip(*shards, strict=True))
    measured_at, spent_s = (np.array(column, float) for column in zip(*cost.cpu, strict=True))
    core_s = np.interp(times, measured_at, spent_s)
    edges = np.linspace(0, len(shards) - 1, 11).astype(int)
    photos = [counts[first + 1 : last + 1].sum() for first, last in itertools.pairwise(edges)]
    print("photos/s by tenth:", *(f"{rate:.0f}" for rate in photos / np.diff(times[edges])))
    print("core ms a photo by tenth:", *(f"{1e3 * each:.2f}" for each in np.diff(core_s[edges]) / photos))
    return float(np.diff(core_s[edges[-2:]])[0] / photos[-1] / (np.diff(core_s[edges[:2]])[0] / photos[0]))


if __name__ == "__main__":
    main()
