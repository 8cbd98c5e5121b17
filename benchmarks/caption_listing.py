"""Listing and planning very many photos: time, and the memory of the one process that does it.

    python benchmarks/caption_listing.py [--full] [WORK_FOLDER]

Empty files, a thousand a folder; `raycap caption --dry-run` on a folder, and on a list of the same paths. Then the same
with `--out` where all of them are captioned already, as a resumed run finds it. Prints one table.
"""

import argparse
import sys
from pathlib import Path

from stage_cost import measure
from workload import make_bundle, make_small_encoder


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
    print(f"{'source':<30}{'photos':>12}{'wall s':>10}{'peak MiB':>10}")
    for name, source in (("folder", folder), ("list of paths", listed)):
        command = [sys.executable, "-m", "raycap", "caption", str(source), "--model", str(bundle)]
        cost = measure([*command, "--out", str(options.work / "listing-out"), "--dry-run", "--quiet"])
        assert cost.exit_code == 0
        print(f"{name:<30}{count:>12,}{cost.wall_s:>10.1f}{cost.peak_mib['driver']:>10.0f}")


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


if __name__ == "__main__":
    main()
