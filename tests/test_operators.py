"""What the operators do beyond decoding, encoding and captioning: a model that runs out of memory."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf  # noqa: TID253 - what raises its error is tested here
from builders import CARD, write_shard

from raycap.encoder import Encoder
from raycap.features import FeatureSet, feature_array, to_array
from raycap.operators import CaptionFeatures, EncodePhotos
from raycap.schema import feature_schema


class Memory:
    """Room for some rows; TensorFlow's own error where there are more."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.calls: list[int] = []

    def use(self, rows: int) -> None:
        self.calls.append(rows)
        if rows > self.rows:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def photos(count: int) -> pa.Table:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(192), count, [None, pa.py_buffer(pixels)])
    ids = pa.array([str(number) for number in range(count)])
    return pa.table({"image_id": ids, "image": image, "error_type": pa.nulls(count, pa.string())})


def test_an_encoder_that_runs_out_of_memory_gets_fewer_photos() -> None:
    memory = Memory(5)

    def compute(images: Any) -> Any:
        memory.use(len(images))
        return tf.reshape(tf.cast(images, tf.float32)[:, :2, :2, 0], (-1, 4))

    operator = EncodePhotos(lambda: Encoder(CARD, compute), batch_size=32)
    table = photos(50)
    features = to_array(operator(table)["feature"])
    pixels = np.frombuffer(table["image"].combine_chunks().buffers()[1], np.uint8).reshape(50, 8, 8, 3)
    np.testing.assert_array_equal(features, pixels[:, :2, :2, 0].reshape(50, 4))
    assert memory.calls[:3] == [32, 16, 8]
    assert set(memory.calls[3:]) <= {4, 2}


