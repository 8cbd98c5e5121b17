"""Features on storage, as extract writes them: which photos, by which encoder, and their arrays, a shard at a time.

Knows neither Ray nor TensorFlow.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycap.encoder_card import EncoderCard
from raycap.errors import FormatError, InputError
from raycap.locations import join
from raycap.parquet import list_tables, read_schema, read_table
from raycap.schema import CARD_KEY
from raycap.storage import exists

FOLDER = "features"


class FeatureShard(NamedTuple):
    """Some photos' features.

    Attributes:
        image_ids: `(photos,)`.
        features: `(photos, dim)` float32.
    """

    image_ids: list[str]
    features: NDArray[np.float32]


def to_array(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """Return a fixed-size list column as a `(rows, dim)` float32 array, without a copy where it can."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(lists), lists.type.list_size)


@dataclass(frozen=True)
class FeatureSet:
    """The feature shards of one extract output.

    Attributes:
        folder: where the shards are.
        shards: their names, sorted.
        card: of the encoder that made all of them.
    """

    folder: str
    shards: tuple[str, ...]
    card: EncoderCard

    @classmethod
    def open(cls, location: str) -> Self:
        """Open what extract wrote.

        Args:
            location: extract's `--out`, or its `features` folder.

        Raises:
            InputError: if there are no features.
            FormatError: if a shard is damaged or carries no card.
            EncoderMismatchError: if shards come from different encoders.
        """
        inner = join(location, FOLDER)
        folder = inner if exists(inner) else location
        shards = tuple(list_tables(folder))
        if not shards:
            raise InputError(f"there are no features in {location}; run raycap extract first")
        cards = [_read_card(join(folder, name)) for name in shards]
        for name, card in zip(shards, cards, strict=True):
            cards[0].require_same(card, mine=shards[0], others=name)
        return cls(folder, shards, cards[0])

    def read_shard(self, name: str, *, wanted: Collection[str] | None = None) -> FeatureShard:
        """Return the features of one shard, in its order; only the photos in `wanted`, if given."""
        table = read_table(join(self.folder, name), columns=["image_id", "feature"])
        if table["feature"].null_count or table["image_id"].null_count:
            raise FormatError(f"{join(self.folder, name)} is damaged: it has rows without a feature")
        image_ids = table["image_id"].to_pylist()
        features = to_array(table["feature"])
        if wanted is None:
            return FeatureShard(image_ids, features)
        rows = [row for row, image_id in enumerate(image_ids) if image_id in wanted]
        return FeatureShard([image_ids[row] for row in rows], features[rows])

    def iter_shards(self, *, wanted: Collection[str] | None = None) -> Iterator[FeatureShard]:
        """Yield every shard, one in memory at a time."""
        for name in self.shards:
            yield self.read_shard(name, wanted=wanted)

    def image_ids(self) -> list[str]:
        """Return the photos that have a feature."""
        tables = (read_table(join(self.folder, name), columns=["image_id"]) for name in self.shards)
        return [image_id for table in tables for image_id in table["image_id"].to_pylist()]

    def moments(self, wanted: Collection[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean and variance of each number over the `wanted` photos, `(dim,)` each, in one pass."""
        total = np.zeros(self.card.dim)
        squares = np.zeros(self.card.dim)
        count = 0
        for shard in self.iter_shards(wanted=wanted):
            values = shard.features.astype(np.float64)
            total += values.sum(axis=0)
            squares += np.square(values).sum(axis=0)
            count += len(values)
        mean = total / max(count, 1)
        variance = np.maximum(squares / max(count, 1) - np.square(mean), 0.0)
        return mean.astype(np.float32), variance.astype(np.float32)


def feature_array(features: Sequence[NDArray[np.float32]] | NDArray[np.float32], dtype: pa.DataType) -> pa.Array:
    """Return `(photos, dim)` features as a fixed-size list array of `dtype`."""
    values = np.ascontiguousarray(features, dtype=dtype.to_pandas_dtype())
    item = pa.field("item", dtype, nullable=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=pa.list_(item, values.shape[1]))


def _read_card(location: str) -> EncoderCard:
    """Return the card that a shard carries, and whose features it holds."""
    schema = read_schema(location)
    metadata = schema.metadata or {}
    if CARD_KEY not in metadata:
        raise FormatError(f"{location} carries no encoder card; it was not written by raycap extract")
    card = EncoderCard.from_json(metadata[CARD_KEY], source=location)
    types = {field.name: field.type for field in schema}
    if types.get("image_id") != pa.string() or not _is_feature(types.get("feature"), card.dim):
        columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise FormatError(f"{location} does not hold features of {card.dim} numbers; its columns are {columns:.200}")
    return card


def _is_feature(kind: pa.DataType | None, dim: int) -> bool:
    if kind is None or not pa.types.is_fixed_size_list(kind):
        return False
    return kind.list_size == dim and kind.value_type in (pa.float32(), pa.float16())
