import io
import itertools
import os
import tarfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import parquet as parquet_files
from raycap import photo_reader, storage
from raycap.config import LimitsConfig
from raycap.errors import ImageMissingError, ImageTimeoutError, ImageTooLargeError
from raycap.photo_reader import Address, addresses, read_photos
from raycap.photo_sources import find_photos

LIMITS = LimitsConfig(max_bytes=1000, photo_timeout_s=20)


def photo(number: int) -> bytes:
    return bytes([number]) * (100 + number)


def files(folder: Path, *numbers: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number} %#?.jpg").write_bytes(photo(number))
    return [str(folder)]


def tars(folder: Path, *numbers: int) -> list[str]:
    """Three tars, which take turns."""
    locations = [str(folder / f"{index}.tar") for index in range(3)]
    for index, location in enumerate(locations):
        with tarfile.open(location, "w") as archive:
            for number in numbers[index::3]:
                info = tarfile.TarInfo(f"{number}.jpg")
                info.size = len(photo(number))
                archive.addfile(info, io.BytesIO(photo(number)))
    return locations


def parquet(folder: Path, *numbers: int, kind: str = "binary", group: int = 7) -> list[str]:
    photos = [photo(number) for number in numbers]
    columns = {
        "binary": pa.array(photos),
        "large": pa.array(photos, pa.large_binary()),
        "struct": pa.array([{"path": f"{n}.jpg", "bytes": each} for n, each in zip(numbers, photos, strict=True)]),
    }
    table = pa.table({"caption": ["x"] * len(photos), "image": columns[kind]})
    pq.write_table(table, folder / "t.parquet", row_group_size=group)
    return [str(folder / "t.parquet")]


SOURCES = {
    "files": files,
    "tars": tars,
    "binary": parquet,
    "large": lambda folder, *numbers: parquet(folder, *numbers, kind="large", group=100),
    "struct": lambda folder, *numbers: parquet(folder, *numbers, kind="struct", group=40),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("every", [1, 3, 19], ids="every {}".format)
def test_the_bytes_are_those_of_each_photo_in_order(name, every, tmp_path):
    listing = find_photos(SOURCES[name](tmp_path / "x" if name == "files" else tmp_path, *range(50)))
    whole = addresses(listing)
    assert len(whole) == 50
    if name == "tars":  # a photo of each tar in turn
        whole = list(itertools.chain(*itertools.zip_longest(whole[:17], whole[17:34], whole[34:])))[:50]
    read = list(read_photos(whole[1::every], LIMITS))
    order = sorted(range(50), key=str) if name == "files" else range(50)
    assert read == [photo(number) for number in order][1::every]


def test_sources_may_be_mixed(tmp_path):
    folder = files(tmp_path / "x", 1, 2)
    given = addresses(find_photos([*folder, *parquet(tmp_path, *range(3, 30)), *tars(tmp_path, 31, 32, 33)]))
    numbers = [1, 2, *range(3, 30), 31, 32, 33]
    expected = [photo(number) for number in [*numbers[::2], *numbers[1::2]]]
    assert list(read_photos([*given[::2], *given[1::2]], LIMITS)) == expected
    assert list(read_photos([], LIMITS)) == []


def test_a_manifest_has_no_containers(tmp_path):
    files(tmp_path, 1)
    uri = f"{tmp_path}/1 %#?.jpg"
    table = pa.table({"image_id": ["1"], "uri": [uri], "split": ["dev"]})
    assert addresses(table) == [Address(uri)]
    assert list(read_photos(addresses(table), LIMITS)) == [photo(1)]


def test_rows_without_a_photo_fail_alone(tmp_path):
    struct = [
        {"bytes": photo(1), "path": None},
        None,
        {"bytes": None, "path": "x.jpg"},
        {"bytes": photo(4), "path": "y"},
    ]
    for column in (pa.array([photo(1), None, None, photo(4)]), pa.array(struct)):
        pq.write_table(pa.table({"image": column}), tmp_path / "t.parquet", row_group_size=2)
        read = list(read_photos(addresses(find_photos([f"{tmp_path}/t.parquet"])), LIMITS))
        assert [read[0], read[3]] == [photo(1), photo(4)]
        assert [str(each) for each in read[1:3]] == ["there is no photo in this row"] * 2


def same(path: Path) -> str:
    return str(path)


def make_folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def make_pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def make_dangling_link(path: Path) -> str:
    path.symlink_to("nowhere")
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (same, "No such file"),
        (lambda path: f"file://{path}", "No such file"),
        (make_folder, "is a folder"),
        (make_pipe, "is not a file"),
        (make_dangling_link, "No such file"),
        (lambda path: f"{path}\0", "null byte"),
        (lambda path: f"{path}/{'x' * 300}", "No such file|too long"),
        (lambda _: "/dev/zero", "is not a file"),
        (lambda _: "nowhere://x/y.jpg", "cannot use 'nowhere://x/y.jpg'"),
        (lambda _: "file://relative/y.jpg", "cannot use"),
        (lambda _: "s3://", "cannot use|cannot be read"),
    ],
)
def test_a_photo_that_cannot_be_read_fails_alone(make, message, tmp_path):
    good = Address(f"{files(tmp_path / 'x', 1)[0]}/1 %#?.jpg")
    started = time.monotonic()
    first, bad, last = read_photos([good, Address(make(tmp_path / "photo.jpg")), good], LIMITS)
    assert time.monotonic() - started < LIMITS.photo_timeout_s / 2
    assert first == last == photo(1)
    assert type(bad) is ImageMissingError
    with pytest.raises(ImageMissingError, match=message):
        raise bad


