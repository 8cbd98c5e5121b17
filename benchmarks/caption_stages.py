"""The whole captioning pipeline against each of its stages alone, on the same cores, one after the other.

    python benchmarks/caption_stages.py [--full] [WORK_FOLDER]

VGG16 (random weights) on generated 500 x 500 JPEG photos, beam search of width 3 to 12 tokens. A stage alone is its
operator in as many processes, or with as many threads, as there are cores, over data that is ready in memory (decoding
reads files). The slowest, encoding, is measured before the pipeline and after it, and the mean taken, as the machine's
speed drifts. The pipeline's rate leaves its start-up out: it is that between its first shard and its last. Prints one
table.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from alone import alone_rate
from caption_scale import rates
from workload import make_bundle, make_photos

SHARD, MAX_LENGTH = 32, 12


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="1,440 photos instead of 160")
    options = parser.parse_args()
    count = 1440 if options.full else 160
    bundle = make_bundle(options.work / "vgg16-bundle", "vgg16")
    photos = make_photos(options.work / f"photos-500px-{count}", count, side_px=500)

    def encode_rate() -> float:
        return alone_rate("encode", count=min(count, 480), encoder="vgg16", shard=SHARD)

    alone = {
        "decode": alone_rate("decode", photos=photos, side_px=224, shard=SHARD),
        "encode": encode_rate(),
        "caption": alone_rate("caption", count=count, bundle=bundle, max_length=MAX_LENGTH, shard=SHARD),
    }
    out = options.work / "captions-stages"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "raycap", "caption", str(photos), "--model", str(bundle), "--out", str(out)]
    started = time.perf_counter()
    subprocess.run(
        [*command, "--shard-size", str(SHARD), "--max-length", str(MAX_LENGTH), "--quiet"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    wall_s = time.perf_counter() - started
    whole, _ = rates(out / "captions")
    before = alone["encode"]
    after = encode_rate()
    alone["encode"] = (before + after) / 2
    print(f"encode alone before the pipeline {before:.2f}, after it {after:.2f} photos/s")
    rows = {f"{stage} alone": rate for stage, rate in alone.items()}
    rows |= {"pipeline": whole, "pipeline, start-up included": count / wall_s}
    print(f"{'what':<34}{'photos/s':>10}{'of the slowest stage':>22}")
    for name, rate in rows.items():
        print(f"{name:<34}{rate:>10.2f}{rate / min(alone.values()):>22.2f}")


if __name__ == "__main__":
    main()
