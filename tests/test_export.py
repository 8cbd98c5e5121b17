"""Exported models, opened as people without raycap open them, against the bundle's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from pyarrow import fs

from raycap import export as module
from raycap import storage
from raycap.cli import main
from raycap.config import ModelConfig
from raycap.decoders import build_model, ensemble
from raycap.errors import ConflictError, InputError, RaycapError
from raycap.export import export
from raycap.tool_config import ExportConfig

DIM, WORDS = 12, 30
FILES = {"keras": "model.keras", "savedmodel": "saved_model", "onnx": "model.onnx"}
OPTIONS = [
    ModelConfig(units=8, embedding_dim=6),
    ModelConfig(units=8, embedding_dim=6, normalization="l2", merge="concat"),
    ModelConfig(units=8, embedding_dim=6, normalization="standardize"),
    ModelConfig(units=8, embedding_dim=8, decoder="transformer", num_layers=1, normalization="standardize"),
]


def inputs(num_words: int, shape: tuple[int, ...], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random photos and sentences of several lengths, of which some are padded on the right."""
    rng = np.random.default_rng(seed)
    batches = []
    for rows, length in ((1, 1), (3, 5), (4, 23)):
        tokens = rng.integers(1, num_words, (rows, length)).astype(np.int32)
        for row in range(1, rows):
            tokens[row, rng.integers(1, length + 1) :] = 0
        batches.append((rng.normal(size=(rows, *shape)).astype(np.float32), tokens))
    return batches


def opened(kind: str, path: Path):
    """Return a function of feature and tokens, as other programs open the file."""
    if kind == "keras":
        model = keras.models.load_model(path)
        return lambda feature, tokens: model([feature, tokens], training=False).numpy()
    if kind == "savedmodel":
        saved = tf.saved_model.load(path)
        return lambda feature, tokens: saved.serve([feature, tokens]).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == ["feature", "tokens"]
    return lambda feature, tokens: session.run(None, {"feature": feature, "tokens": tokens})[0]


@pytest.mark.parametrize("config", OPTIONS, ids=["plain", "l2 concat", "standardize", "transformer"])
@pytest.mark.parametrize("kind", FILES)
def test_outputs_are_equal_in_every_form(kind: str, config: ModelConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    moments = rng.normal(size=DIM).astype(np.float32), rng.random(DIM).astype(np.float32)
    shape = (5, DIM) if config.needs_regions else (DIM,)
    model = build_model(config, vocab_size=WORDS, feature_shape=shape, moments=moments)
    path = tmp_path / FILES[kind]
    module._WRITERS[kind](model, path)
    run = opened(kind, path)
    for feature, tokens in inputs(WORDS, shape, seed=1):
        found = run(feature, tokens)
        assert found.shape == (*tokens.shape, WORDS)
        np.testing.assert_allclose(found, model([feature, tokens], training=False), atol=1e-4)
        longer = np.pad(tokens, ((0, 0), (0, 3)))  # padding on the right changes nothing before it
        np.testing.assert_allclose(run(feature, longer)[:, : tokens.shape[1]], found, atol=1e-4)


@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
def test_an_ensemble_too(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    moments = rng.normal(size=DIM).astype(np.float32), rng.random(DIM).astype(np.float32)
    models = [build_model(OPTIONS[2], vocab_size=WORDS, feature_shape=(DIM,), moments=moments) for _ in range(2)]
    model = ensemble.combine(models)
    module._WRITERS[kind](model, tmp_path / FILES[kind])
    run = opened(kind, tmp_path / FILES[kind])
    for feature, tokens in inputs(WORDS, (DIM,), seed=1):
        np.testing.assert_allclose(run(feature, tokens), model([feature, tokens], training=False), atol=1e-4)


@pytest.mark.parametrize("kind", FILES)
def test_a_bundle_is_exported_with_its_words_and_card(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exports" / kind
    assert main(["export", "--model", str(model), "--to", kind, "--out", str(out)]) == 0
    assert str(out / FILES[kind]) in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {FILES[kind], "tokenizer.json", "card.json"}
    assert [path.name for path in out.parent.iterdir()] == [kind]  # nothing is left beside it
    for name in ("tokenizer.json", "card.json"):
        assert json.loads((out / name).read_text()) == json.loads((model / "bundle" / name).read_text())
    own = keras.models.load_model(model / "bundle/model.keras")
    run = opened(kind, out / FILES[kind])
    for feature, tokens in inputs(own.output_shape[-1], own.inputs[0].shape[1:], seed=2):
        np.testing.assert_allclose(run(feature, tokens), own([feature, tokens], training=False), atol=1e-4)


def test_the_keras_file_needs_no_raycap(model: Path, tmp_path: Path) -> None:
    export(ExportConfig(model=str(model), to="keras", out=str(tmp_path / "out")))
    code = "import keras, sys; keras.models.load_model(sys.argv[1]).summary(); assert 'raycap' not in sys.modules"
    command = [sys.executable, "-c", code, str(tmp_path / "out/model.keras")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_it_is_written_whole_or_not_at_all(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExportConfig(model=str(model), to="keras", out=str(tmp_path / "out"))

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "write_json", fail)  # the last file
    with pytest.raises(OSError, match="the disk is full"):
        export(config)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setitem(module._WRITERS, "keras", fail)
    with pytest.raises(RaycapError, match="cannot be converted to keras: the disk is full"):
        export(config)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "out").mkdir()  # an empty folder is no obstacle
    export(config)
    assert (tmp_path / "out").stat().st_mode & 0o777 == (model / "bundle").stat().st_mode & 0o777
    with pytest.raises(ConflictError, match="there is something in"):
        export(config)


def test_it_goes_to_an_object_store_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not local, as far as raycap can see
    (tmp_path / "out").mkdir()
    resolve = storage.resolve
    monkeypatch.setattr(
        storage, "resolve", lambda place: (store, place[5:]) if place.startswith("s3://") else resolve(place)
    )
    export(ExportConfig(model=str(model), to="keras", out="s3://out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.keras", "tokenizer.json", "card.json"}


def test_without_the_converter_there_is_a_way_out(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pip install "raycap\[onnx\]"'):
        export(ExportConfig(model=str(model), to="onnx", out=str(tmp_path / "out")))
