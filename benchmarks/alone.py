"""One stage of a pipeline alone, in a process of its own with all cores, over data that is ready."""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import output_of


def alone_rate(stage: str, **options: Any) -> float:
    """Return photos a second of a stage, the name of a function below that yields a rate, with its options."""
    command = [sys.executable, __file__, stage, json.dumps(options, default=str)]
    return float(output_of(f"{stage} alone", command))


def decode(photos: str, *, side_px: int, fast: bool = False, shard: int = 16) -> float:
    """Read and decode a folder's photos, in as many processes as there are cores."""
    from raycap.photo_sources import find_photos

    listing = find_photos([photos])
    parts = [(listing.slice(start, shard), side_px, fast) for start in range(0, len(listing), shard)]
    return len(listing) / _pool_s(_decode, parts)


def pillow(photos: str, *, side_px: int) -> float:
    """Read and decode a folder's photos as most scripts do, in as many processes as there are cores."""
    paths = [(str(path), side_px) for path in Path(photos).rglob("*.jpg")]
    return len(paths) / _pool_s(_decode_plainly, paths)


def _pool_s(work: Callable[[Any], None], parts: list[Any]) -> float:
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(work, parts[:cores]))  # processes start, libraries are imported
        started = time.perf_counter()
        list(pool.map(work, parts))
        return time.perf_counter() - started


def _decode_plainly(part: tuple[str, int]) -> None:
    from PIL import Image

    path, side_px = part
    np.asarray(Image.open(path).convert("RGB").resize((side_px, side_px), Image.Resampling.NEAREST))


def _decode(part: Any) -> None:
    from raycap.config import LimitsConfig
    from raycap.operators import DecodePhotos

    table, side_px, fast = part
    limits = LimitsConfig()
    DecodePhotos(height_px=side_px, width_px=side_px, exif_orientation=False, fast=fast, limits=limits)(table)


def encode(count: int, *, encoder: str, shard: int = 32) -> float:
    """Run the operator that encodes (weights are random), over blocks of pixels in memory."""
    import pyarrow as pa

    from raycap.operators import EncodePhotos, LoadEncoder

    operator = EncodePhotos(LoadEncoder(name=encoder, weights="random"), num_threads=os.cpu_count())
    card = operator.model.card
    pixels = _pixels(shard, card.height_px).reshape(shard, -1)
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(pixels.shape[1]), shard, [None, pa.py_buffer(pixels)])
    ids = [str(number) for number in range(shard)]
    block = pa.table({"image_id": ids, "image": image, "error_type": pa.nulls(shard, pa.string())})
    return _rate(lambda: operator(block), count, shard)


def bare(count: int, *, precision: str = "float32", shard: int = 32) -> float:
    """Run VGG16's fc2 in a plain `tf.function`, over arrays in memory, with as many threads as there are cores."""
    import keras
    import tensorflow as tf

    if precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{precision}")
    tf.config.threading.set_intra_op_parallelism_threads(os.cpu_count() or 1)
    model = _fc2()
    step = tf.function(lambda photos: model(photos, training=False))
    photos = keras.applications.vgg16.preprocess_input(_pixels(shard, 224).astype(np.float32))
    return _rate(lambda: step(photos).numpy(), count, shard)


def predict(count: int) -> float:
    """Run the tutorial's way, VGG16 a photo at a time through `predict`, over arrays in memory."""
    import keras

    model = _fc2()

    def one() -> None:
        model.predict(keras.applications.vgg16.preprocess_input(_pixels(1, 224).astype(np.float32)), verbose=0)

    return _rate(one, count, 1)


def caption(count: int, *, bundle: str, max_length: int, shard: int = 32) -> float:
    """Run the operator that captions, over blocks of features in memory."""
    import pyarrow as pa

    from raycap.config import DecodingConfig
    from raycap.features import feature_array
    from raycap.model_card import read_card
    from raycap.operators import CaptionFeatures

    operator = CaptionFeatures(bundle, DecodingConfig(max_length=max_length), num_threads=os.cpu_count())
    features = np.random.default_rng(0).normal(size=(shard, read_card(bundle).encoder.dim)).astype(np.float32)
    ids = [str(number) for number in range(shard)]
    block = pa.table({"image_id": ids, "feature": feature_array(features, pa.float32())})
    return _rate(lambda: operator(block), count, shard)


def _fc2() -> Any:
    import keras

    full = keras.applications.VGG16(weights=None)
    return keras.Model(full.inputs, full.get_layer("fc2").output)


def _pixels(count: int, side_px: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, side_px, side_px, 3), np.uint8)


def _rate(call: Callable[[], Any], count: int, shard: int) -> float:
    for _ in range(3):  # the operators try batch sizes first
        call()
    calls = max(1, count // shard)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return calls * shard / (time.perf_counter() - started)


if __name__ == "__main__":
    print(
        {each.__name__: each for each in (decode, pillow, encode, bare, predict, caption)}[sys.argv[1]](
            **json.loads(sys.argv[2])
        )
    )
