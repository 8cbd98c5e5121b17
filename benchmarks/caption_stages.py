"""The whole captioning pipeline against each of its stages alone, on the same cores, one after the other.

    python benchmarks/caption_stages.py [--full] [WORK_FOLDER]

VGG16 (random weights) on generated 500 x 500 JPEG photos, beam search of width 3 to 12 tokens. A stage alone is its
operator in as many processes, or with as many threads, as there are cores, over data that is ready in memory (decoding
reads files). The slowest, encoding, is measured before the pipeline and after it, and the mean taken, as the machine's
speed drifts. The pipeline's rate leaves its start-up out: it is that between its first shard and its last. Prints one
table.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from caption_scale import rates
from workload import make_bundle, make_photos

SHARD, MAX_LENGTH = 32, 12


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="480 photos instead of 160")
    options = parser.parse_args()
    count = 480 if options.full else 160
    bundle = make_bundle(options.work / "vgg16-bundle", "vgg16")
    photos = make_photos(options.work / f"photos-500px-{count}", count, side_px=500)
    alone = {stage: alone_rate(stage, photos, bundle) for stage in ("decode", "encode", "caption")}
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
    after = alone_rate("encode", photos, bundle)
    alone["encode"] = (before + after) / 2
    print(f"encode alone before the pipeline {before:.2f}, after it {after:.2f} photos/s")
    rows = {f"{stage} alone": rate for stage, rate in alone.items()}
    rows |= {"pipeline": whole, "pipeline, start-up included": count / wall_s}
    print(f"{'what':<34}{'photos/s':>10}{'of the slowest stage':>22}")
    for name, rate in rows.items():
        print(f"{name:<34}{rate:>10.2f}{rate / min(alone.values()):>22.2f}")


def alone_rate(stage: str, photos: Path, bundle: Path) -> float:
    """Return photos a second of one stage, measured in a process of its own."""
    command = [sys.executable, __file__, "--alone", stage, str(photos), str(bundle)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout)


def run_alone(stage: str, photos: str, bundle: str) -> float:
    import numpy as np
    import pyarrow as pa

    from raycap.config import DecodingConfig
    from raycap.features import feature_array
    from raycap.model_card import read_card
    from raycap.operators import CaptionFeatures, EncodePhotos, LoadEncoder
    from raycap.photo_sources import find_photos

    cores = os.cpu_count() or 1
    listing = find_photos([photos])
    card = read_card(bundle).encoder
    if stage == "decode":
        parts = [listing.slice(start, SHARD) for start in range(0, len(listing), SHARD)]
        with ProcessPoolExecutor(cores) as pool:
            list(pool.map(decode, parts[:cores]))  # processes start, libraries are imported
            started = time.perf_counter()
            list(pool.map(decode, parts))
            return len(listing) / (time.perf_counter() - started)
    if stage == "encode":
        operator = EncodePhotos(LoadEncoder(card=card), num_threads=cores)
        pixels = np.random.default_rng(0).integers(0, 256, (SHARD, card.height_px * card.width_px * 3), np.uint8)
        image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(pixels.shape[1]), SHARD, [None, pa.py_buffer(pixels)])
        block = pa.table({"image": image, "error_type": pa.nulls(SHARD, pa.string())})
    else:
        operator = CaptionFeatures(bundle, DecodingConfig(max_length=MAX_LENGTH), num_threads=cores)
        features = np.random.default_rng(0).normal(size=(SHARD, card.dim)).astype(np.float32)
        ids = [str(number) for number in range(SHARD)]
        block = pa.table({"image_id": ids, "feature": feature_array(features, pa.float32())})
    operator(block)
    blocks = max(1, len(listing) // SHARD)
    started = time.perf_counter()
    for _ in range(blocks):
        operator(block)
    return blocks * SHARD / (time.perf_counter() - started)


def decode(table: object) -> None:
    from raycap.config import LimitsConfig
    from raycap.operators import DecodePhotos

    DecodePhotos(height_px=224, width_px=224, exif_orientation=False, limits=LimitsConfig())(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        print(run_alone(*sys.argv[2:]))
    else:
        main()
