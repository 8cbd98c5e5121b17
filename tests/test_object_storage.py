"""Every stage on an object store: a server that speaks S3 over HTTP on loopback."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_manifest
from pyarrow import fs

from raycap import storage
from raycap.model import Bundle
from raycap.storage import read_json

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

    # again: what is there is not made anew
    before = written("prepared", "scores")
    raycap(store, "prepare", *captions, "--out", "s3://raycap/prepared", "--keep-one-letter-words")
    raycap(
        store,
        "evaluate",
        "--model",
        "s3://raycap/model",
        *inputs,
        "--meteor-timeout-s",
        "0",
        "--out",
        "s3://raycap/scores",
    )
    assert written("prepared", "scores") == before


def test_an_encoder_is_fine_tuned_into_an_object_store_and_used_from_there(
    store: Environment, prepared: Path, untrained_file: Path
) -> None:
    with bucket().open_output_stream("raycap/untrained.keras") as stream:
        stream.write(untrained_file.read_bytes())
    command = ["finetune", "--prepared", str(prepared), "--encoder", "s3://raycap/untrained.keras", "--json"]
    command += ["--finetune-epochs", "2", "--finetune-batch-size", "8", "--out", "s3://raycap/tuned?region=us-east-1"]
    result = json.loads(raycap(store, *command))
    assert result["encoder"] == "s3://raycap/tuned/untrained-finetuned.keras?region=us-east-1"
    assert names("tuned")[-3:] == ["tuned/history.json", "tuned/run.json", "tuned/untrained-finetuned.keras"]
    before = written("tuned")
    assert json.loads(raycap(store, *command)) == result
    assert written("tuned") == before
    extract = ("extract", "--manifest", str(prepared / "photos.parquet"), "--encoder", result["encoder"])
    raycap(store, *extract, "--out", "s3://raycap/tuned-features")
    assert len(rows_of("tuned-features/features", "feature")) == 48


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


def written(*folders: str) -> dict[str, bytes]:
    """What the files of some folders hold; of the records, what came of it."""
    found = {name: read(name) for folder in folders for name in names(folder)}
    return {
        name: repr(json.loads(content)["result"]).encode() if name.endswith("run.json") else content
        for name, content in found.items()
    }


def read(name: str) -> bytes:
    with bucket().open_input_stream(f"raycap/{name}") as stream:
        return bytes(stream.read())


def upload(folder: Path, name: str) -> str:
    """Copy a local folder into the bucket; return its location there."""
    here = bucket()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with here.open_output_stream(f"raycap/{name}/{path.relative_to(folder).as_posix()}") as stream:
                stream.write(path.read_bytes())
    return f"s3://raycap/{name}"


def test_globs_lists_and_containers_on_an_object_store(store: Environment, photo_folder: Path, model: Path) -> None:
    """The same photos in all the ways that photos are given, in one run, get the same captions."""
    here, photos = bucket(), sorted(photo_folder.iterdir())[:6]
    upload(model / "bundle", "given/bundle")
    contents = {f"given/in folder/{path.name}": path.read_bytes() for path in photos}
    contents |= {f"given/listed/{path.name}": path.read_bytes() for path in photos}
    contents |= {f"given/matched/{number}/{path.name}": path.read_bytes() for number, path in enumerate(photos)}
    contents["given/matched/0/no photo.txt"] = b"and not opened"
    contents["given/relative.txt"] = "\n".join(f"listed/{path.name}" for path in photos[:3]).encode()
    contents["given/absolute.csv"] = "\n".join(
        ["uri", *(f"s3://raycap/given/listed/{quote(path.name)}" for path in photos[3:])]
    ).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in photos:
            tar.add(path, path.name)
    contents["given/shard-0.tar"] = archive.getvalue()
    for name, content in contents.items():
        with here.open_output_stream(f"raycap/{name}") as stream:
            stream.write(content)
    rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in photos]}
    pq.write_table(pa.table(rows), "raycap/given/rows.parquet", filesystem=here, row_group_size=2)

    given_as = ("in folder", "relative.txt", "absolute.csv", "matched/**/*.png", "shard-*.tar", "rows.parquet")
    sources = [f"s3://raycap/given/{name}" for name in given_as]
    options = ("--model", "s3://raycap/given/bundle", "--out", "s3://raycap/given/captions", "--json")
    result = json.loads(raycap(store, "caption", *sources, *options))
    assert (result["num_photos"], result["num_captions"], result["num_failures"]) == (30, 30, 0)
    table = pq.read_table("raycap/given/captions/captions", filesystem=here, columns=["uri", "caption"])
    captions = dict(zip(*table.to_pydict().values(), strict=True))
    given = "s3://raycap/given"
    for number, path in enumerate(photos):
        name = quote(path.name)
        same = [f"{given}/in%20folder/{name}", f"{given}/listed/{name}", f"{given}/matched/{number}/{name}"]
        same += [f"{given}/shard-0.tar#{path.name}", f"{given}/rows.parquet#{number}"]
        assert len({captions.pop(uri) for uri in same}) == 1
    assert not captions


def kill_once(store: Environment, command: Sequence[str], has_begun: Callable[[], bool]) -> None:
    """Start a run and kill it, with -9 and with its Ray, once it has begun."""
    run = subprocess.Popen(
        [sys.executable, "-m", "raycap", *command], env=store, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not has_begun():
        assert run.poll() is None, "it ended too early to show anything"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


@pytest.fixture(scope="module")
def many_stored(store: Environment, many: tuple[Path, str]) -> str:
    """The 1,200 photos, in the bucket."""
    return upload(many[0], "many")


def rows_of(folder: str, *columns: str) -> pd.DataFrame:
    rows = pq.read_table(f"raycap/{folder}", filesystem=bucket()).to_pandas().set_index("image_id").sort_index()
    assert rows.index.is_unique
    return rows[list(columns)]


def require_same_failures(folder: str, undisturbed: Path) -> None:
    mine = rows_of(f"{folder}/failures", "stage", "error_type")
    theirs = pd.read_parquet(undisturbed / "failures").set_index("image_id").sort_index()[["stage", "error_type"]]
    pd.testing.assert_frame_equal(mine, theirs)
    assert len(mine) == 3


def test_extract_killed_on_an_object_store_goes_on(
    store: Environment, many_stored: str, many: tuple[Path, str], encoder_file: Path, undisturbed: Path
) -> None:
    uris = {path.name: f"{many_stored}/{path.name}" for path in sorted(many[0].iterdir())}
    make_manifest("s3://raycap/many.parquet", uris)
    command = ["extract", "--manifest", "s3://raycap/many.parquet", "--encoder", str(encoder_file)]
    command += ["--shard-size", "16", "--out", "s3://raycap/many-features"]
    kill_once(store, command, lambda: len(names("many-features/features")) >= 5)
    before = set(names("many-features/features"))
    assert len(before) < 75
    raycap(store, *command)
    assert before <= set(names("many-features/features"))
    mine = rows_of("many-features/features", "feature").feature
    theirs = pd.read_parquet(undisturbed / "features").set_index("image_id").feature.sort_index()
    assert list(mine.index) == list(theirs.index)
    np.testing.assert_allclose(np.stack(mine), np.stack(theirs), rtol=1e-5, atol=1e-6)
    require_same_failures("many-features", undisturbed)


def test_caption_killed_on_an_object_store_goes_on(
    store: Environment, many_stored: str, model: Path, captions_alone: Path
) -> None:
    command = ["caption", many_stored, "--model", upload(model / "bundle", "bundle"), "--shard-size", "16"]
    command += ["--formats", "jsonl", "--sidecars", "s3://raycap/many-texts", "--out", "s3://raycap/many-captions"]
    kill_once(store, command, lambda: len(names("many-captions/captions")) >= 5)
    before = set(names("many-captions/captions"))
    assert len(before) < 75
    raycap(store, *command, expected=3)
    assert before <= set(names("many-captions/captions"))
    mine = rows_of("many-captions/captions", "caption", "log_prob")
    theirs = pd.read_parquet(captions_alone / "captions").set_index("image_id").sort_index()
    assert list(mine.index) == list(theirs.index)
    assert list(mine.caption) == list(theirs.caption)
    np.testing.assert_allclose(mine.log_prob, theirs.log_prob, atol=1e-4)
    require_same_failures("many-captions", captions_alone)
    assert len(read("many-captions/captions.jsonl").splitlines()) == len(mine)
    texts = [f"many-texts/{Path(image_id).stem}.txt" for image_id in mine.index]
    assert names("many-texts") == texts
    for name, words in list(zip(texts, mine.caption, strict=True))[::50]:
        assert read(name).decode() == words + "\n"
    assert not [name for name in names("many-captions") if "lock" in name]


def test_train_and_evaluate_killed_on_an_object_store_go_on(
    store: Environment, prepared: Path, features: Path, tmp_path: Path
) -> None:
    inputs = ("--prepared", upload(prepared, "few/prepared"), "--features", upload(features, "few/features"))
    options = ("--units", "16", "--epochs", "40", "--patience", "40", "--global-batch-size", "4", "--seed", "3")

    def history() -> list[dict[str, Any]]:
        if "few/model/history.json" not in names("few/model"):
            return []
        try:
            return list(json.loads(read("few/model/history.json"))["history"])
        except json.JSONDecodeError:  # a longer one took its place between asking for its size and reading it
            return []

    train = ("train", *inputs, *options, "--out", "s3://raycap/few/model")
    kill_once(store, train, lambda: len(history()) >= 4)
    before = history()
    assert not names("few/model/bundle"), "killed too late to show anything"
    raycap(store, *train)
    after = history()
    # Ray Train notes a checkpoint up to a second or two after the epoch, which here is many epochs; those noted stay
    assert after[0] == before[0], "all epochs were done again"
    assert not names("few/model/checkpoints")
    evaluate = ("evaluate", "--model", "s3://raycap/few/model", *inputs, "--out", "s3://raycap/few/scores")
    kill_once(store, evaluate, lambda: "few/scores/run.json" in names("few/scores"))
    assert "few/scores/scores.json" not in names("few/scores"), "killed too late to show anything"
    raycap(store, *evaluate)

    here = ("--prepared", str(prepared), "--features", str(features))
    raycap(store, "train", *here, *options, "--out", str(tmp_path / "model"))
    raycap(store, "evaluate", "--model", str(tmp_path / "model"), *here, "--out", str(tmp_path / "scores"))
    alone = read_json(str(tmp_path / "model/history.json"))["history"]
    assert [each["epoch"] for each in after] == [each["epoch"] for each in alone]
    for name in ("train_loss", "dev_loss"):
        np.testing.assert_allclose([each[name] for each in after], [each[name] for each in alone], rtol=1e-5)
    mine, theirs = (Bundle.load(each).model.weights for each in ("s3://raycap/few/model", str(tmp_path / "model")))
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), atol=1e-5)
    scores, expected = json.loads(read("few/scores/scores.json")), read_json(str(tmp_path / "scores/scores.json"))
    assert scores["scores"] == expected["scores"]
