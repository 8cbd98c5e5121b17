"""The extract stage against what the cores allow: VGG16, its start-up, and large photos that take longer to decode.

    python benchmarks/extract.py [--full] [WORK_FOLDER]

Weights are random. VGG16 on generated 500 x 500 JPEG photos: the whole pipeline against a bare `tf.function` over ready
arrays (measured before the pipeline and after it), in float32 and in bfloat16, and a photo at a time through `predict`.
Start-up: each phase in a process of its own, and which processes import TensorFlow. Large photos: MobileNetV2 on
12-megapixel JPEGs of about 4 MB, decoded whole and with `--fast-decode`, against decoding alone and encoding alone;
where both take the same cores, no pipeline is faster than one over the sum of their times. Of every pipeline, where the
cores' time went. Prints a table for each.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from alone import alone_rate
from caption_scale import finished
from machine import print_table
from PIL import Image
from stage_cost import kind_of
from workload import make_photos

DRAWN = 16  # large photos that differ; the others are links to them


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="2,000 photos and 1,440 large ones instead of 240 and 480")
    parser.add_argument("--only", choices=("vgg16", "start-up", "large"), help="one of the tables")
    options = parser.parse_args()
    count, large = (2_000, 1_440) if options.full else (240, 480)
    tables: dict[str, Callable[[], None]] = {
        "vgg16": lambda: vgg16(options.work, count),
        "start-up": lambda: start_up(options.work),
        "large": lambda: large_photos(options.work, large),
    }
    for name, table in tables.items():
        if options.only in {None, name}:
            table()


def vgg16(work: Path, count: int) -> None:
    photos = make_photos(work / f"photos-500px-{count}", count, side_px=500)
    one_at_a_time = alone_rate("predict", count=16)
    rows: list[tuple[Any, ...]] = []
    for precision in ("float32", "bfloat16"):
        before = alone_rate("bare", count=min(count, 480), precision=precision)
        options = ("--encoder", "vgg16", "--shard-size", str(max(32, count // 16)), "--precision", precision)
        run = extract(work, photos, *options)
        after = alone_rate("bare", count=min(count, 480), precision=precision)
        bare = (before + after) / 2
        if not rows:
            rows.append(("a photo at a time through predict", one_at_a_time, one_at_a_time / bare))
        rows += [
            (f"{precision}: bare tf.function loop ({before:.2f} before, {after:.2f} after)", bare, 1.0),
            (f"{precision}: pipeline, start-up left out", run.rate, run.rate / bare),
            (f"{precision}: pipeline, start-up included", count / run.wall_s, count / run.wall_s / bare),
        ]
        print(f"{precision}: beside the photos, {run.wall_s - count / run.rate:.1f} s of {run.wall_s:.1f} s")
        print(f"{precision}: {run.whose_time}")
    print_table(f"VGG16, {count:,} photos of 500 x 500", ("what", "photos/s", "of the bare loop"), rows)


def start_up(work: Path) -> None:
    photos = make_photos(work / "photos-500px-160", 160, side_px=500)
    run = extract(work, photos, "--encoder", "vgg16", "--shard-size", "16")
    load = "from raycap.devices import configure; configure(2); from raycap.encoder import load_encoder; "
    build = load + "encoder = load_encoder('vgg16', weights='random'); "
    call = build + "import numpy; encoder.encode(numpy.zeros((16, 224, 224, 3), 'uint8'))"
    phases = {
        "python": "",
        "the driver's imports": "import raycap.cli, raycap.stages.extract",
        "Ray": "import raycap.cli, raycap.stages.extract, raycap.cluster; raycap.cluster.connect()",
    }
    alone = {name: seconds(code) for name, code in phases.items()}
    model = {name: seconds(code) for name, code in {"": "", "TensorFlow": load, "VGG16": build, "first": call}.items()}
    rows: list[tuple[Any, ...]] = [
        ("driver: Python and imports", alone["the driver's imports"]),
        ("driver: Ray starts", alone["Ray"] - alone["the driver's imports"]),
        ("encoder: imports TensorFlow and Keras", model["TensorFlow"] - model[""]),
        ("encoder: builds VGG16 and hashes its weights", model["VGG16"] - model["TensorFlow"]),
        ("encoder: traces, and encodes 16 photos", model["first"] - model["VGG16"]),
    ]
    rows.append(("sum", sum(row[1] for row in rows)))
    rows.append(("from the command to the first 16 features", run.first_s))
    print_table("start-up", ("phase", "seconds"), rows)
    print(f"processes with TensorFlow in them: {', '.join(sorted(run.with_tensorflow)) or 'none'}")


def large_photos(work: Path, count: int) -> None:
    photos = make_large_photos(work / f"photos-12mp-{count}", count)
    encode = alone_rate("encode", count=320, encoder="mobilenetv2", shard=16)
    plain = alone_rate("pillow", photos=photos, side_px=224)
    rows: list[tuple[Any, ...]] = [
        ("encode alone", encode, "", "", ""),
        ("plain Pillow: decode alone", plain, 1.0, "", ""),
    ]
    for name, flags in (("whole", ()), ("fast", ("--fast-decode",))):
        decode = alone_rate("decode", photos=photos, side_px=224, fast=bool(flags), shard=16)
        run = extract(work, photos, "--encoder", "mobilenetv2", "--shard-size", "16", *flags)
        print(f"{name}: {run.whose_time}")
        both = 1 / (1 / decode + 1 / encode)
        rows += [
            (f"{name}: decode alone", decode, decode / plain, "", ""),
            (f"{name}: pipeline", run.rate, "", run.rate / min(decode, encode), run.rate / both),
        ]
    columns = ("what", "photos/s", "x plain Pillow", "of the slower alone", "of both on these cores")
    print_table(f"MobileNetV2, {count:,} photos of 4000 x 3000", columns, rows)


class Extracted:
    """What a run of the stage took.

    Attributes:
        wall_s: all of it.
        rate: photos a second of the last three quarters, when what was decoded while models started is gone.
        first_s: until its first shard.
        with_tensorflow: kinds of processes that had imported TensorFlow.
        whose_time: shares of the cores' time in those three quarters, to be read.
    """

    def __init__(self, command: Sequence[str], features: Path) -> None:
        self.with_tensorflow: set[str] = set()
        self._core_s: dict[int, tuple[str, float]] = {}
        self._looks: list[tuple[float, dict[str, float]]] = []
        began, started = time.time(), time.perf_counter()
        process = psutil.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            time.sleep(1)
            self._look(process)
        self.wall_s = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
        shards = finished(features)
        late = shards[len(shards) // 4 :]
        self.rate = sum(count for _, count in late[1:]) / (late[-1][0] - late[0][0])
        self.first_s = min(path.stat().st_mtime for path in features.glob("*.parquet")) - began
        self.whose_time = self._shares(late[0][0], late[-1][0])

    def _look(self, process: psutil.Popen) -> None:
        for each in [process, *process.children(recursive=True)]:
            try:
                kind = "driver" if each.pid == process.pid else kind_of(each.cmdline())
                self._core_s[each.pid] = _whose(kind), sum(each.cpu_times()[:2])
                if "libtensorflow" in Path(f"/proc/{each.pid}/maps").read_text():
                    self.with_tensorflow.add(kind)
            except (psutil.Error, OSError):
                continue
        spent = {"nobody": psutil.cpu_times().idle}
        for whose, core_s in self._core_s.values():
            spent[whose] = spent.get(whose, 0.0) + core_s
        self._looks.append((time.time(), spent))

    def _shares(self, begun: float, ended: float) -> str:
        inside = [look for look in self._looks if begun <= look[0] <= ended]
        if len(inside) < 2:
            return "too short a run to say where the cores' time went"
        (first, before), *_, (last, after) = inside
        cores = (last - first) * (os.cpu_count() or 1)
        shares = (f"{whose} {(core_s - before.get(whose, 0.0)) / cores:.3f}" for whose, core_s in after.items())
        return f"of the cores' time in {last - first:.0f} s: {', '.join(shares)}"


def _whose(kind: str) -> str:
    if kind == "driver":
        return kind
    if "EncodePhotos" in kind:
        return "encoder"
    # a process that runs tasks is named after the one it runs, if any
    return "tasks" if kind.startswith(("IDLE", "Read", "Map")) else "Ray's own"


def extract(work: Path, photos: Path, *options: str) -> Extracted:
    out, manifest = work / "features-extract", work / "manifest.parquet"
    shutil.rmtree(out, ignore_errors=True)
    paths = sorted(path for path in photos.rglob("*.jpg"))
    columns = {"image_id": [str(path.relative_to(photos)) for path in paths], "uri": [str(p.resolve()) for p in paths]}
    pq.write_table(pa.table(columns), manifest)
    command = [sys.executable, "-m", "raycap", "extract", "--manifest", str(manifest), "--out", str(out), "--quiet"]
    return Extracted([*command, "--weights", "random", *options], out / "features")


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def make_large_photos(folder: Path, count: int) -> Path:
    """Draw 12-megapixel JPEGs with a photo's amount of detail, once, and link to them until there are `count`."""
    if not (folder / ".done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(_draw_large, [(folder, number) for number in range(DRAWN)]))
        for number in range(DRAWN, count):
            os.link(folder / f"{number % DRAWN}.jpg", folder / f"{number}.jpg")
        (folder / ".done").touch()
    return folder


def _draw_large(what: tuple[Path, int]) -> None:
    folder, number = what
    rng = np.random.default_rng(number)
    photo = np.zeros((3000, 4000, 3), np.float32)
    for cell, weight in ((500, 80.0), (50, 40.0), (5, 15.0)):
        coarse = rng.uniform(-1, 1, (3000 // cell, 4000 // cell, 3)).astype(np.float32)
        for channel in range(3):
            enlarged = Image.fromarray(coarse[..., channel]).resize((4000, 3000), Image.Resampling.BILINEAR)
            photo[..., channel] += weight * np.asarray(enlarged)
    photo += rng.normal(0, 5, photo.shape).astype(np.float32)
    Image.fromarray(np.clip(photo + 128, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=88)


if __name__ == "__main__":
    main()
