import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
from builders import CARD, write_shard

from raycap.encoder_card import EncoderCard
from raycap.errors import EncoderMismatchError, FormatError, InputError
from raycap.features import FeatureSet, feature_array, to_array
from raycap.parquet import read_table, write_table
from raycap.schema import CARD_KEY, feature_schema

FEATURES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
SPATIAL = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
BOTH = pytest.mark.parametrize("features", [FEATURES, SPATIAL], ids=["whole", "spatial"])
DTYPES = [(pa.float32(), 0.0), (pa.float16(), 1e-3)]


@pytest.fixture
def folder(tmp_path):
    """Two shards, `a` of 4 photos and `b` of 2."""
    write_shard(tmp_path / "features", "part-b.parquet", ["e", "f"], FEATURES[4:])
    write_shard(tmp_path / "features", "part-a.parquet", ["a", "b", "c", "d"], FEATURES[:4])
    return str(tmp_path)


@pytest.mark.parametrize("dtype", [pa.float32(), pa.float16()])
def test_feature_schema_is_plain_and_carries_the_card(dtype):
    schema = feature_schema((4096,), dtype, b"{}")
    assert schema.names == ["image_id", "feature"]
    assert schema.field("feature").type == pa.list_(pa.field("item", dtype, nullable=False), 4096)
    assert schema.metadata == {CARD_KEY: b"{}"}
    assert not any(field.nullable for field in schema)


def test_a_spatial_feature_is_a_list_of_lists():
    inner = pa.list_(pa.field("item", pa.float16(), nullable=False), 512)
    kind = feature_schema((49, 512), pa.float16(), b"{}").field("feature").type
    assert kind == pa.list_(pa.field("item", inner, nullable=False), 49)


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_arrays_round_trip(features, dtype, tolerance):
    column = feature_array(features, dtype)
    assert column.type == feature_schema(features.shape[1:], dtype, b"").field("feature").type
    for each in (column, pa.chunked_array([column])):
        array = to_array(each)
        assert array.shape == features.shape
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, features, rtol=tolerance, atol=tolerance)


@BOTH
def test_features_of_their_own_type_are_not_copied(features):
    column = feature_array(features, pa.float32())
    for each in (column, pa.chunked_array([column]), column.slice(1, 4)):
        assert np.shares_memory(to_array(each), features)


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_shard_gives_back_what_was_written(features, dtype, tolerance, tmp_path):
    write_shard(tmp_path / "features", "part-a.parquet", list("abcdef"), features, dtype=dtype)
    found = FeatureSet.open(str(tmp_path))
    assert found.card.shape == features.shape[1:]
    shard = found.read_shard("part-a.parquet")
    assert shard.features.dtype == np.float32
    np.testing.assert_array_equal(shard.features, features.astype(dtype.to_pandas_dtype()).astype(np.float32))
    some = found.read_shard("part-a.parquet", wanted={"b", "e"})
    np.testing.assert_array_equal(some.features, shard.features[[1, 4]])
    assert found.read_shard("part-a.parquet", wanted=set()).features.shape == (0, *features.shape[1:])


@BOTH
def test_features_are_written_without_a_dictionary(features, tmp_path):
    """It saves nothing, and reading float16 through one takes three times as long."""
    write_shard(tmp_path, "x.parquet", list("abcdef"), features, dtype=pa.float16())
    group = pa.parquet.read_metadata(tmp_path / "x.parquet").row_group(0)
    encodings = {each.path_in_schema.split(".")[0]: each.encodings for each in map(group.column, range(2))}
    assert "RLE_DICTIONARY" in encodings["image_id"]
    assert "RLE_DICTIONARY" not in encodings["feature"]


def test_float16_rounds_to_the_nearest():
    values = np.array([[1.0004, 65504.0, 1e-7, -0.33333]], np.float32)
    np.testing.assert_array_equal(to_array(feature_array(values, pa.float16())), values.astype(np.float16))


@BOTH
def test_parts_and_pieces_of_a_column_are_read_right(features):
    column = feature_array(features, pa.float32())
    np.testing.assert_array_equal(to_array(column.slice(2, 3)), features[2:5])
    np.testing.assert_array_equal(
        to_array(pa.chunked_array([column.slice(4), column.slice(1, 1)])), features[[4, 5, 1]]
    )
    assert to_array(column.slice(0, 0)).shape == (0, *features.shape[1:])
    assert to_array(pa.chunked_array([], column.type)).shape == (0, *features.shape[1:])


