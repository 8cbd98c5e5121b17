"""Listing and planning very many photos: time, and the memory of the one process that does it.

    python benchmarks/caption_listing.py [--full] [WORK_FOLDER]

Empty files, a thousand a folder; `raycap caption --dry-run` on a folder, and on a list of the same paths. Then the same
with an `--out` where all but the last shard are captioned already, as a resumed run finds it. Prints one table.
"""

import argparse
import sys
from pathlib import Path

import pyarrow as pa
from stage_cost import measure
from workload import make_bundle, make_small_encoder

from raycap.config import WorkersConfig
from raycap.photo_sources import find_photos
from raycap.schema import CAPTIONS_FOLDER, GENERATED
from raycap.shards import ERROR_COLUMNS, ShardedOutput
from raycap.stages.caption import STAGE

SHARD_SIZE = WorkersConfig().shard_size
VALUES = ("two dogs run over the grass", -7.5, 8, 500, 375, "/models/bundle", "vgg16")  # of each photo's other columns


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="1,000,000 photos instead of 50,000")
    options = parser.parse_args()
    count = 1_000_000 if options.full else 50_000
    bundle = make_bundle(options.work / "small-bundle", str(make_small_encoder(options.work / "small.keras").resolve()))
    folder = options.work / f"empty-{count}"
    listed = options.work / f"empty-{count}.txt"
    make_empty(folder, listed, count)
    captioned = options.work / f"captioned-{count}"
    make_captions(captioned, folder)
    print(f"{'source':<36}{'photos':>12}{'wall s':>10}{'peak MiB':>10}")
    for begun, out in (("", options.work / "listing-out"), (", captioned already", captioned)):
        for name, source in (("folder", folder), ("list of paths", listed)):
            command = [sys.executable, "-m", "raycap", "caption", str(source), "--model", str(bundle)]
            cost = measure([*command, "--out", str(out), "--dry-run", "--quiet"])
            assert cost.exit_code == 0
            print(f"{name + begun:<36}{count:>12,}{cost.wall_s:>10.1f}{cost.peak_mib['driver']:>10.0f}")


def make_empty(folder: Path, listed: Path, count: int) -> None:
    if listed.exists():
        return
    names = []
    for start in range(0, count, 1000):
        inside = folder / f"{start // 1000:04d}"
        inside.mkdir(parents=True, exist_ok=True)
        for number in range(start, min(start + 1000, count)):
            (inside / f"{number:07d}.jpg").touch()
            names.append(str((inside / f"{number:07d}.jpg").resolve()))
    listed.write_text("\n".join(names) + "\n")


def make_captions(out: Path, folder: Path) -> None:
    """Write the shards that caption would write of all photos but the last shard's."""
    if out.exists():
        return
    photos = find_photos([str(folder)]).select(["image_id", "uri"])
    output = ShardedOutput(out=str(out.resolve()), folder=CAPTIONS_FOLDER, stage=STAGE, key="uri")
    for start in range(0, len(photos) - SHARD_SIZE, SHARD_SIZE):
        shard = photos.slice(start, SHARD_SIZE)
        same = [pa.array([value] * len(shard), kind) for value, kind in zip(VALUES, GENERATED.types[2:], strict=True)]
        table = pa.Table.from_arrays([*(each.combine_chunks() for each in shard.columns), *same], schema=GENERATED)
        nothing = pa.nulls(len(shard), pa.string())
        for name in ERROR_COLUMNS:
            table = table.append_column(name, nothing)
        output.write(table, columns=GENERATED.names)


if __name__ == "__main__":
    main()
