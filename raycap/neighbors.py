"""Training photos that look like a photo, and what people say of them; knows no decoder and no search.

Reference:
    Devlin, Gupta, Girshick, Mitchell and Zitnick 2015, arXiv:1505.04467 (captions of the nearest training photos).
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycap.errors import FormatError
from raycap.features import FeatureSet, feature_array, to_array
from raycap.parquet import read_table, write_table
from raycap.schema import neighbors_schema
from raycap.text import Tokenizer

NEIGHBORS_FILE: Final = "neighbors.parquet"
"""What they are called in a bundle."""

Floating = TypeVar("Floating", np.float32, np.float64)

Tokens = tuple[int, ...]
"""A caption as token ids, without start and end."""


@dataclass(frozen=True)
class Neighbors:
    """Photos, their features and people's captions of them.

    Attributes:
        image_ids: of the photos.
        vectors: `(photos, dim)` float32, of each photo the mean of its views and their regions, at a length of 1.
        captions: of each photo.
    """

    image_ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    captions: tuple[tuple[Tokens, ...], ...]

    @classmethod
    def of(cls, features: FeatureSet, sequences: Mapping[str, Sequence[Sequence[int]]]) -> Self:
        """Take all photos that have both a feature and captions.

        Args:
            features: read a shard and a view at a time.
            sequences: captions of each photo as token ids, start and end included.
        """
        image_ids: list[str] = []
        vectors: list[NDArray[np.float32]] = []
        for name in features.shards:
            views = (features.read_shard(name, wanted=sequences, view=view) for view in range(features.num_views))
            first = next(views)
            image_ids += first.image_ids
            vectors.append(photo_vectors(shard.features for shard in itertools.chain([first], views)))
        captions = (tuple(tuple(each[1:-1]) for each in sequences[image_id]) for image_id in image_ids)
        return cls(tuple(image_ids), np.concatenate(vectors), tuple(captions))

    def captions_near(
        self, vectors: NDArray[np.float32], count: int, *, image_ids: Sequence[str]
    ) -> list[list[Tokens]]:
        """Return the captions of the photos most like each photo, the most like first.

        Alike is the cosine of the vectors' differences from the mean photo, as what all photos share tells none apart.

        Args:
            vectors: `(photos, dim)`, of `photo_vectors`, from the same encoder.
            count: photos whose captions to return.
            image_ids: of the photos; none is its own neighbor, where it was trained on.
        """
        mean, known = self._from_mean
        alike = of_length_one(vectors - mean) @ known.T
        nearest = np.argsort(-alike, axis=1, kind="stable")[:, : count + 1]
        return [
            [caption for row in self._others(rows, image_id)[:count] for caption in self.captions[row]]
            for rows, image_id in zip(nearest, image_ids, strict=True)
        ]

    @cached_property
    def _from_mean(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mean of the vectors, and how each differs from it, at a length of 1."""
        mean = self.vectors.mean(axis=0)
        return mean, of_length_one(self.vectors - mean)

    def _others(self, rows: NDArray[np.intp], image_id: str) -> list[int]:
        return [int(row) for row in rows if self.image_ids[row] != image_id]

    def save(self, location: str, tokenizer: Tokenizer) -> None:
        """Write them as Parquet: words, and vectors in half precision."""
        texts = [[tokenizer.decode(caption) for caption in captions] for captions in self.captions]
        schema = neighbors_schema(self.vectors.shape[1])
        vectors = feature_array(self.vectors, pa.float16())
        write_table(location, pa.Table.from_arrays([pa.array(self.image_ids), vectors, pa.array(texts)], schema=schema))

    @classmethod
    def load(cls, location: str, tokenizer: Tokenizer, *, dim: int) -> Self:
        """Read what `save` wrote.

        Args:
            location: of the file.
            tokenizer: of the bundle.
            dim: numbers of its encoder's features.

        Raises:
            FormatError: if it is damaged, or another bundle's.
        """
        try:
            table = read_table(location)
        except OSError as error:
            raise FormatError(f"{location} cannot be read: {error}") from error
        if table.schema.remove_metadata() != neighbors_schema(dim):
            raise FormatError(f"{location} holds no neighbors of photos whose features have {dim} numbers")
        captions = tuple(
            tuple(tuple(tokenizer.encode(text.split())[1:-1]) for text in texts)
            for texts in table["captions"].to_pylist()
        )
        return cls(tuple(table["image_id"].to_pylist()), to_array(table["vector"]), captions)


def photo_vectors(views: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return a vector of length 1 for each photo, `(photos, dim)`: the mean of its views and of their regions.

    Args:
        views: features of the photos, `(photos, dim)` or `(photos, num_regions, dim)` each.
    """
    whole = [each.mean(axis=1) if each.ndim == 3 else each for each in views]
    return of_length_one(np.mean(whole, axis=0))


def of_length_one(vectors: NDArray[Floating]) -> NDArray[Floating]:
    """Return vectors, `(count, dim)`, at a length of 1; one of length 0 stays as it is."""
    scaled: NDArray[Floating] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled
