"""Training photos that look like a photo, and what people say of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import write_shard

from raycap.errors import FormatError
from raycap.features import FeatureSet
from raycap.neighbors import Neighbors, photo_vectors
from raycap.parquet import read_table, write_table
from raycap.text import Tokenizer

TOKENIZER = Tokenizer.fit(["dog runs", "cat sleeps", "man jumps"])
CAPTIONS = {"a": ["dog runs", "dog"], "b": ["cat sleeps"], "c": ["man jumps"], "not there": ["man"]}
FEATURES = {"a": [2.0, 0.0, 0.0], "b": [0.0, 0.5, 0.0], "c": [0.0, 0.6, 0.8], "of no caption": [1.0, 1.0, 1.0]}


def tokens(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.ids[word] for word in text.split())


@pytest.fixture
def neighbors(tmp_path: Path) -> Neighbors:
    """Photos of two shards."""
    names = list(FEATURES)
    for shard, ids in (("b", names[2:]), ("a", names[:2])):
        write_shard(tmp_path / "features", f"part-{shard}.parquet", ids, [FEATURES[each] for each in ids])
    sequences = {name: [TOKENIZER.encode(text.split()) for text in texts] for name, texts in CAPTIONS.items()}
    return Neighbors.of(FeatureSet.open(str(tmp_path)), sequences)


def near(neighbors: Neighbors, feature: list, count: int, image_id: str = "new") -> list[tuple[int, ...]]:
    [found] = neighbors.captions_near(photo_vectors([np.array([feature], np.float32)]), count, image_ids=[image_id])
    return found


def test_the_captions_of_the_nearest_come_first_whatever_their_length(neighbors: Neighbors) -> None:
    assert sorted(neighbors.image_ids) == ["a", "b", "c"]
    assert near(neighbors, [0.0, 9.0, 0.1], 1) == [tokens("cat sleeps")]
    assert near(neighbors, [0.0, 9.0, 0.1], 2) == [tokens("cat sleeps"), tokens("man jumps")]
    assert near(neighbors, [0.1, 0.0, 0.0], 1) == [tokens("dog runs"), tokens("dog")]
    assert len(near(neighbors, [1.0, 1.0, 1.0], 9)) == 4


def test_what_all_photos_share_tells_none_apart(tmp_path: Path) -> None:
    """By the plain cosine all are nearest to the first, which is longest in what they share."""
    features = {"a": [9.0, 1.0, 0.0], "b": [9.0, 0.0, 1.0], "c": [9.0, -1.0, -1.0]}
    write_shard(tmp_path / "features", "part.parquet", list(features), list(features.values()))
    sequences = {name: [TOKENIZER.encode(text.split()) for text in CAPTIONS[name]] for name in features}
    neighbors = Neighbors.of(FeatureSet.open(str(tmp_path)), sequences)
    assert near(neighbors, [9.0, -0.1, 0.1], 1) == [tokens("cat sleeps")]
    assert near(neighbors, [9.0, -2.0, -2.0], 1) == [tokens("man jumps")]


def test_a_photo_is_not_its_own_neighbor(neighbors: Neighbors) -> None:
    assert near(neighbors, FEATURES["b"], 1, "b") == [tokens("man jumps")]
    assert near(neighbors, FEATURES["b"], 3, "b") == [tokens("man jumps"), tokens("dog runs"), tokens("dog")]


def test_of_regions_the_mean_counts(tmp_path: Path, neighbors: Neighbors) -> None:
    regions = np.array([[[0.0, 2.0, 0.0], [0.0, -1.0, 0.0]], [[3.0, 0.0, 0.0], [-4.0, 0.0, 0.1]]], np.float32)
    found = neighbors.captions_near(photo_vectors([regions]), 1, image_ids=["x", "y"])
    assert found == [[tokens("cat sleeps")], [tokens("man jumps")]]
    write_shard(tmp_path / "regions/features", "part.parquet", ["a", "b"], regions)
    again = Neighbors.of(FeatureSet.open(str(tmp_path / "regions")), {"a": [[1, 5, 2]], "b": [[1, 6, 2]]})
    assert again.captions_near(photo_vectors([regions]), 1, image_ids=["x", "y"]) == [[(5,)], [(6,)]]


def test_of_views_the_mean_counts(tmp_path: Path, neighbors: Neighbors) -> None:
    views = [np.array([each], np.float32) for each in ([0.0, 2.0, 0.0], [3.0, -1.0, 0.1])]
    near_one = [neighbors.captions_near(photo_vectors([view]), 1, image_ids=["x"]) for view in views]
    assert near_one == [[[tokens("cat sleeps")]], [[tokens("dog runs"), tokens("dog")]]]
    assert neighbors.captions_near(photo_vectors(views), 1, image_ids=["x"]) == near_one[1]
    features = np.array([FEATURES["a"], FEATURES["b"]], np.float32)
    write_shard(tmp_path / "views/features", "part.parquet", ["a", "b"], features, views=[features[::-1] * 9])
    again = Neighbors.of(FeatureSet.open(str(tmp_path / "views")), {"a": [[1, 5, 2]], "b": [[1, 6, 2]]})
    assert again.image_ids == ("a", "b")
    np.testing.assert_allclose(again.vectors, photo_vectors([features, features[::-1] * 9]), atol=1e-6)
    assert again.vectors[0, 1] > again.vectors[0, 0] > 0


def test_saved_and_loaded_they_are_the_same(tmp_path: Path, neighbors: Neighbors) -> None:
    location = str(tmp_path / "neighbors.parquet")
    neighbors.save(location, TOKENIZER)
    again = Neighbors.load(location, TOKENIZER, dim=3)
    assert again.image_ids == neighbors.image_ids
    assert again.captions == neighbors.captions
    assert again.vectors.dtype == np.float32
    np.testing.assert_allclose(again.vectors, neighbors.vectors, atol=1e-3)
    assert set(read_table(location)["captions"].to_pylist()[0]) <= {"dog runs", "dog", "cat sleeps", "man jumps"}


def test_a_damaged_file_is_named(tmp_path: Path, neighbors: Neighbors) -> None:
    location = str(tmp_path / "neighbors.parquet")
    neighbors.save(location, TOKENIZER)
    with pytest.raises(FormatError, match=r"neighbors.parquet holds no neighbors of photos whose features have 4"):
        Neighbors.load(location, TOKENIZER, dim=4)
    write_table(location, pa.table({"image_id": ["a"]}))
    with pytest.raises(FormatError, match=r"neighbors.parquet holds no neighbors"):
        Neighbors.load(location, TOKENIZER, dim=3)
    with pytest.raises(FormatError, match=r"gone.parquet cannot be read: .*No such file"):
        Neighbors.load(str(tmp_path / "gone.parquet"), TOKENIZER, dim=3)
    Path(location).write_bytes(b"no Parquet")
    with pytest.raises(FormatError, match=r"neighbors.parquet is not a whole Parquet file"):
        Neighbors.load(location, TOKENIZER, dim=3)
