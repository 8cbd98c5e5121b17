"""Cards and feature shards for tests, written as extract writes them."""

import dataclasses
import posixpath

import numpy as np
import pyarrow as pa

from raycap.encoder_card import EncoderCard
from raycap.features import feature_array
from raycap.parquet import write_table
from raycap.schema import feature_schema

CARD = EncoderCard(
    name="tiny",
    weights="random",
    seed=0,
    weights_hash="a1b2",
    layer="fc2",
    preprocessing="in model",
    height_px=8,
    width_px=8,
    resize="nearest",
    exif_orientation=False,
    dim=4,
)


def write_shard(folder, name, image_ids, features, *, views=(), card=CARD, dtype=None):
    """Write one feature shard, perhaps with further views; the card's shape is taken from the features."""
    dtype = dtype or pa.float32()
    features = np.asarray(features, np.float32)
    card = dataclasses.replace(card, dim=features.shape[-1], num_regions=int(np.prod(features.shape[1:-1])))
    schema = feature_schema(card.shape, dtype, card.to_json().encode(), num_views=1 + len(views))
    columns = [pa.array(image_ids, pa.string()), *(feature_array(each, dtype) for each in (features, *views))]
    write_table(posixpath.join(str(folder), name), pa.Table.from_arrays(columns, schema=schema))
