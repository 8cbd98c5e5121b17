"""What the operators do beyond decoding, encoding and captioning: a model that runs out of memory."""

from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf  # noqa: TID253 - what raises its error is tested here
from builders import CARD

from raycap.encoder import Encoder
from raycap.features import feature_array, to_array
from raycap.operators import CaptionFeatures, EncodePhotos


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
