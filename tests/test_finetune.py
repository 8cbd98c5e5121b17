"""Encoders that learn the words of the captions, and photos as they see them meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raycap.config import ExtractConfig, FinetuneConfig, TuningConfig
from raycap.errors import InputError, RaycapError, StaleError, TooManyFailuresError
from raycap.features import FeatureSet
from raycap.inspection import inspect
from raycap.operators import DecodePhotos, DrawViews, to_images
from raycap.options import build
from raycap.stages.extract import extract
from raycap.stages.finetune import FinetuneResult, finetune
from raycap.storage import read_json
from raycap.tool_config import InspectConfig, RunConfig
from raycap.tool_summaries import say_inspection
from raycap.workflow import run

TUNING = TuningConfig(finetune_epochs=6, finetune_share=0.5, finetune_learning_rate=1e-2, finetune_batch_size=4)


def small(prepared: Path, encoder: Path, out: Path, **others: Any) -> FinetuneConfig:
    return FinetuneConfig(prepared=str(prepared), encoder=str(encoder), out=str(out), **{"tuning": TUNING, **others})


@pytest.fixture(scope="module")
def finetuned(
    ray_cluster: None, prepared: Path, untrained_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneConfig, FinetuneResult]:
    config = small(prepared, untrained_file, tmp_path_factory.mktemp("finetuned") / "encoder")
    return config, finetune(config)


def kernels(path: str | Path) -> dict[str, Any]:
    import keras

    model = keras.models.load_model(path)
    assert all(layer.trainable for layer in model.layers)
    return {name: np.asarray(model.get_layer(name).kernel) for name in ("first", "second")}


def test_the_last_layers_learn_and_the_best_epoch_is_kept(
    finetuned: tuple[FinetuneConfig, FinetuneResult], untrained_file: Path
) -> None:
    config, result = finetuned
    assert result.encoder == f"{config.out}/untrained-finetuned.keras"
    losses = [entry["dev_loss"] for entry in result.history]
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.best_dev_loss == min(losses) < losses[0]
    assert losses[result.best_epoch - 1] == result.best_dev_loss
    assert read_json(f"{config.out}/history.json")["history"] == result.history
    before, after = kernels(untrained_file), kernels(result.encoder)
    assert np.array_equal(before["first"], after["first"])
    assert not np.allclose(before["second"], after["second"])
    assert not Path(config.out, "checkpoints").exists()
    assert {entry["num_failed"] for entry in result.history} == {0}


def test_features_tell_more_of_what_is_said(
    finetuned: tuple[FinetuneConfig, FinetuneResult], prepared: Path, untrained_file: Path, tmp_path: Path
) -> None:
    """A linear classifier of the squares' colours, fitted on train, is right more often on dev and test."""
    right = {}
    for name, location in (("before", str(untrained_file)), ("after", finetuned[1].encoder)):
        out = tmp_path / name
        extract(ExtractConfig(manifest=str(prepared / "photos.parquet"), out=str(out), encoder=location))
        shards = list(FeatureSet.open(str(out)).iter_shards())
        features = np.concatenate([shard.features for shard in shards])
        numbers = np.array([int(image_id[:3]) for shard in shards for image_id in shard.image_ids])
        colours, known = np.eye(4)[numbers % 4], numbers < 32
        features = (features - features[known].mean(axis=0)) / (features[known].std(axis=0) + 1e-6)
        covariance = features[known].T @ features[known] + 3.0 * np.eye(features.shape[1])
        weights = np.linalg.solve(covariance, features[known].T @ (colours[known] - 0.25))
        error = features[~known] @ weights + 0.25 - colours[~known]
        right[name] = 1 - np.square(error).mean() / np.square(colours - 0.25).mean()
    assert right["after"] > right["before"] + 0.05, right