@pytest.mark.parametrize(
    "features",
    [list(FEATURES), FEATURES.astype(np.float64), np.asfortranarray(FEATURES), np.repeat(FEATURES, 2, axis=0)[::2]],
    ids=["list", "float64", "fortran", "strided"],
)
def test_feature_array_takes_any_layout(features):
    np.testing.assert_array_equal(to_array(feature_array(features, pa.float32())), FEATURES)


@pytest.mark.parametrize("shape", [(0, 4), (0, 3, 4)])
def test_no_features_keep_their_dimension(shape):
    assert to_array(feature_array(np.zeros(shape, np.float32), pa.float32())).shape == shape


@pytest.mark.parametrize("inside", ["", "/features"])
def test_open_takes_the_output_or_its_folder(inside, folder):
    for location in (folder + inside, f"file://{folder}{inside}"):
        features = FeatureSet.open(location)
        assert features.shards == ("part-a.parquet", "part-b.parquet")
        assert features.card == CARD
        assert features.image_ids() == ["a", "b", "c", "d", "e", "f"]


def test_only_shards_are_read(folder, tmp_path):
    (tmp_path / "features" / ".tmp-1-part-c.parquet").write_bytes(b"PAR1")
    (tmp_path / "features" / "notes.txt").write_text("mine")
    assert FeatureSet.open(folder).shards == ("part-a.parquet", "part-b.parquet")


@pytest.mark.parametrize("make", [False, True], ids=["no folder", "empty folder"])
def test_no_features_is_an_input_error(make, tmp_path):
    if make:
        (tmp_path / "features").mkdir()
    with pytest.raises(InputError, match=r"no features in .*run raycap extract first"):
        FeatureSet.open(str(tmp_path))


def test_a_shard_without_a_card_is_a_format_error(folder, tmp_path):
    table = pa.table({"image_id": ["g"], "feature": feature_array(FEATURES[:1], pa.float32())})
    write_table(str(tmp_path / "features" / "part-c.parquet"), table)
    with pytest.raises(FormatError, match=r"part-c\.parquet carries no encoder card"):
        FeatureSet.open(folder)


@pytest.mark.parametrize("card", [b"", b"{", b"[]", b"{}", b'{"format_version": 1}'])
def test_a_shard_with_a_damaged_card_is_a_format_error(card, folder, tmp_path):
    table = read_table(str(tmp_path / "features" / "part-b.parquet")).replace_schema_metadata({CARD_KEY: card})
    write_table(str(tmp_path / "features" / "part-c.parquet"), table)
    with pytest.raises(FormatError, match=r"part-c\.parquet"):
        FeatureSet.open(folder)


def test_a_truncated_shard_is_a_format_error(folder, tmp_path):
    shard = tmp_path / "features" / "part-b.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"part-b\.parquet"):
        FeatureSet.open(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights_hash": "ffff"}, "weights_hash 'a1b2' against 'ffff'"),
        ({"name": "vgg16"}, "name 'tiny' against 'vgg16'"),
    ],
)
def test_shards_of_two_encoders_do_not_mix(change, said, folder):
    other = dataclasses.replace(CARD, **change)
    write_shard(f"{folder}/features", "part-c.parquet", ["g"], FEATURES[:1], card=other)
    with pytest.raises(EncoderMismatchError, match=said) as error:
        FeatureSet.open(folder)
    assert "part-a.parquet" in str(error.value)
    assert "part-c.parquet" in str(error.value)


def test_shards_whose_weights_only_lay_elsewhere_do_mix(folder):
    moved = dataclasses.replace(CARD, weights="/elsewhere/w.keras", seed=3)
    write_shard(f"{folder}/features", "part-c.parquet", ["g"], FEATURES[:1], card=moved)
    assert len(FeatureSet.open(folder).shards) == 3


