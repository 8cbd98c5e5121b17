"""The train stage on a real Ray."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycap.cluster import Capacity
from raycap.config import CaptionConfig, ModelConfig, TrainConfig
from raycap.errors import ConflictError, InputError, RaycapError
from raycap.model import Bundle
from raycap.runs import read_run
from raycap.stages import train as stage
from raycap.stages.caption import caption
from raycap.stages.train import train
from raycap.storage import read_json


def small(prepared: Path, features: Path, out: Path, **options: Any) -> TrainConfig:
    config = TrainConfig(
        prepared=str(prepared),
        features=str(features),
        out=str(out),
        model=ModelConfig(units=16, embedding_dim=8, dropout=0.0, normalization="standardize"),
        epochs=2,
        global_batch_size=8,
        learning_rate=5e-3,
    )
    return replace(config, **options)


def weights(out: Path) -> list[np.ndarray]:
    return [np.array(each) for each in Bundle.load(str(out)).model.weights]


def test_what_a_run_leaves(model: Path, prepared: Path) -> None:
    names = {path.relative_to(model).parts[0] for path in model.rglob("*")}
    assert names == {"bundle", "history.json", "model.svg", "run.json", "tensorboard"}
    outcome = read_json(str(model / "history.json"))
    history = outcome["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, 26))
    pairs = read_run(str(prepared))["result"]["num_pairs"]  # type: ignore[index]
    assert {(entry["train_targets"], entry["dev_targets"]) for entry in history} == {(pairs["train"], pairs["dev"])}
    assert outcome["best_dev_loss"] == min(entry["dev_loss"] for entry in history)
    assert all(entry["captions_per_s"] > 0 for entry in history)
    assert all(0 < entry["input_wait_s"] < entry["wall_s"] for entry in history)
    assert history[-1]["train_loss"] < 0.3 * history[0]["train_loss"]
    drawing = (model / "model.svg").read_text()
    assert "lstm (LSTM)" in drawing
    assert "next_word (Dense)" in drawing


def test_bundle_holds_the_best_epoch_and_its_origin(model: Path, features: Path) -> None:
    from raycap.features import FeatureSet
    from raycap.fitting import Fitter
    from raycap.prepared import Prepared
    from raycap.sequences import encode_captions, packed_batches, stream_photos

    bundle = Bundle.load(str(model))
    outcome = read_json(str(model / "history.json"))
    assert bundle.card.metrics["epoch"] == outcome["best_epoch"]
    feature_set = FeatureSet.open(str(features))
    assert bundle.card.encoder == feature_set.card
    # the weights in the bundle really give that dev loss
    config = TrainConfig(**{**bundle.card.training, "model": ModelConfig(**bundle.card.training["model"])})
    prepared = Prepared.open(config.prepared)
    fitter = Fitter(config, vocab_size=bundle.tokenizer.vocab_size, feature_shape=(48,))
    fitter.model.set_weights(bundle.model.get_weights())
    fitter.model.get_layer("normalization").finalize_state()
    sequences = encode_captions(prepared.captions, prepared.tokenizer, "dev")
    loss = fitter.evaluate(packed_batches(stream_photos(feature_set, sequences, window=99), global_batch_size=5))
    assert loss.mean == pytest.approx(outcome["best_dev_loss"], rel=1e-5)


def test_tensorboard_reads_the_logs(model: Path) -> None:
    from tensorflow.python.summary.summary_iterator import summary_iterator

    logged: dict[str, list[float]] = {}
    for path in sorted((model / "tensorboard").iterdir()):
        for event in summary_iterator(str(path)):
            for value in event.summary.value:
                logged.setdefault(value.tag, []).append(value.simple_value)
    history = read_json(str(model / "history.json"))["history"]
    for name in ("train_loss", "dev_loss"):
        np.testing.assert_allclose(logged[name], [entry[name] for entry in history], rtol=1e-6)


def test_again_does_nothing_and_changes_are_refused(model: Path, features: Path) -> None:
    config = Bundle.load(str(model)).card.training
    config = TrainConfig(**{**config, "model": ModelConfig(**config["model"])})
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*") if path.is_file()}
    started = time.monotonic()
    assert train(config).best_epoch == read_json(str(model / "history.json"))["best_epoch"]
    assert time.monotonic() - started < 5
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*") if path.is_file()} == before
    with pytest.raises(ConflictError, match=r"learning_rate was 0.005, now 0.1"):
        train(replace(config, learning_rate=0.1))
    assert train(replace(config, num_workers=2, open_ports=True)).history, (
        "how many workers does not change what is trained"
    )


def test_two_workers_equal_one(ray_cluster: None, prepared: Path, features: Path, tmp_path: Path) -> None:
    """A real all-reduce between two processes: same losses, same weights, also where a batch is short."""
    one = train(small(prepared, features, tmp_path / "one", global_batch_size=7))
    two = train(small(prepared, features, tmp_path / "two", global_batch_size=7, num_workers=2, open_ports=True))
    for mine, theirs in zip(one.history, two.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert mine["dev_loss"] == pytest.approx(theirs["dev_loss"], rel=1e-4)
        assert (mine["train_targets"], mine["dev_targets"]) == (theirs["train_targets"], theirs["dev_targets"])
    for mine, theirs in zip(weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_several_workers_open_no_port_untold(prepared: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"listen on all interfaces .* --open-ports"):
        train(small(prepared, features, tmp_path / "out", num_workers=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_same_seed_trains_the_same_weights(
    ray_cluster: None, prepared: Path, features: Path, photo_folder: Path, tmp_path: Path
) -> None:
    """And weights that are the same say the same."""
    model = ModelConfig(units=16, embedding_dim=8, dropout=0.5)
    said: dict[str, dict[str, tuple[str, float]]] = {}
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        train(small(prepared, features, tmp_path / name, model=model, seed=seed, epochs=10))
        rows: list[dict[str, Any]] = []
        caption(CaptionConfig(photos=(str(photo_folder),), model=str(tmp_path / name)), show=rows.append)
        said[name] = {row["image_id"]: (row["caption"], row["log_prob"]) for row in rows}
    first, again, other = (weights(tmp_path / name) for name in ("first", "again", "other"))
    for mine, theirs in zip(first, again, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert not all(np.allclose(mine, theirs, atol=1e-2) for mine, theirs in zip(first, other, strict=True))
    assert len(said["first"]) == 48
    for image_id, (words, log_prob) in said["first"].items():
        assert said["again"][image_id] == (words, pytest.approx(log_prob, abs=1e-5))
        assert said["other"][image_id] != (words, pytest.approx(log_prob, abs=1e-3))
    assert len({words for words, _ in said["first"].values()}) > 1, "a model that says the same of all shows little"


@pytest.mark.slow
def test_interrupted_it_goes_on_and_ctrl_c_is_as_it_was(
    ray_cluster: None, prepared: Path, features: Path, tmp_path: Path
) -> None:
    config = small(prepared, features, tmp_path, epochs=40, patience=40)
    main_thread, history = threading.get_ident(), tmp_path / "history.json"

    def interrupt() -> None:
        while not history.exists():
            time.sleep(0.05)
        signal.pthread_kill(main_thread, signal.SIGINT)

    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            train(config)
        assert not (tmp_path / "bundle").exists(), "interrupted too late to show anything"
        result = train(config)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, was)
    assert [entry["epoch"] for entry in result.history] == list(range(1, 41))


@pytest.mark.slow
def test_patience_stops(ray_cluster: None, prepared: Path, features: Path, tmp_path: Path) -> None:
    result = train(small(prepared, features, tmp_path / "out", epochs=50, patience=1, learning_rate=0.5))
    assert len(result.history) < 50
    assert result.history[-1]["dev_loss"] >= result.best_dev_loss
    assert result.best_epoch == len(result.history) - 1


def test_wrong_inputs(prepared: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no photos.parquet in .*nowhere"):
        train(small(tmp_path / "nowhere", features, tmp_path / "out"))
    with pytest.raises(InputError, match=r"no features in .*nowhere"):
        train(small(prepared, tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("select_by", ["dev_loss", "cider_d"])
def test_a_loss_that_is_no_number_is_an_error(
    ray_cluster: None, prepared: Path, features: Path, tmp_path: Path, select_by: str
) -> None:
    with pytest.raises(RaycapError, match="lower --learning-rate"):
        train(small(prepared, features, tmp_path / "out", learning_rate=float("1e38"), select_by=select_by))
    assert not (tmp_path / "out/bundle").exists()


@pytest.mark.parametrize(
    ("cpus", "options", "expected"),
    [
        ((2, 8), {"num_workers": 2}, (4, 4)),
        ((4, 8), {"num_workers": 2}, (4, 4)),
        ((8, 16), {"num_workers": 2}, (8, 8)),
        ((2,), {"num_workers": 1}, (2, 2)),
        ((2,), {"num_workers": 2}, (1, 1)),
        ((2,), {"num_workers": 4}, (0.5, 1)),
        ((2,), {"num_workers": 1, "cpus_per_worker": 8}, (2, 8)),
        ((8, 16), {"num_workers": 1, "use_gpu": True}, (1, None)),
        ((8, 16), {"num_workers": 2, "use_gpu": True}, (1, None)),
    ],
)
def test_workers_fit_on_the_nodes_that_there_are(
    cpus: tuple[float, ...], options: dict[str, Any], expected: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Capacity, "with_at_least", lambda num_gpus: Capacity(cpus, num_gpus))
    placement = stage._place(TrainConfig(prepared="p", features="f", out="o", **options))
    assert (placement.num_cpus, placement.num_threads) == expected
    assert sum(int(each / placement.num_cpus) for each in cpus) >= placement.num_workers
    assert placement.num_gpus == float(options.get("use_gpu", False))


@pytest.mark.parametrize("ends", [True, False], ids=["come", "interrupted"])
def test_each_gpu_may_be_on_a_node_of_its_own_and_no_request_for_nodes_stays(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[dict[str, float]]] = []
    looks = iter([Capacity((8,), 0), *[Capacity((8, 8), 2)] * 3] if ends else [Capacity((8,), 0)] * 2)

    def now() -> Capacity:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(Capacity, "now", now)
    monkeypatch.setattr("raycap.cluster.request_resources", lambda bundles: asked.append(bundles))
    with nullcontext() if ends else pytest.raises(KeyboardInterrupt):
        assert Capacity.with_at_least(num_gpus=2).gpus == 2
    assert asked == [[{"CPU": 1, "GPU": 1}] * 2, []]


def test_what_memory_will_not_hold_is_said_before_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "largest_memory_bytes", lambda: 4e9)
    stage._check_memory(4_096, 7_579)
    with pytest.raises(InputError, match=r"23 GB for 4,096 numbers a photo and 27,000 words, .* more than 4; "):
        stage._check_memory(4_096, 27_000)


def test_no_member_of_one_seed_is_a_member_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def take(config: TrainConfig) -> None:
        seeds.append(config.seed)
        if not len(seeds) % 3:
            raise InputError("enough")

    monkeypatch.setattr(stage, "train", take)
    for seed in range(3):
        with pytest.raises(InputError, match="enough"):
            stage._fit_members(TrainConfig(prepared="p", features="f", out="o", num_members=3, seed=seed))
    assert seeds == list(range(9))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("patience", 0),
        ("global_batch_size", 0),
        ("shuffle_window", 0),
        ("num_workers", 0),
        ("cpus_per_worker", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("label_smoothing", 2.0),
        ("warmup_steps", -1),
        ("warmup_steps", 5),
        ("seed", -1),
    ],
)
def test_what_trains_nothing_is_refused(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        TrainConfig(prepared="p", features="f", out="o", **{option: value})


@pytest.mark.parametrize(("option", "value"), [("units", 0), ("embedding_dim", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_a_model_that_cannot_be_built_is_refused(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        ModelConfig(**{option: value})


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(prepared: Path, features: Path, tmp_path: Path) -> None:
    """kill -9 of the driver after some epochs; the rerun ends as an undisturbed run does, epoch for epoch."""

    def command(out: Path) -> list[str]:
        options = f"--epochs 60 --patience 60 --global-batch-size 4 --units 16 --seed 3 --out {out}"
        stage = ["-m", "raycap", "train", "--prepared", str(prepared), "--features", str(features)]
        return [sys.executable, *stage, *options.split()]

    run = subprocess.Popen(command(tmp_path / "killed"), start_new_session=True, stderr=subprocess.DEVNULL)
    history = tmp_path / "killed/history.json"
    deadline = time.monotonic() + 120
    while not (history.exists() and len(json.loads(history.read_text())["history"]) >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "killed/bundle").exists(), "killed too late to show anything"
    for name in ("killed", "undisturbed"):
        subprocess.run(command(tmp_path / name), check=True, stderr=subprocess.DEVNULL)
    killed, undisturbed = (read_json(str(tmp_path / name / "history.json")) for name in ("killed", "undisturbed"))
    assert [e["epoch"] for e in killed["history"]] == [e["epoch"] for e in undisturbed["history"]]
    for mine, theirs in zip(killed["history"], undisturbed["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert mine["dev_loss"] == pytest.approx(theirs["dev_loss"], rel=1e-5)
    for mine, theirs in zip(weights(tmp_path / "killed"), weights(tmp_path / "undisturbed"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