def test_a_finished_one_does_nothing_and_another_is_refused(
    finetuned: tuple[FinetuneConfig, FinetuneResult], untrained_file: Path, tmp_path: Path
) -> None:
    config, result = finetuned
    written = Path(result.encoder).stat().st_mtime_ns
    assert finetune(config) == result
    assert Path(result.encoder).stat().st_mtime_ns == written
    with pytest.raises(StaleError, match="finetune_share"):
        finetune(replace(config, tuning=replace(TUNING, finetune_share=1.0)))
    # another encoder in the same place
    moved = tmp_path / untrained_file.name
    shutil.copy(untrained_file, moved)
    out = tmp_path / "out"
    shutil.copytree(config.out, out)
    record = json.loads((out / "run.json").read_text())
    record["identity"]["encoder"] = str(moved)
    (out / "run.json").write_text(json.dumps(record))
    assert finetune(replace(config, encoder=str(moved), out=str(out))).history == result.history
    shutil.copy(result.encoder, moved)
    with pytest.raises(StaleError, match="its encoder changed"):
        finetune(replace(config, encoder=str(moved), out=str(out)))


@pytest.mark.slow
def test_it_is_the_same_again_where_the_encoder_was_deleted_too(
    finetuned: tuple[FinetuneConfig, FinetuneResult], prepared: Path, untrained_file: Path, tmp_path: Path
) -> None:
    again = finetune(small(prepared, untrained_file, tmp_path / "again"))
    assert np.allclose(kernels(again.encoder)["second"], kernels(finetuned[1].encoder)["second"], atol=1e-5)
    Path(again.encoder).unlink()
    assert finetune(small(prepared, untrained_file, tmp_path / "again")).encoder == again.encoder
    assert np.allclose(kernels(again.encoder)["second"], kernels(finetuned[1].encoder)["second"], atol=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_it(ray_cluster: None, prepared: Path, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    )
    model.set_weights([np.full_like(each, np.nan) for each in model.get_weights()])
    model.save(tmp_path / "broken.keras")
    with pytest.raises(RaycapError, match="no longer a number; lower --finetune-learning-rate"):
        finetune(small(prepared, tmp_path / "broken.keras", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.keras"))


def test_what_cannot_be_tuned_is_said(
    ray_cluster: None, prepared: Path, untrained_file: Path, encoder_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no saved model at"):
        finetune(small(prepared, tmp_path / "missing.keras", tmp_path / "a"))
    with pytest.raises(InputError, match="has no layer that can learn"):
        finetune(small(prepared, encoder_file, tmp_path / "b"))
    with pytest.raises(InputError, match="--finetune-epochs is 0"):
        small(prepared, untrained_file, tmp_path / "c", tuning=TuningConfig())


@pytest.mark.slow
def test_photos_that_cannot_be_read_are_left_out_and_none_is_an_error(
    ray_cluster: None, photo_folder: Path, untrained_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raycap.config import PrepareConfig
    from raycap.stages.prepare import prepare

    photos = tmp_path / "photos"
    shutil.copytree(photo_folder, photos)
    captions = (str(photo_folder.parent / "captions.csv"),)
    prepared = tmp_path / "prepared"
    prepare(PrepareConfig(captions=captions, photos=str(photos), out=str(prepared)))
    once = replace(TUNING, finetune_epochs=1)
    for path in sorted(photos.iterdir())[:5]:
        path.write_bytes(b"no photo")
    [entry] = finetune(small(prepared, untrained_file, tmp_path / "some", tuning=once)).history
    assert entry["num_failed"] == 5
    assert "epoch 1: train loss" in capsys.readouterr().err
    for path in photos.iterdir():
        path.write_bytes(b"no photo")
    with pytest.raises(TooManyFailuresError, match="32 photos failed"):
        finetune(small(prepared, untrained_file, tmp_path / "none", tuning=once))


@pytest.mark.parametrize("length", [20, 25, 27])
def test_views_are_drawn_anew_each_epoch(photo_folder: Path, length: int) -> None:
    paths = sorted(photo_folder.iterdir())
    names = [path.name.rjust(length, "x") for path in paths]
    table = pa.table({"image_id": names, "uri": [str(path) for path in paths]})
    decoded = DecodePhotos(height_px=32, width_px=32, exif_orientation=False)(table)
    whole = to_images(decoded["image"].combine_chunks(), 32, 32)

    def kinds(seed: int, epoch: int) -> list[str]:
        drawn = DrawViews(height_px=32, width_px=32, seed=seed, epoch=epoch)(decoded)
        assert drawn.schema == decoded.schema
        images = to_images(drawn["image"].combine_chunks(), 32, 32)
        views = [("whole", whole), ("mirrored", whole[:, :, ::-1]), ("crop", images)]
        return [
            next(kind for kind, each in views if np.array_equal(each[row], images[row])) for row in range(len(whole))
        ]

    seen = np.array([kinds(0, epoch) for epoch in (1, 2, 3, 4)])
    assert set(seen.ravel()) == {"whole", "mirrored", "crop"}
    assert 0.35 < np.mean(seen == "crop") < 0.65
    # photos differ in which epochs they are seen in alike, and hardly any is seen in one way only
    assert len({tuple(column == column[0]) for column in seen.T}) > 4
    assert np.mean((seen == seen[0]).all(axis=0)) < 0.3
    assert kinds(1, 1) != list(seen[0])
    assert kinds(0, 1) == list(seen[0])


def test_crops_of_an_epoch_are_its_own(photo_folder: Path) -> None:
    path = next(photo_folder.iterdir())
    decoded = DecodePhotos(height_px=32, width_px=32, exif_orientation=False)(
        pa.table({"image_id": [path.name], "uri": [str(path)]})
    )
    drawn = [DrawViews(height_px=32, width_px=32, seed=0, epoch=epoch)(decoded) for epoch in range(1, 21)]
    assert len({table["image"][0].as_buffer().to_pybytes() for table in drawn}) > 5


@pytest.mark.slow
def test_killed_it_goes_on_from_its_last_epoch(
    finetuned: tuple[FinetuneConfig, FinetuneResult], prepared: Path, untrained_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    options = ["--prepared", prepared, "--encoder", untrained_file, "--out", out, "--finetune-epochs", "6"]
    options += ["--finetune-share", "0.5", "--finetune-learning-rate", "0.01", "--finetune-batch-size", "4"]
    command = [sys.executable, "-m", "raycap", "finetune", *map(str, options)]
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        history = out / "history.json"
        deadline = time.monotonic() + 300
        while not (history.exists() and len(read_json(str(history))["history"]) >= 3):
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = read_json(str(history))["history"]
    assert not list(out.glob("*.keras"))
    result = finetune(small(prepared, untrained_file, out))
    assert result.history[:2] == before[:2]  # Ray Train may not have noted the last one
    undisturbed = finetuned[1].history
    assert [each["dev_loss"] for each in result.history] == pytest.approx([each["dev_loss"] for each in undisturbed])


@pytest.mark.slow
def test_a_run_begins_with_it_and_knows_when_it_is_stale(
    ray_cluster: None, photo_folder: Path, untrained_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[tuple[str, ...], Any] = {
        ("out",): str(tmp_path / "out"),
        ("report",): False,
        ("tuning", "finetune_epochs"): 1,
        ("tuning", "finetune_batch_size"): 4,
        ("prepare", "captions"): (str(photo_folder.parent / "captions.csv"),),
        ("prepare", "photos"): str(photo_folder),
        ("extract", "encoder"): str(untrained_file),
        ("train", "epochs"): 1,
        ("evaluate", "decoding", "beam_width"): 1,
    }
    stages = ["prepare", "finetune", "extract", "train", "evaluate"]
    first = run(build(RunConfig, values))
    assert list(first.seconds) == stages
    card = FeatureSet.open(str(tmp_path / "out/features")).card
    assert card.weights == str(tmp_path / "out/encoder/untrained-finetuned.keras")
    assert run(build(RunConfig, values)).up_to_date == stages
    assert "encoder" in say_inspection(inspect(InspectConfig(path=str(tmp_path / "out"))), None)
    other = values | {("tuning", "finetune_share"): 1.0}
    with pytest.raises(StaleError, match="finetune_share"):
        run(build(RunConfig, other))
    again = run(build(RunConfig, other | {("redo",): True}))
    assert list(again.seconds) == stages[1:]
    assert FeatureSet.open(str(tmp_path / "out/features")).card.weights_hash != card.weights_hash
    capsys.readouterr()
