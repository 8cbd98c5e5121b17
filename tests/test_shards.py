import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.errors import FormatError, InputError
from raycap.parquet import read_table
from raycap.schema import FAILURES
from raycap.shards import ShardCounts, ShardedOutput, cut, shard_name
from raycap.storage import list_files


def photos(*image_ids):
    return pa.table({"image_id": list(image_ids), "uri": [f"/photos/{name}" for name in image_ids]})


def results(*image_ids, failed=(), **metadata):
    """A block as it comes to the writer: a feature a photo, or an error."""
    table = photos(*image_ids)
    bad = [name in failed for name in image_ids]
    table = table.append_column("number", pa.array([float(len(name)) for name in image_ids]))
    table = table.append_column("error_type", pa.array(["ImageEmptyError" if each else None for each in bad]))
    table = table.append_column("error_message", pa.array(["the file is empty" if each else None for each in bad]))
    return table.replace_schema_metadata(metadata)


@pytest.fixture
def output(tmp_path):
    return ShardedOutput(out=str(tmp_path), folder="features", stage="extract")


COLUMNS = ("image_id", "number")


def ids_in(folder):
    return sorted(
        name for file in list_files(folder) for name in read_table(f"{folder}/{file}")["image_id"].to_pylist()
    )


@pytest.mark.parametrize(
    ("num_photos", "shard_size", "num_workers", "sizes"),
    [
        (1, 256, 1, [1]),
        (16, 256, 8, [16]),
        (100, 256, 1, [25] * 4),
        (1000, 100, 1, [100] * 10),
        (1001, 100, 1, [91] * 11),
        (4000, 256, 2, [250] * 16),
        (64, 256, 1, [16] * 4),
        (10, 1, 2, [1] * 10),
        (10, 3, 1, [2, 3, 2, 3]),
        (40, 256, 1, [20, 20]),  # three would be of fewer than 16
        (17, 256, 1, [17]),
    ],
)
def test_cut(num_photos, shard_size, num_workers, sizes):
    table = photos(*(f"{n}.jpg" for n in range(num_photos)))
    shards = cut(table, shard_size=shard_size, num_workers=num_workers)
    assert [len(shard) for shard in shards] == sizes
    assert pa.concat_tables(shards).equals(table)


@pytest.mark.parametrize("shard_size", [1, 7, 16, 32, 256])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5, 8])
def test_cut_keeps_its_promises(shard_size, num_workers):
    for num_photos in (*range(1, 70), 255, 256, 257, 321, 513, 1000, 4097):
        table = pa.table({"image_id": pa.array(range(num_photos))})
        shards = cut(table, shard_size=shard_size, num_workers=num_workers)
        sizes = [len(shard) for shard in shards]
        case = f"{num_photos} photos: {sizes}"
        assert pa.concat_tables(shards)["image_id"].to_pylist() == list(range(num_photos)), case
        assert min(sizes) >= 1, case
        assert max(sizes) <= shard_size, case
        assert max(sizes) - min(sizes) <= 1, case
        floor = min(16, shard_size)
        if len(sizes) > math.ceil(num_photos / shard_size):  # more than the size asks for: for the workers' sake
            assert min(sizes) >= floor, case
        if len(sizes) < 4 * num_workers:  # fewer than the workers ask for: one more would break the floor
            assert num_photos // (len(sizes) + 1) < floor, case


def test_a_shard_is_named_after_its_photos():
    assert shard_name(["a.jpg", "b.jpg"]) == "part-c5fcd6f89f789abde818.parquet"  # in every process
    assert shard_name(["a.jpg"]) != shard_name(["b.jpg"])
    assert shard_name(["a.jpg", "b.jpg"]) != shard_name(["b.jpg", "a.jpg"])
    assert shard_name(["a", "b"]) != shard_name(["ab"])
    assert shard_name(["grün/狗.jpg"]).startswith("part-")


