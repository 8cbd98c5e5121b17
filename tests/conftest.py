"""What tests share: photos drawn on the spot, a small encoder, one Ray cluster, one trained model."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# The environment that every process of the tests, Ray's workers among them, should see.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raycap import parquet

if TYPE_CHECKING:
    from nodes import Nodes

_COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 200), "yellow": (220, 200, 40)}
_PLACES = {"left": 0, "right": 48}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One real Ray on this machine for all tests that need one."""
    import ray

    from raycap.cluster import connect

    os.environ.pop("RAY_ADDRESS", None)
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photos of a coloured square, left or right, with a captions.csv beside the folder."""
    folder = tmp_path_factory.mktemp("dataset") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for number in range(48):
        colour, place = list(_COLOURS)[number % 4], list(_PLACES)[number // 4 % 2]
        pixels = rng.integers(210, 255, (96, 96, 3)).astype(np.uint8)
        x, y = _PLACES[place] + rng.integers(0, 8), rng.integers(10, 46)
        pixels[y : y + 40, x : x + 40] = _COLOURS[colour]
        name = f"{number:03d} square.png"
        Image.fromarray(pixels).save(folder / name)
        split = "train" if number < 32 else "dev" if number < 40 else "test"
        lines += [
            f"{name},A {colour} square on the {place} .,{split}",
            f"{name},There is a {colour} square at the {place}!,{split}",
        ]
    (folder.parent / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


def save_grid(path: Path, last_layer: str) -> Path:
    """Save a model of 32 x 32 photos that averages over a 4 x 4 grid before its last layer, in another process."""
    code = (
        "import keras, sys\n"
        "photo = keras.Input((32, 32, 3))\n"
        "x = keras.layers.Rescaling(1 / 127.5, offset=-1)(photo)\n"
        "x = keras.layers.AveragePooling2D(8)(x)\n"
        f"keras.Model(photo, keras.layers.{last_layer}(x)).save(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small saved encoder: 32 x 32 photos, averaged over a 4 x 4 grid, 48 numbers."""
    return save_grid(tmp_path_factory.mktemp("encoder") / "grid.keras", "Flatten()")


@pytest.fixture(scope="session")
def map_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an average over the grid in its end, 3 numbers: a model with a feature map."""
    return save_grid(tmp_path_factory.mktemp("map") / "map.keras", "GlobalAveragePooling2D(name='mean')")


@pytest.fixture(scope="session")
def untrained_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small saved encoder, of 32 x 32 photos, with two layers that have learnt nothing."""
    path = tmp_path_factory.mktemp("untrained") / "untrained.keras"
    code = (
        "import keras, sys\n"
        "keras.utils.set_random_seed(0)\n"
        "photo = keras.Input((32, 32, 3))\n"
        "x = keras.layers.Rescaling(1 / 127.5, offset=-1)(photo)\n"
        "x = keras.layers.Conv2D(8, 4, strides=4, activation='relu', name='first')(x)\n"
        "x = keras.layers.Conv2D(16, 2, strides=2, activation='relu', name='second')(x)\n"
        "keras.Model(photo, keras.layers.GlobalAveragePooling2D()(x)).save(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def prepared(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos, prepared."""
    from raycap.config import PrepareConfig
    from raycap.stages.prepare import prepare

    out = tmp_path_factory.mktemp("prepared") / "prepared"
    captions = str(photo_folder.parent / "captions.csv")
    prepare(PrepareConfig(captions=(captions,), photos=str(photo_folder), out=str(out), keep_one_letter_words=True))
    return out


@pytest.fixture(scope="session")
def features(ray_cluster: None, prepared: Path, encoder_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos' features."""
    from raycap.config import ExtractConfig
    from raycap.stages.extract import extract

    out = tmp_path_factory.mktemp("features") / "features"
    extract(ExtractConfig(manifest=str(prepared / "photos.parquet"), out=str(out), encoder=str(encoder_file)))
    return out


@pytest.fixture(scope="session")
def model(prepared: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt the squares."""
    from raycap.config import ModelConfig, TrainConfig
    from raycap.stages.train import train

    out = tmp_path_factory.mktemp("model") / "model"
    train(
        TrainConfig(
            prepared=str(prepared),
            features=str(features),
            out=str(out),
            model=ModelConfig(units=32, embedding_dim=16, dropout=0.1, normalization="standardize"),
            epochs=25,
            patience=25,
            global_batch_size=4,
            learning_rate=5e-3,
        )
    )
    return out


@pytest.fixture
def nodes() -> Iterator["Nodes"]:
    """A cluster of which a test adds and removes the nodes."""
    from nodes import started

    with started() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def many(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """1,200 photos, links to the 48, three of them broken; and their manifest."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    folder.mkdir()
    originals = sorted(photo_folder.iterdir())
    for number in range(1200):
        os.link(originals[number % 48], folder / f"{number:04d}.png")
    for number in (7, 500, 1100):
        (folder / f"{number:04d}.png").unlink()
        (folder / f"{number:04d}.png").write_bytes(b"no photo")
    return folder, make_manifest(folder.parent / "m.parquet", {path.name: path for path in sorted(folder.iterdir())})


@pytest.fixture(scope="session")
def undisturbed(many: tuple[Path, str], encoder_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What extract makes of them where nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    _raycap("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", out)
    return out


@pytest.fixture(scope="session")
def captions_alone(many: tuple[Path, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What caption makes of them where nothing happens."""
    out = tmp_path_factory.mktemp("alone") / "captions"
    _raycap("caption", many[0], "--model", model, "--out", out, expected=3)
    return out


@pytest.fixture(scope="session")
def trained_alone(prepared: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers train in eight epochs where nothing happens."""
    from nodes import finish, started, training

    out = tmp_path_factory.mktemp("trained") / "model"
    with started() as nodes:
        nodes.add("--num-cpus=2")
        finish(nodes.raycap(*training(prepared, features, out, epochs=8, num_workers=2)))
    return out


def _raycap(*arguments: object, expected: int = 0) -> None:
    command = [sys.executable, "-m", "raycap", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_manifest(path: Path | str, photos: dict[str, Path | str]) -> str:
    """Write a manifest of photos by id; return its location."""
    table = pa.table({"image_id": list(photos), "uri": [str(uri) for uri in photos.values()]})
    parquet.write_table(str(path), table)
    return str(path)
