"""Features on storage, as extract writes them: which photos, by which encoder, and their arrays, a shard at a time.

Knows neither Ray nor TensorFlow.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycap.encoder_card import EncoderCard
from raycap.errors import FormatError, InputError
from raycap.locations import file_name, join, parent
from raycap.parquet import list_tables, read_schema, read_table
from raycap.runs import read_run, short_hash
from raycap.schema import CARD_KEY, feature_columns, feature_type
from raycap.storage import exists

FOLDER = "features"
_VECTORS_AT_ONCE = 1024  # of those that a mean is taken over, in twice the precision


class FeatureShard(NamedTuple):
    """Some photos' features.

    Attributes:
        image_ids: `(photos,)`.
        features: `(photos, *card.shape)` float32: `(photos, dim)`, or `(photos, num_regions, dim)`.
    """

    image_ids: list[str]
    features: NDArray[np.float32]


def to_array(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """Return a column of fixed-size lists, or of lists of lists, as a float32 array, without a copy where it can.

    Returns:
        `(rows, dim)` or `(rows, num_regions, dim)`.
    """
    return _raw(column).astype(np.float32, copy=False)


def are_numbers(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Return of which photos all numbers are finite, `(photos,)`; `features` is `(photos, ...)`."""
    finite: NDArray[np.bool_] = np.isfinite(features).all(axis=tuple(range(1, features.ndim)))
    return finite


def _raw(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """Return the same of the column's own type; a view of it, unless it is in several chunks."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    shape, kind = [], column.type
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    arrays = [np.empty((0, *shape), kind.to_pandas_dtype())] if len(chunks) != 1 else []
    for chunk in chunks:
        values = chunk
        for _ in shape:
            values = values.flatten()
        arrays.append(values.to_numpy(zero_copy_only=False).reshape(len(chunk), *shape))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _has_null(column: pa.ChunkedArray) -> bool:
    """Whether a feature, a region or a number is missing."""
    while not column.null_count and pa.types.is_fixed_size_list(column.type):
        column = pc.list_flatten(column)
    return bool(column.null_count)


@dataclass(frozen=True)
class FeatureSet:
    """The feature shards of one extract output.

    Attributes:
        folder: where the shards are.
        shards: their names, sorted.
        card: of the encoder that made all of them.
        num_views: that each photo has a feature of.
    """

    folder: str
    shards: tuple[str, ...]
    card: EncoderCard
    num_views: int = 1

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
        cards, views = zip(*(_read_card(join(folder, name)) for name in shards), strict=True)
        for name, card in zip(shards, cards, strict=True):
            cards[0].require_same(card, mine=shards[0], others=name)
        return cls(folder, shards, cards[0], min(views))

    def made_hash(self) -> str:
        """Return a short hash, another one where features were deleted and made anew, or are of another kind."""
        whole = file_name(self.folder) == FOLDER
        record = read_run(parent(self.folder)) if whole else None
        return short_hash([(record or {}).get("id"), self.card.to_fields()])

    def read_shard(self, name: str, *, wanted: Collection[str] | None = None, view: int = 0) -> FeatureShard:
        """Return the features of one shard, in its order.

        Args:
            name: of the shard.
            wanted: photos; all if None.
            view: of each photo, below `num_views`; 0 is the photo itself.
        """
        column = feature_columns(view + 1)[view]
        table = read_table(join(self.folder, name), columns=["image_id", column])
        if table["image_id"].null_count or _has_null(table[column]):
            raise FormatError(f"{join(self.folder, name)} is damaged: it has rows without a feature")
        image_ids = table["image_id"].to_pylist()
        features = _raw(table[column])
        if wanted is not None:
            rows = [row for row, image_id in enumerate(image_ids) if image_id in wanted]
            image_ids, features = [image_ids[row] for row in rows], features[rows]
        return FeatureShard(image_ids, features.astype(np.float32, copy=False))

    def iter_shards(self, *, wanted: Collection[str] | None = None) -> Iterator[FeatureShard]:
        """Yield every shard, one in memory at a time."""
        for name in self.shards:
            yield self.read_shard(name, wanted=wanted)

    def image_ids(self) -> list[str]:
        """Return the photos that have a feature."""
        tables = (read_table(join(self.folder, name), columns=["image_id"]) for name in self.shards)
        return [image_id for table in tables for image_id in table["image_id"].to_pylist()]

    def moments(self, wanted: Collection[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean and variance of each number over the `wanted` photos and their regions, in one pass.

        Returns:
            `(dim,)` float32 each.
        """
        total = np.zeros(self.card.dim)
        squares = np.zeros(self.card.dim)
        count = 0
        for shard in self.iter_shards(wanted=wanted):
            vectors = shard.features.reshape(-1, self.card.dim)
            for start in range(0, len(vectors), _VECTORS_AT_ONCE):
                values = vectors[start : start + _VECTORS_AT_ONCE].astype(np.float64)
                total += values.sum(axis=0)
                squares += np.square(values).sum(axis=0)
            count += len(vectors)
        mean = total / max(count, 1)
        variance = np.maximum(squares / max(count, 1) - np.square(mean), 0.0)
        return mean.astype(np.float32), variance.astype(np.float32)


def feature_array(features: Sequence[NDArray[np.float32]] | NDArray[np.float32], dtype: pa.DataType) -> pa.Array:
    """Return features as a `feature` column of `dtype`, without a copy where they are of it already.

    Args:
        features: `(photos, dim)` or `(photos, num_regions, dim)`.
        dtype: `pa.float32()` or `pa.float16()`.
    """
    values = np.ascontiguousarray(features, dtype=dtype.to_pandas_dtype())
    column, shape = pa.array(values.reshape(-1)), values.shape[1:]
    for depth in reversed(range(len(shape))):
        column = pa.FixedSizeListArray.from_arrays(column, type=feature_type(shape[depth:], dtype))
    return column


def _read_card(location: str) -> tuple[EncoderCard, int]:
    """Return the card that a shard carries, and whose features it holds; and the number of its views."""
    schema = read_schema(location)
    metadata = schema.metadata or {}
    if CARD_KEY not in metadata:
        raise FormatError(f"{location} carries no encoder card; it was not written by raycap extract")
    card = EncoderCard.from_json(metadata[CARD_KEY], source=location)
    types = {field.name: field.type for field in schema}
    columns = feature_columns(1 + sum(name.startswith("view_") for name in types))
    if types.get("image_id") != pa.string() or not all(_is_feature(types.get(each), card.shape) for each in columns):
        said = ", ".join(f"{name} {kind}" for name, kind in types.items())
        numbers = " x ".join(map(str, card.shape))
        raise FormatError(f"{location} does not hold features of {numbers} numbers; its columns are {said:.200}")
    return card, len(columns)


def _is_feature(kind: pa.DataType | None, shape: tuple[int, ...]) -> bool:
    for size in shape:
        if kind is None or not pa.types.is_fixed_size_list(kind) or kind.list_size != size:
            return False
        kind = kind.value_type
    return kind in (pa.float32(), pa.float16())