@pytest.mark.parametrize(("dtype", "value"), [("float32", math.nan), ("float32", math.inf), ("float16", 1e5)])
def test_a_feature_that_is_no_number_is_a_failure(dtype: str, value: float) -> None:
    def compute(images: Any) -> Any:
        features = np.asarray(images)[:, :2, :2, 0].reshape(-1, 4).astype(np.float32)
        features[features[:, 0] == features[:, 0].max(), 2] = value
        return tf.constant(features)

    table = photos(5).append_column("error_message", pa.nulls(5, pa.string()))
    encoded = EncodePhotos(lambda: Encoder(CARD, compute), dtype=dtype, batch_size=5)(table)
    errors = encoded["error_type"].to_pylist()
    assert sorted(errors, key=str) == ["ImageFeatureError", None, None, None, None]
    bad = errors.index("ImageFeatureError")
    assert encoded["error_message"][bad].as_py() == f"its feature holds what is no number in {dtype}"
    assert np.isfinite(np.delete(to_array(encoded["feature"]), bad, axis=0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_spatial_features_keep_their_regions(dtype: str) -> None:
    card = dataclasses.replace(CARD, num_regions=16, dim=3)

    def compute(images: Any) -> Any:
        return tf.reshape(tf.cast(images, tf.float32)[:, ::2, ::2], (-1, 16, 3))

    table = photos(5)
    failed = pa.array([None, None, "ImageDecodeError", None, None], pa.string())
    encoded = EncodePhotos(lambda: Encoder(card, compute), dtype=dtype, batch_size=2)(
        table.set_column(2, "error_type", failed)
    )
    stored = pa.float16() if dtype == "float16" else pa.float32()
    schema = feature_schema((16, 3), stored, card.to_json().encode())
    assert encoded.schema.field("feature") == schema.field("feature")
    assert encoded.schema.metadata == schema.metadata
    assert encoded.column_names == ["image_id", "error_type", "feature"]
    pixels = np.frombuffer(table["image"].combine_chunks().buffers()[1], np.uint8).reshape(5, 8, 8, 3)
    expected = pixels[:, ::2, ::2].reshape(5, 16, 3).astype(np.float32)
    expected[2] = 0
    np.testing.assert_array_equal(to_array(encoded["feature"]), expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_spatial_features_reach_the_captioner(monkeypatch: pytest.MonkeyPatch, mirrored: bool) -> None:
    """Whatever part of a block they are: one photo has failed, and three are captioned at a time."""
    from raycap.captioner import Captioner, GeneratedCaption
    from raycap.config import DecodingConfig

    seen, others = [], []

    class Recorder:
        def caption_features(self, features: Any, decoding: Any, *, image_ids: Any, mirrored: Any) -> Any:
            seen.append(features)
            others.append(mirrored)
            return [[GeneratedCaption(str(each.sum()), -1.0, 1)] for each in features]

    monkeypatch.setattr(Captioner, "load", lambda *_, **__: Recorder())
    features = np.random.default_rng(2).integers(0, 99, (9, 6, 4)).astype(np.float32)
    table = pa.table(
        {
            "image_id": [str(number) for number in range(9)],
            "feature": feature_array(features, pa.float32()),
            "view_1": feature_array(-features, pa.float32()),
            "error_type": pa.array([None] * 4 + ["ImageEmptyError"] + [None] * 4, pa.string()),
        }
    ).slice(1)
    table = table if mirrored else table.drop_columns(["view_1"])
    captioned = CaptionFeatures("bundle", DecodingConfig(mirrored=mirrored), batch_size=3)(table)
    assert {"feature", "view_1"}.isdisjoint(captioned.column_names)
    for each, other in zip(seen, others, strict=True):
        assert np.array_equal(other, -each) if mirrored else other is None
    assert [each.shape for each in seen] == [(3, 6, 4), (3, 6, 4), (1, 6, 4)]
    np.testing.assert_array_equal(np.concatenate(seen), features[[1, 2, 3, 5, 6, 7, 8]])
    assert captioned["caption"].to_pylist() == [str(features[n].sum()) if n != 4 else "" for n in range(1, 9)]


@pytest.mark.parametrize("dtype", [pa.float32(), pa.float16()])
def test_evaluate_selects_spatial_features(dtype: pa.DataType, tmp_path: Path) -> None:
    from raycap.stages.evaluate import SelectFeatures

    features = np.random.default_rng(3).integers(0, 99, (6, 5, 4)).astype(np.float32)
    for number, ids in enumerate(["abcd", "ef"]):
        rows = [ord(each) - ord("a") for each in ids]
        write_shard(tmp_path / "features", f"part-{number}.parquet", list(ids), features[rows], dtype=dtype)
    select = SelectFeatures(features=FeatureSet.open(str(tmp_path)), wanted=frozenset("bdf"))
    found = select(pa.table({"shard": ["part-0.parquet", "part-1.parquet"]}))
    assert found["image_id"].to_pylist() == ["b", "d", "f"]
    np.testing.assert_array_equal(to_array(found["feature"]), features[[1, 3, 5]])


def test_no_memory_for_one_photo_is_an_error() -> None:
    def compute(images: Any) -> Any:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    operator = EncodePhotos(lambda: Encoder(CARD, compute))
    with pytest.raises(tf.errors.ResourceExhaustedError):
        operator(photos(3))


def test_a_decoder_that_runs_out_of_memory_gets_fewer_photos(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from test_model import bundle

    from raycap.captioner import Captioner
    from raycap.config import DecodingConfig

    keras.utils.set_random_seed(0)
    written = bundle()
    written.save(str(tmp_path))
    features = np.random.default_rng(1).normal(size=(20, 12)).astype(np.float32)
    ids = [f"{number}.jpg" for number in range(20)]
    table = pa.table({"image_id": ids, "feature": feature_array(features, pa.float32())})
    expected = CaptionFeatures(str(tmp_path), DecodingConfig())(table)
    memory = Memory(3)
    whole = Captioner.caption_features

    def limited(self: Captioner, rows: Any, *arguments: Any, **options: Any) -> Any:
        memory.use(len(rows))
        return whole(self, rows, *arguments, **options)

    monkeypatch.setattr(Captioner, "caption_features", limited)
    found = CaptionFeatures(str(tmp_path), DecodingConfig())(table)
    assert found["caption"].equals(expected["caption"])
    assert memory.calls[:3] == [16, 8, 4]