def test_read_shard(folder):
    shard = FeatureSet.open(folder).read_shard("part-a.parquet")
    assert shard.image_ids == ["a", "b", "c", "d"]
    assert shard.features.dtype == np.float32
    np.testing.assert_array_equal(shard.features, FEATURES[:4])


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [({"d", "b", "x"}, [1, 3]), ({"a": 1, "c": 2}.keys(), [0, 2]), (frozenset("abcd"), [0, 1, 2, 3]), (set(), [])],
)
def test_read_shard_gives_the_wanted_photos_in_the_order_of_the_file(wanted, rows, folder):
    shard = FeatureSet.open(folder).read_shard("part-a.parquet", wanted=wanted)
    assert shard.image_ids == ["abcd"[row] for row in rows]
    np.testing.assert_array_equal(shard.features, FEATURES[rows])
    assert shard.features.shape == (len(rows), 4)


def test_iter_shards(folder):
    shards = list(FeatureSet.open(folder).iter_shards(wanted={"b", "f"}))
    assert [shard.image_ids for shard in shards] == [["b"], ["f"]]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_moments_equal_numpys(dtype, tolerance, tmp_path):
    features = np.random.default_rng(1).gamma(2.0, 3.0, size=(100, 7)).astype(np.float32)
    features[:, 3] = 5.0  # a number that never changes
    image_ids = [f"{n}.jpg" for n in range(100)]
    for start in range(0, 100, 30):
        part = slice(start, start + 30)
        write_shard(tmp_path / "features", f"part-{start:03}.parquet", image_ids[part], features[part], dtype=dtype)
    wanted = set(image_ids[::3])
    mean, variance = FeatureSet.open(str(tmp_path)).moments(wanted)
    assert mean.dtype == variance.dtype == np.float32
    np.testing.assert_allclose(mean, features[::3].mean(axis=0), rtol=1e-5 + tolerance)
    np.testing.assert_allclose(variance, features[::3].var(axis=0), rtol=1e-5 + 10 * tolerance, atol=1e-6)
    assert variance[3] == 0.0


def test_moments_of_large_numbers_that_hardly_vary(tmp_path):
    features = (1e4 + np.random.default_rng(2).normal(size=(200, 3))).astype(np.float32)
    write_shard(tmp_path / "features", "part-a.parquet", [str(n) for n in range(200)], features)
    _, variance = FeatureSet.open(str(tmp_path)).moments({str(n) for n in range(200)})
    np.testing.assert_allclose(variance, features.astype(np.float64).var(axis=0), rtol=1e-4)


def test_moments_are_over_photos_and_regions(tmp_path, monkeypatch):
    monkeypatch.setattr("raycap.features._VECTORS_AT_ONCE", 5)
    for start in (0, 4):
        part = slice(start, start + 4)
        write_shard(tmp_path / "features", f"part-{start}.parquet", list("abcdef")[part], SPATIAL[part])
    mean, variance = FeatureSet.open(str(tmp_path)).moments(set("abdef"))
    vectors = SPATIAL[[0, 1, 3, 4, 5]].reshape(-1, 4)
    assert mean.shape == variance.shape == (4,)
    np.testing.assert_allclose(mean, vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, vectors.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "shape"),
    [(FEATURES, (3, 4)), (SPATIAL, (4,)), (SPATIAL, (12,)), (SPATIAL, (4, 3)), (SPATIAL, (2, 4)), (SPATIAL, (3, 5))],
)
def test_a_shard_of_another_shape_than_its_card_says_is_a_format_error(features, shape, tmp_path):
    card = dataclasses.replace(CARD, num_regions=math.prod(shape[:-1]), dim=shape[-1])
    metadata = feature_schema(shape, pa.float32(), card.to_json().encode()).metadata
    table = pa.table({"image_id": list("abcdef"), "feature": feature_array(features, pa.float32())})
    write_table(str(tmp_path / "features/part-a.parquet"), table.replace_schema_metadata(metadata))
    said = " x ".join(map(str, shape))
    with pytest.raises(FormatError, match=rf"part-a\.parquet does not hold features of {said} numbers"):
        FeatureSet.open(str(tmp_path))


@pytest.mark.parametrize("row", [None, [[0.0] * 4, None, [0.0] * 4], [[0.0] * 4, [0.0, None, 0.0, 0.0], [0.0] * 4]])
def test_a_spatial_feature_that_lacks_something_is_damaged(row, tmp_path):
    card = dataclasses.replace(CARD, num_regions=3)
    column = pa.array([SPATIAL[0].tolist(), row], pa.list_(pa.list_(pa.float32(), 4), 3))
    table = pa.table({"image_id": ["a", "b"], "feature": column})
    table = table.replace_schema_metadata({CARD_KEY: card.to_json().encode()})
    write_table(str(tmp_path / "features/part-a.parquet"), table)
    with pytest.raises(FormatError, match=r"part-a\.parquet is damaged: it has rows without a feature"):
        FeatureSet.open(str(tmp_path)).read_shard("part-a.parquet")