def test_write_splits_rows_and_failures(output):
    block = results("a", "bb", "ccc", failed={"bb"})
    assert output.write(block, columns=COLUMNS) == ShardCounts(2, 1)
    name = shard_name(["a", "bb", "ccc"])
    assert list_files(output.rows) == list_files(output.failures) == [name]
    assert read_table(f"{output.rows}/{name}").to_pylist() == [
        {"image_id": "a", "number": 1.0},
        {"image_id": "ccc", "number": 3.0},
    ]
    failures = read_table(f"{output.failures}/{name}")
    assert failures.schema.equals(FAILURES)
    assert failures.to_pylist() == [
        {
            "image_id": "bb",
            "uri": "/photos/bb",
            "stage": "extract",
            "error_type": "ImageEmptyError",
            "error_message": "the file is empty",
        }
    ]


@pytest.mark.parametrize(
    ("failed", "rows", "failures", "counts"),
    [((), 1, 0, ShardCounts(2, 0)), (("a", "b"), 0, 1, ShardCounts(0, 2)), (("b",), 1, 1, ShardCounts(1, 1))],
)
def test_an_empty_shard_is_not_written(failed, rows, failures, counts, output):
    assert output.write(results("a", "b", failed=failed), columns=COLUMNS) == counts
    assert len(list_files(output.rows)) == rows
    assert len(list_files(output.failures)) == failures


def test_metadata_is_kept(output):
    output.write(results("a", **{"raycap.encoder": "{}"}), columns=COLUMNS)
    assert pq.read_schema(f"{output.rows}/{shard_name(['a'])}").metadata[b"raycap.encoder"] == b"{}"


def test_written_again_it_overwrites_its_own_shard(output):
    output.write(results("a", "b"), columns=COLUMNS)
    output.write(results("c"), columns=COLUMNS)
    other = read_table(f"{output.rows}/{shard_name(['c'])}")
    again = results("a", "b").set_column(2, "number", pa.array([10.0, 20.0]))
    output.write(again, columns=COLUMNS)
    assert len(list_files(output.rows)) == 2
    assert read_table(f"{output.rows}/{shard_name(['a', 'b'])}")["number"].to_pylist() == [10.0, 20.0]
    assert read_table(f"{output.rows}/{shard_name(['c'])}").equals(other)


def test_pending_is_what_has_neither_a_row_nor_a_failure(output):
    everything = photos("d", "a", "c", "b", "e")
    assert output.pending(everything).equals(everything)
    output.write(results("a", "b", failed={"b"}), columns=COLUMNS)
    assert output.pending(everything)["image_id"].to_pylist() == ["d", "c", "e"]  # in the manifest's order
    output.write(results("d", "c", "e"), columns=COLUMNS)
    assert len(output.pending(everything)) == 0


def test_pending_does_not_depend_on_how_photos_were_cut(output):
    everything = photos(*"abcdefgh")
    output.write(results(*"abc"), columns=COLUMNS)
    output.write(results(*"gh"), columns=COLUMNS)
    for shard in cut(output.pending(everything), shard_size=2, num_workers=1):
        output.write(results(*shard["image_id"].to_pylist()), columns=COLUMNS)
    assert ids_in(output.rows) == list("abcdefgh")  # every photo, once


def test_counts_are_of_the_photos_asked_about(output):
    output.write(results("a", "b", "c", failed={"b"}), columns=COLUMNS)
    assert output.counts(photos("a", "b", "c", "d")) == ShardCounts(2, 1)
    assert output.counts(photos("a", "d")) == ShardCounts(1, 0)
    assert output.counts(photos("b")) == ShardCounts(0, 1)
    assert output.counts(photos("x")) == ShardCounts(0, 0)


def test_counts_add_up():
    assert ShardCounts(1, 2) + ShardCounts(3, 4) == ShardCounts(4, 6)
    assert ShardCounts(4, 6).total == 10
    assert ShardCounts() == ShardCounts(0, 0)


def test_retry_failed_makes_the_failed_pending(output):
    everything = photos("a", "b", "c")
    output.write(results("a", "b", "c", failed={"b"}), columns=COLUMNS)
    assert output.pending(everything, retry_failed=True)["image_id"].to_pylist() == ["b"]
    assert output.counts(everything) == ShardCounts(2, 1)
    output.forget_failures(photos("b", "c"))
    assert list_files(output.failures) == []
    assert output.counts(everything) == ShardCounts(2, 0)
    output.write(results("b"), columns=COLUMNS)
    assert output.counts(everything) == ShardCounts(3, 0)
    assert ids_in(output.rows) == ["a", "b", "c"]