def test_what_the_listing_says_of_a_photo_is_its_failure():
    (failure,) = read_photos([Address("/x", problem="no path in column path")], LIMITS)
    assert type(failure) is ImageMissingError
    assert str(failure) == "no path in column path"


@pytest.mark.parametrize("name", SOURCES)
def test_photos_of_more_than_max_bytes_fail(name, tmp_path):
    given = addresses(find_photos(SOURCES[name](tmp_path / "x" if name == "files" else tmp_path, 1, 2, 3)))
    read = list(read_photos(given, LimitsConfig(max_bytes=len(photo(2)))))
    assert read[:2] == [photo(1), photo(2)]
    assert type(read[2]) is ImageTooLargeError
    assert f"more than {len(photo(2))} bytes" in str(read[2])


@pytest.mark.parametrize("name", ["tars", "binary", "struct"])
@pytest.mark.parametrize("fault", ["gone", "empty", "another"])
def test_a_container_that_changed_after_the_listing_gives_failures(name, fault, tmp_path):
    locations = SOURCES[name](tmp_path, *range(20))
    given = addresses(find_photos(locations))
    for location in locations:
        Path(location).unlink()
        if fault != "gone":
            Path(location).write_bytes(b"" if fault == "empty" else b"another file of a few bytes")
    read = list(read_photos(given, LIMITS))
    assert {type(each) for each in read} == {ImageMissingError}
    assert len(read) == 20


def test_a_tar_that_was_cut_after_the_listing_gives_what_it_still_has(tmp_path):
    location = tars(tmp_path, *range(9))[0]
    given = addresses(find_photos([location]))
    os.truncate(location, given[1].position + 10)
    read = list(read_photos(given, LIMITS))
    assert read[0] == photo(0)
    assert [type(each) for each in read[1:]] == [ImageMissingError] * 2
    assert str(read[1]) == f"{location} ends in the middle of it"


def test_a_damaged_row_group_does_not_mix_up_the_others(tmp_path):
    (location,) = parquet(tmp_path, *range(50), group=10)
    column = pq.read_metadata(location).row_group(2).column(1)
    whole = bytearray(Path(location).read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    whole[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    given = addresses(find_photos([location]))
    Path(location).write_bytes(whole)
    read = list(read_photos(given, LIMITS))
    assert read[:20] == [photo(number) for number in range(20)]
    assert {type(each) for each in read[20:30]} == {ImageMissingError}
    assert len(read) == 50


@pytest.fixture
def release():
    """Lets the reads that a test holds up come back at its end."""
    event = threading.Event()
    yield event
    event.set()


def test_a_row_group_of_many_photos_is_not_read_at_once(tmp_path, monkeypatch):
    photos = [os.urandom(10_000) for _ in range(3_000)]  # Arrow writes pages of 1,024 at least
    pq.write_table(pa.table({"image": photos}), tmp_path / "t.parquet")
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            read.append(len(content))
            return content

    monkeypatch.setattr(parquet_files, "open_input", lambda location: pa.PythonFile(Counted(location)))
    listed = addresses(find_photos([str(tmp_path / "t.parquet")]))
    assert list(read_photos(listed[:8], LimitsConfig())) == photos[:8]
    assert sum(read) < 15_000_000


def test_a_read_that_hangs_is_given_up_and_the_others_are_read(tmp_path, monkeypatch, release):
    given = addresses(find_photos(files(tmp_path, *range(12))))
    stuck = {given[0].uri, given[5].uri, given[6].uri, given[11].uri}

    def read_bytes(location, *, at_most=-1):
        if location in stuck:
            release.wait()
        return storage.read_bytes(location, at_most=at_most)

    monkeypatch.setattr(photo_reader, "read_bytes", read_bytes)
    read = list(read_photos(given, LimitsConfig(photo_timeout_s=0.5)))
    order = sorted(range(12), key=str)
    for address, number, each in zip(given, order, read, strict=True):
        if address.uri in stuck:
            assert type(each) is ImageTimeoutError
            assert "--photo-timeout-s" in str(each)
        else:
            assert each == photo(number)


@pytest.mark.parametrize("kind", ["binary", "struct"])
def test_a_slow_row_never_gives_its_photo_to_another(kind, tmp_path, monkeypatch, release):
    given = addresses(find_photos(parquet(tmp_path, *range(8), kind=kind, group=2)))
    read_rows, running, resumed = photo_reader._group_rows, threading.Event(), threading.Event()

    def slow(file, group, column, wanted):
        if group == 1:
            running.set()
            release.wait()
        yield from read_rows(file, group, column, wanted)
        if group == 1:
            resumed.set()

    monkeypatch.setattr(photo_reader, "_group_rows", slow)
    results = read_photos(given, LimitsConfig(photo_timeout_s=0.3))
    read = [next(results) for _ in range(3)]
    assert read[:2] == [photo(0), photo(1)]
    assert type(read[2]) is ImageTimeoutError
    read.append(next(results))  # while row 2 is still being read
    assert type(read[3]) in {ImageTimeoutError, ImageMissingError}
    release.set()
    time.sleep(0.2)  # the read that was given up comes back
    read += results
    assert len(read) == 8
    assert all(each == photo(number) or isinstance(each, Exception) for number, each in enumerate(read))
    assert not any("generator" in str(each) for each in read if isinstance(each, Exception))