def test_moments_of_no_photos_are_zero(folder):
    mean, variance = FeatureSet.open(folder).moments(set())
    assert mean.tolist() == variance.tolist() == [0.0] * 4


# What people's own tools make of a shard; none of them goes through raycap or Ray.


def test_pandas_reads_a_shard(folder):
    import pandas as pd

    for dtype, tolerance in DTYPES:
        write_shard(folder, "x.parquet", ["a", "b"], FEATURES[:2], dtype=dtype)
        frame = pd.read_parquet(f"{folder}/x.parquet")
        assert frame["image_id"].tolist() == ["a", "b"]
        assert frame["feature"].map(len).tolist() == [4, 4]
        np.testing.assert_allclose(np.stack(frame["feature"]), FEATURES[:2], rtol=tolerance, atol=tolerance)


def test_polars_reads_a_shard(folder):
    import polars as pl

    for dtype, tolerance in DTYPES:
        write_shard(folder, "x.parquet", ["a", "b"], FEATURES[:2], dtype=dtype)
        frame = pl.read_parquet(f"{folder}/x.parquet")
        assert frame["image_id"].to_list() == ["a", "b"]
        values = np.array(frame["feature"].to_list(), np.float32)
        np.testing.assert_allclose(values, FEATURES[:2], rtol=tolerance, atol=tolerance)
        if tolerance == 0.0:
            assert frame.schema["feature"] == pl.Array(pl.Float32, 4)


def test_duckdb_reads_a_shard(folder):
    import duckdb

    with duckdb.connect() as connection:
        for dtype, tolerance in DTYPES:
            write_shard(folder, "x.parquet", ["a", "b"], FEATURES[:2], dtype=dtype)
            relation = connection.sql(f"SELECT image_id, feature, len(feature) FROM '{folder}/x.parquet'")
            image_ids, lists, lengths = zip(*relation.fetchall(), strict=True)
            assert image_ids == ("a", "b")
            assert lengths == (4, 4)
            np.testing.assert_allclose(np.array(lists), FEATURES[:2], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_pandas_polars_and_duckdb_read_spatial_features(dtype, tolerance, tmp_path):
    import duckdb
    import pandas as pd
    import polars as pl

    path = str(tmp_path / "x.parquet")
    write_shard(tmp_path, "x.parquet", ["a", "b"], SPATIAL[:2], dtype=dtype)
    frame = pd.read_parquet(path)
    found = {"pandas": [[list(region) for region in feature] for feature in frame["feature"]]}
    found["polars"] = pl.read_parquet(path)["feature"].to_list()
    with duckdb.connect() as connection:
        found["duckdb"] = [row[0] for row in connection.sql(f"SELECT feature FROM '{path}'").fetchall()]
    for name, features in found.items():
        values = np.array(features, np.float32)
        np.testing.assert_allclose(values, SPATIAL[:2], rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_card_can_be_read_by_hand(folder):
    metadata = pa.parquet.read_schema(f"{folder}/features/part-a.parquet").metadata
    assert EncoderCard.from_json(metadata[b"raycap.encoder"], source="x") == CARD


def test_views_are_columns_of_their_own(tmp_path):
    write_shard(tmp_path, "part-a.parquet", ["a", "b"], SPATIAL[:2], views=[SPATIAL[2:4], SPATIAL[4:]])
    opened = FeatureSet.open(str(tmp_path))
    assert opened.num_views == 3
    for view, expected in enumerate((SPATIAL[:2], SPATIAL[2:4], SPATIAL[4:])):
        image_ids, features = opened.read_shard("part-a.parquet", view=view, wanted={"b"})
        assert image_ids == ["b"]
        np.testing.assert_array_equal(features, expected[1:])
    # of shards with fewer, only those that all have are drawn from
    write_shard(tmp_path, "part-b.parquet", ["c", "d"], SPATIAL[:2], views=[SPATIAL[2:4]])
    assert FeatureSet.open(str(tmp_path)).num_views == 2
