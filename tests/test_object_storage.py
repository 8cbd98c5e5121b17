"""Every stage on an object store: a server that speaks S3 over HTTP on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from conftest import make_manifest
from pyarrow import fs

from raycap import storage

pytestmark = pytest.mark.slow

Environment = dict[str, str]


@pytest.fixture(scope="module")
def store() -> Iterator[Environment]:
    """The environment of somebody with a bucket, `raycap`, on a store of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(settings)
    bucket().create_dir("raycap")
    yield {**os.environ, **settings}
    for name in settings:
        del os.environ[name]
    server.terminate()
    server.wait()


def bucket() -> fs.FileSystem:
    endpoint = os.environ["AWS_ENDPOINT_URL"]  # which a URI takes from here by itself
    return fs.S3FileSystem(allow_bucket_creation=True, region="us-east-1", endpoint_override=endpoint)


def names(folder: str) -> list[str]:
    found = bucket().get_file_info(fs.FileSelector(f"raycap/{folder}", recursive=True, allow_not_found=True))
    return sorted(each.path.removeprefix("raycap/") for each in found if each.is_file)


def raycap(environment: Environment, *arguments: str, expected: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "raycap", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, done.stderr
    return done.stdout


def test_every_stage_on_an_object_store(store: Environment, photo_folder: Path, encoder_file: Path) -> None:
    here = bucket()
    for path in sorted(photo_folder.iterdir()):
        with here.open_output_stream(f"raycap/photos/{path.name}") as stream:
            stream.write(path.read_bytes())
    for name, content in (
        ("captions.csv", (photo_folder.parent / "captions.csv").read_bytes()),
        ("grid.keras", encoder_file.read_bytes()),
        ("photos/broken.jpg", b"no photo"),
    ):
        with here.open_output_stream(f"raycap/{name}") as stream:
            stream.write(content)

    captions = ("--captions", "s3://raycap/captions.csv", "--photos", "s3://raycap/photos")
    raycap(store, "prepare", *captions, "--out", "s3://raycap/prepared", "--keep-one-letter-words")
    extract = ("extract", "--manifest", "s3://raycap/prepared/photos.parquet", "--encoder", "s3://raycap/grid.keras")
    raycap(store, *extract, "--out", "s3://raycap/features")
    assert "(0 photos in this run)" in raycap(store, *extract, "--out", "s3://raycap/features")
    inputs = ("--prepared", "s3://raycap/prepared", "--features", "s3://raycap/features")
    small = ("--units", "16", "--embedding-dim", "8", "--epochs", "2", "--global-batch-size", "4")
    raycap(store, "train", *inputs, *small, "--out", "s3://raycap/model")
    assert "model/bundle/card.json" in names("model")
    assert not names("model/checkpoints")
    scores = ("--model", "s3://raycap/model", "--out", "s3://raycap/scores", "--meteor-timeout-s", "0")
    raycap(store, "evaluate", *inputs, *scores)
    with here.open_input_stream("raycap/scores/scores.json") as stream:
        assert json.loads(stream.read())["num_photos"] == 8

    caption = ("caption", "s3://raycap/photos", "--model", "s3://raycap/model", "--out", "s3://raycap/captions")
    options = ("--formats", "jsonl", "csv", "--sidecars", "s3://raycap/texts", "--json")
    result = json.loads(raycap(store, *caption, *options, expected=3))
    assert (result["num_captions"], result["num_failures"], result["num_new"]) == (48, 1, 49)
    assert result["sidecars"] == {"written": 48, "kept": 0}
    assert json.loads(raycap(store, *caption, *options, expected=3))["num_new"] == 0
    with here.open_input_stream("raycap/captions/captions.jsonl") as stream:
        rows = [json.loads(line) for line in stream.read().splitlines()]
    assert sorted(row["uri"] for row in rows) == sorted(f"s3://raycap/{quote(name)}" for name in names("photos"))[:-1]
    for row in rows:
        with here.open_input_stream(f"raycap/texts/{Path(row['image_id']).stem}.txt") as stream:
            assert stream.read().decode() == row["caption"] + "\n"
    table = pq.read_table("raycap/captions/captions", filesystem=here)
    assert sorted(table["image_id"].to_pylist()) == sorted(path.name for path in photo_folder.iterdir())


@pytest.mark.parametrize("error", [OSError("the disk of the spool is gone"), KeyboardInterrupt()])
def test_an_upload_that_fails_shows_nothing(
    error: BaseException, store: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 of 30 MB, several parts of an upload, are with the server when it fails."""
    storage.write_bytes("s3://raycap/upload/x", b"good")

    def some_of_it(content: IO[bytes], stream: IO[bytes], _: int) -> None:
        stream.write(content.read(20_000_000))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", some_of_it)
        with pytest.raises(type(error)):
            storage.write_bytes("s3://raycap/upload/x", bytes(30_000_000))
    assert names("upload") == ["upload/x"]
    assert storage.read_bytes("s3://raycap/upload/x") == b"good"
    storage.write_bytes("s3://raycap/upload/x", bytes(30_000_000))
    assert names("upload") == ["upload/x"]
    assert storage.num_bytes("s3://raycap/upload/x") == 30_000_000


def test_of_two_runs_on_one_output_of_an_object_store_one_goes_on(
    store: Environment, photo_folder: Path, encoder_file: Path, tmp_path: Path
) -> None:
    manifest = make_manifest(tmp_path / "photos.parquet", {path.name: path for path in sorted(photo_folder.iterdir())})
    options = ["--manifest", manifest, "--encoder", str(encoder_file), "--out", "s3://raycap/twice"]
    command = [sys.executable, "-m", "raycap", "extract", *options]
    runs = [subprocess.Popen(command, env=store, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=200)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) in ([0, 1], [0, 0]), said  # both, if the second began when the first was done
    refused = [text for code, text in zip(codes, said, strict=True) if code]
    assert all("another run is writing s3://raycap/twice" in text.splitlines()[-1] for text in refused)
    found = pq.read_table("raycap/twice/features", filesystem=bucket(), columns=["image_id"])
    assert sorted(found["image_id"].to_pylist()) == sorted(path.name for path in photo_folder.iterdir())
    assert not [name for name in names("twice") if "/." in name]


def test_a_run_killed_on_an_object_store_goes_on(store: Environment, photo_folder: Path, encoder_file: Path) -> None:
    here = bucket()
    rows = ["image,caption,split"]
    photos = sorted(photo_folder.iterdir())
    for number in range(1200):
        name = f"{number:04d}.png"
        with here.open_output_stream(f"raycap/many/{name}") as stream:
            stream.write(photos[number % 48].read_bytes())
        rows.append(f"{name},a square,{'train' if number else 'dev'}")
    with here.open_output_stream("raycap/many.csv") as stream:
        stream.write("\n".join(rows).encode())
    many = ("--captions", "s3://raycap/many.csv", "--photos", "s3://raycap/many")
    raycap(store, "prepare", *many, "--out", "s3://raycap/many-prepared")
    manifest = "s3://raycap/many-prepared/photos.parquet"
    options = ["--manifest", manifest, "--encoder", str(encoder_file), "--shard-size", "16"]
    command = [sys.executable, "-m", "raycap", "extract", *options, "--out", "s3://raycap/many-features"]
    run = subprocess.Popen(command, env=store, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(names("many-features/features")) < 5:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = set(names("many-features/features"))
    assert len(before) < 75
    raycap(store, "extract", *options, "--out", "s3://raycap/many-features")
    assert before <= set(names("many-features/features"))
    found = pq.read_table("raycap/many-features/features", filesystem=here, columns=["image_id"])
    assert sorted(found["image_id"].to_pylist()) == [f"{number:04d}.png" for number in range(1200)]