def test_a_photo_that_failed_earlier_and_was_done_later_counts_as_done(output):
    everything = photos("a", "b")
    output.write(results("a", "b", failed={"b"}), columns=COLUMNS)
    output.write(results("a", "b"), columns=COLUMNS)  # a retried task, lucky this time
    assert output.counts(everything) == ShardCounts(2, 0)
    assert len(output.pending(everything)) == 0


def test_settled_every_photo_is_there_once(output):
    """Shards of a killed run appeared after the next run had looked, and cut the same photos otherwise."""
    everything = photos(*"abcdef")
    output.write(results("a", "b", "c", failed={"c"}), columns=COLUMNS)
    output.write(results("d", "e"), columns=COLUMNS)
    assert output.settle(everything, left=1) == output.counts(everything) == ShardCounts(4, 1)
    before = {name: read_table(f"{output.rows}/{name}") for name in list_files(output.rows)}
    output.write(results("b", "c", "d"), columns=COLUMNS)  # this time c went well
    output.write(results("d", "e", "f", failed={"e"}), columns=COLUMNS)
    output.write(results("e", "d"), columns=COLUMNS)
    assert output.settle(everything) == output.counts(everything) == ShardCounts(6, 0)
    assert ids_in(output.rows) == list("abcdef")
    assert ids_in(output.failures) == []
    assert all(len(read_table(f"{output.rows}/{name}")) for name in list_files(output.rows)), "an empty shard is left"
    settled = {name: read_table(f"{output.rows}/{name}") for name in list_files(output.rows)}
    assert output.settle(everything) == ShardCounts(6, 0)
    assert {name: read_table(f"{output.rows}/{name}") for name in list_files(output.rows)} == settled
    assert sum(before[name].equals(settled.get(name)) for name in before) >= 1


def test_failures_of_photos_that_are_not_tried_again_stay(output):
    output.write(results(*"abc", failed="abc"), columns=COLUMNS)
    output.write(results(*"de", failed="d"), columns=COLUMNS)
    output.forget_failures(photos(*"bd"))
    assert ids_in(output.failures) == ["a", "c"]
    assert ids_in(output.rows) == ["e"]
    assert len(list_files(output.failures)) == 1
    output.forget_failures(photos("x"))
    assert ids_in(output.failures) == ["a", "c"]


def test_settling_tells_what_was_finished_and_is_not_there(output):
    output.write(results(*"abc", failed="a"), columns=COLUMNS)
    assert output.settle(photos(*"abcd"), left=1) == ShardCounts(2, 1)
    with pytest.raises(InputError, match=r"1 photos that were finished are not in .*that every node"):
        output.settle(photos(*"abcd"))


def test_settling_keeps_the_metadata_and_all_columns(output):
    output.write(results("a", "b", **{"raycap.encoder": "{}"}), columns=COLUMNS)
    output.write(results("b", "c", **{"raycap.encoder": "{}"}), columns=COLUMNS)
    output.settle(photos(*"abc"))
    assert ids_in(output.rows) == list("abc")
    for name in list_files(output.rows):
        schema = pq.read_schema(f"{output.rows}/{name}")
        assert (schema.names, schema.metadata[b"raycap.encoder"]) == (list(COLUMNS), b"{}")


def test_other_files_beside_the_shards_do_not_matter(output, tmp_path):
    output.write(results("a"), columns=COLUMNS)
    (tmp_path / "features" / "README.txt").write_text("mine")
    assert output.pending(photos("a", "b"))["image_id"].to_pylist() == ["b"]


def test_starting_over_leaves_what_is_not_ours(output, tmp_path):
    output.write(results("a.jpg", "b.jpg", failed=("b.jpg",)), columns=COLUMNS)
    (tmp_path / "features" / "mine.txt").write_text("x")
    output.delete()
    assert list_files(str(tmp_path / "features")) == ["mine.txt"]
    assert not (tmp_path / "failures").exists()


def test_a_damaged_shard_is_named_not_taken_for_finished(output, tmp_path):
    output.write(results("a"), columns=COLUMNS)
    name = shard_name(["a"])
    (tmp_path / "features" / name).write_bytes(b"PAR1 half")
    with pytest.raises(FormatError, match=name):
        output.pending(photos("a"))
