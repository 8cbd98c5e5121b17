import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raycap import locations, parquet, storage
from raycap.errors import FormatError, InputError

ROOT = Path(__file__).parents[1]


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("location", ["nope://bucket/x", "file://relative", "://x:y"])
def test_resolve_names_a_location_that_cannot_be_used(location, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not location[0].isalpha():  # not a URI, so a relative path
        assert storage.resolve(location)[1] == os.path.abspath(location)
        return
    with pytest.raises(InputError, match=location):
        storage.resolve(location)


def test_resolve_takes_paths_and_file_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "x")
    for location in (expected, f"file://{expected}", "x"):
        filesystem, path = storage.resolve(location)
        assert isinstance(filesystem, fs.LocalFileSystem)
        assert os.path.realpath(path) == os.path.realpath(expected)


@pytest.mark.parametrize("uri", [False, True], ids=["path", "uri"])
def test_list_files(uri, tmp_path):
    fill(tmp_path, "b.txt", "a.TXT", "sub/c.txt", "sub/deep/d.txt", ".hidden", "sub/.hidden", ".git/e.txt", "x.d/f")
    folder = f"file://{tmp_path}" if uri else str(tmp_path)
    assert storage.list_files(folder) == ["a.TXT", "b.txt"]
    everything = ["a.TXT", "b.txt", "sub/c.txt", "sub/deep/d.txt", "x.d/f"]
    assert storage.list_files(folder, recursive=True) == everything
    assert storage.list_files(folder + "/", recursive=True) == everything
    assert storage.list_files(locations.join(folder, "sub")) == ["c.txt"]


def test_a_hidden_folder_that_was_asked_for_is_listed(tmp_path):
    fill(tmp_path, ".cache/photos/a.jpg")
    assert storage.list_files(str(tmp_path / ".cache"), recursive=True) == ["photos/a.jpg"]


def test_a_missing_folder_has_no_files(tmp_path):
    assert storage.list_files(str(tmp_path / "no")) == []
    assert storage.list_files(str(tmp_path / "no"), recursive=True) == []


def test_exists_and_is_folder(tmp_path):
    fill(tmp_path, "file")
    for name, exists, is_folder in [("file", True, False), ("", True, True), ("no", False, False)]:
        for location in (str(tmp_path / name), f"file://{tmp_path / name}"):
            assert storage.exists(location) is exists
            assert storage.is_folder(location) is is_folder
    assert not storage.exists(str(tmp_path / "file" / "inside"))


def write_half(location, error):
    with storage.atomic_output(location) as file:
        file.write(b"half")
        raise error


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    location = tmp_path / "new" / "folder" / "x.bin"
    with storage.atomic_output(str(location)) as file:
        file.write(b"half")
        file.flush()
        assert not location.exists()
        assert storage.list_files(str(location.parent)) == []  # the temporary name is hidden
        file.write(b" whole")
    assert location.read_bytes() == b"half whole"
    assert everything_in(tmp_path) == ["new/folder/x.bin"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    location = tmp_path / "x"
    location.write_bytes(b"old")
    with storage.atomic_output(str(location)) as file:
        file.write(b"new")
        file.flush()
        assert storage.read_bytes(str(location)) == b"old"
    assert storage.read_bytes(str(location)) == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_in_the_middle_leaves_things_as_they_were(error, old, tmp_path):
    location = tmp_path / "x"
    if old is not None:
        location.write_bytes(old)
    before = everything_in(tmp_path)
    with pytest.raises(error):
        write_half(str(location), error)
    assert everything_in(tmp_path) == before
    assert old is None or location.read_bytes() == old


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_things_as_they_were(fault, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    storage.write_bytes(str(tmp_path / "x"), b"old")
    monkeypatch.setattr(storage.os, fault, fail)
    with pytest.raises(OSError, match="no space"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert everything_in(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    location = str(tmp_path / "x")
    with storage.atomic_output(location) as first, storage.atomic_output(location) as second:
        first.write(b"1" * 10)
        second.write(b"2" * 20)
    assert (tmp_path / "x").read_bytes() == b"1" * 10  # the one that ended last
    assert everything_in(tmp_path) == ["x"]


def test_an_error_in_the_middle_leaves_nothing_on_an_object_store(tmp_path, monkeypatch):
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not local, as far as raycap can see
    monkeypatch.setattr(storage, "resolve", lambda location: (store, location))
    with pytest.raises(ValueError):  # noqa: PT011 - the one that was raised
        write_half("x", ValueError)
    assert everything_in(tmp_path) == []
    storage.write_bytes("x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_what_a_killed_writer_leaves_is_hidden_and_can_be_removed(tmp_path):
    script = (
        "import os, sys; from raycap.storage import atomic_output\n"
        "with atomic_output(sys.argv[1]) as file:\n    file.write(b'half'); file.flush(); os._exit(9)"
    )
    location = tmp_path / "part.parquet"
    location.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", script, str(location)], cwd=ROOT, check=False)
    assert killed.returncode == 9
    assert len(everything_in(tmp_path)) == 2
    assert storage.list_files(str(tmp_path)) == ["part.parquet"]
    storage.delete_temporary_files(str(tmp_path))
    assert everything_in(tmp_path) == ["part.parquet"]
    assert location.read_bytes() == b"old"


def test_delete_temporary_files_spares_all_else(tmp_path):
    ours = [
        f"{folder}.tmp-{number:032x}{rest}"
        for number, folder in enumerate(("", "sub/", "sub/in/"))
        for rest in ("", "-a")
    ]
    others = [".hidden", ".tmp-notes", "a.parquet", "elsewhere/.tmp-" + "0" * 32, "sub/in/b", "tmp-a"]
    fill(tmp_path, *others, *(f"out/{name}" for name in [*ours, *others]))
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    storage.delete_temporary_files(str(tmp_path / "out"))
    left = [name for name in others if "elsewhere" not in name]
    assert [name for name in everything_in(tmp_path / "out") if not name.startswith("link")] == left
    assert (tmp_path / others[3]).exists(), "what a link leads to is not ours"
    storage.delete_temporary_files(str(tmp_path / "no"))


def test_what_killed_uploads_left_is_removed_too(tmp_path, monkeypatch):
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not local, as far as raycap can see
    monkeypatch.setattr(storage, "resolve", lambda location: (store, location.removeprefix("store://")))
    fill(tmp_path, "out/sub/.tmp-" + "a" * 32 + "-part.parquet", "out/.tmp-mine", "out/part.parquet")
    storage.delete_temporary_files("store://out")
    assert everything_in(tmp_path) == ["out/.tmp-mine", "out/part.parquet"]


@pytest.mark.parametrize("error", [OSError("the store is gone"), KeyboardInterrupt()])
def test_an_upload_that_fails_shows_nothing(error, tmp_path, monkeypatch):
    """pyarrow completes an upload when it is closed, whatever ended it."""
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(storage, "resolve", lambda location: (store, location))
    storage.write_bytes("x", b"good")

    def some_of_it(content, stream, _):
        stream.write(content.read(3))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(storage.shutil, "copyfileobj", some_of_it)
        with pytest.raises(type(error)):
            storage.write_bytes("x", b"better")
    assert everything_in(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"good"


TABLE = pa.table({"image_id": [f"{n}.jpg" for n in range(3000)], "number": list(range(3000))})


def test_tables_round_trip(tmp_path):
    location = str(tmp_path / "t.parquet")
    parquet.write_table(location, TABLE.replace_schema_metadata({b"key": b"value"}))
    table = parquet.read_table(location)
    assert table.equals(TABLE)
    assert table.schema.metadata == {b"key": b"value"}
    assert parquet.read_table(location, columns=["number"]).column_names == ["number"]


def test_a_missing_column_is_named(tmp_path):
    location = str(tmp_path / "t.parquet")
    parquet.write_table(location, TABLE)
    with pytest.raises(FormatError, match=r"t\.parquet has no column split, uri"):
        parquet.read_table(location, columns=["image_id", "uri", "split"])


def test_a_truncated_table_is_a_format_error(tmp_path):
    location = tmp_path / "t.parquet"
    parquet.write_table(str(location), TABLE)
    whole = location.read_bytes()
    for length in {0, 1, 4, 8, 12, 100, len(whole) // 2, len(whole) - 8, len(whole) - 4, len(whole) - 1}:
        location.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"t\.parquet"):
            parquet.read_table(str(location))


@pytest.mark.parametrize("content", [b"", b"image_id,uri\n", b"PAR1PAR1", b"\0" * 1000])
def test_what_is_no_table_is_a_format_error(content, tmp_path):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(FormatError, match=r"t\.parquet"):
        parquet.read_table(str(tmp_path / "t.parquet"))


def test_a_table_with_damaged_pages_is_a_format_error(tmp_path):
    location = tmp_path / "t.parquet"
    parquet.write_table(str(location), TABLE)
    whole = location.read_bytes()
    location.write_bytes(whole[:1000] + bytes(500) + whole[1500:])  # the footer is whole
    assert pq.read_schema(location).names == TABLE.column_names
    with pytest.raises(FormatError, match=r"t\.parquet"):
        parquet.read_table(str(location))


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b'{"a": 1}\n{"b": 2}', b"\xff\xfe", b"NaN,"])
def test_damaged_json_is_a_format_error(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.json is damaged"):
        storage.read_json(str(tmp_path / "x.json"))


def test_json_round_trips_and_is_readable(tmp_path):
    content = {"words": ["hund", "läuft", "狗"], "share": 0.1, "none": None}
    storage.write_json(str(tmp_path / "x.json"), content)
    assert storage.read_json(str(tmp_path / "x.json")) == content
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "läuft" in text
    assert text == json.dumps(content, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("grün\n".encode(), "grün\n"), (b"\xef\xbb\xbfa", "a"), (b"gr\xfcn", "gr\ufffdn"), (b"", "")],
)
def test_read_text(content, expected, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert storage.read_text(str(tmp_path / "x")) == expected


def test_compressed_files_are_read_as_they_are(tmp_path):
    (tmp_path / "x.gz").write_bytes(b"not gzip")
    assert storage.read_bytes(str(tmp_path / "x.gz")) == b"not gzip"


def test_upload_folder_copies_files_in_order_of_name(tmp_path, monkeypatch):
    source = tmp_path / "source"
    fill(source, "b", "a/x.keras", "a/deep/y", "c")
    fill(tmp_path, "there/b", "there/other")
    order = []
    write_bytes = storage.write_bytes

    def noted(location, content):
        order.append(Path(location).name)
        write_bytes(location, content)

    monkeypatch.setattr(storage, "write_bytes", noted)
    storage.upload_folder(source, f"file://{tmp_path}/there")
    assert everything_in(tmp_path / "there") == ["a/deep/y", "a/x.keras", "b", "c", "other"]
    assert (tmp_path / "there/b").read_bytes() == b"b"
    assert order == ["y", "x.keras", "b", "c"]


def test_deleting(tmp_path):
    fill(tmp_path, "folder/sub/a", "file")
    storage.delete_file(str(tmp_path / "file"))
    storage.delete_folder(str(tmp_path / "folder"))
    storage.delete_folder(str(tmp_path / "folder"))  # nothing happens
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.jpg", "my photo.jpg", "a#1.jpg", "a?b.jpg", "100%.jpg", "a%20b.jpg", "é狗.jpg"])
@pytest.mark.parametrize("uri", [False, True], ids=["path", "uri"])
def test_any_file_name_that_is_listed_can_be_read(name, uri, tmp_path):
    folder = tmp_path / "photos"
    fill(folder, name, f"sub/{name}")
    location = f"file://{folder}" if uri else str(folder)
    names = storage.list_files(location, recursive=True)
    assert names == sorted([name, f"sub/{name}"])
    assert [storage.read_bytes(locations.join(location, each)).decode() for each in names] == names
    copy = locations.join(location, "copy", name)
    storage.write_bytes(copy, b"copy")
    assert (folder / "copy" / name).read_bytes() == b"copy"
    storage.delete_file(copy)
    assert not storage.exists(copy)


def test_files_whose_names_are_not_utf8_are_files_like_any_other(tmp_path):
    folder = f"file://{tmp_path}"
    location = locations.join(folder, "f\udcff", "\udcfe é.txt")
    assert location == f"{folder}/f%FF/%FE%20%C3%A9.txt"
    storage.write_small_text(location, "small")
    storage.write_bytes(location, b"bytes")
    assert (storage.read_bytes(location), storage.num_bytes(location), storage.exists(location)) == (b"bytes", 5, True)
    with storage.open_input(location) as file:
        assert file.read() == b"bytes"
    assert storage.list_files(folder, recursive=True) == ["f\udcff/\udcfe é.txt"]
    assert storage.is_folder(locations.parent(location))
    parquet.write_table(location, TABLE)
    assert parquet.read_table(location).equals(TABLE)
    storage.delete_file(location)
    assert not storage.exists(location)
    storage.delete_folder(locations.parent(location))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["local", "file uri", "object store"])
def folder(request, tmp_path, monkeypatch):
    """A folder on a local disk, or on a filesystem that is not local as far as raycap can see."""
    if request.param == "object store":
        store = fs._MockFileSystem()
        store.create_dir("bucket")
        monkeypatch.setattr(storage, "resolve", lambda location: (store, location.removeprefix("mock://")))
    return {"local": str(tmp_path), "file uri": f"file://{tmp_path}"}.get(request.param, "mock://bucket")


def test_the_same_is_had_from_every_filesystem(folder):
    names = ["a.bin", "sub/b.bin", ".hidden", "sub/.hidden/c.bin"]
    for name in names:
        if folder.startswith("mock"):  # which, unlike an object store, makes no folders
            storage.resolve("")[0].create_dir(locations.parent(f"bucket/{name}"))
        storage.write_bytes(locations.join(folder, name), name.encode() * 3)
    location = locations.join(folder, "sub", "b.bin")
    for at_most, expected in ((-1, b"sub/b.bin" * 3), (4, b"sub/"), (0, b""), (100, b"sub/b.bin" * 3)):
        assert storage.read_bytes(location, at_most=at_most) == expected
    with storage.open_input(location) as file:
        file.seek(20)
        assert (file.read(3), file.read()) == (b"b/b", b".bin")
    assert storage.num_bytes(location) == 27
    assert storage.num_bytes(folder) is None
    assert storage.num_bytes(locations.join(folder, "absent")) is None
    storage.write_small_text(location, "klein é")
    storage.write_small_text(location, "small é")
    assert storage.read_text(location) == "small é"
    assert [file.name for file in storage.walk_files(folder)] == ["a.bin", "sub/b.bin"]
    assert [file.name for file in storage.walk_files(folder, recursive=False)] == ["a.bin"]
    assert sorted(file.name for file in storage.walk_files(folder, hidden=True)) == sorted(names)
    assert list(storage.walk_files(locations.join(folder, "absent"))) == []
    sizes = {file.num_bytes for file in storage.walk_files(folder)}
    assert sizes == ({15, 8} if folder.startswith("mock") else {None})


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("size", [0, 10, 3 * 2**20], ids="{} bytes".format)
def test_an_upload_is_kept_aside_until_it_is_whole(size, old, tmp_path, monkeypatch):
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(storage, "resolve", lambda location: (store, location))
    monkeypatch.setattr(storage, "_SPOOL_BYTES", 2**20)
    if old:
        (tmp_path / "x.gz").write_bytes(old)
    before = everything_in(tmp_path)
    content = os.urandom(size)
    with storage.atomic_output("x.gz") as file:
        file.write(content)
        assert everything_in(tmp_path) == before
        assert not old or (tmp_path / "x.gz").read_bytes() == old
    assert (tmp_path / "x.gz").read_bytes() == content


@pytest.mark.parametrize(
    ("make", "message"),
    [(Path.mkdir, "is a folder"), (os.mkfifo, "is not a file"), (lambda path: path.symlink_to("y"), "No such file")],
)
def test_only_files_are_opened(make, message, tmp_path):
    make(tmp_path / "x")
    for function in (storage.open_input, storage.read_bytes):
        with pytest.raises(OSError, match=message):
            function(str(tmp_path / "x"))
    assert storage.num_bytes(str(tmp_path / "x")) is None


@pytest.mark.parametrize("name", ["x.txt", f"{'x' * 251}.txt", f"{'é' * 125}x.txt"], ids=["short", "long", "long é"])
def test_a_small_file_is_written_whole_and_what_a_kill_left_goes_away(name, tmp_path):
    script = (
        "import os, sys; from raycap import storage\n"
        "storage.os.replace = lambda *_: os._exit(9)\n"
        "storage.write_small_text(sys.argv[1], 'half')"
    )
    location = tmp_path / "new" / name
    assert subprocess.run([sys.executable, "-c", script, str(location)], cwd=ROOT, check=False).returncode == 9
    assert not location.exists()
    assert len(everything_in(tmp_path)) == 1
    assert storage.list_files(str(location.parent)) == []
    storage.write_small_text(str(location), "whole é\n")
    assert location.read_bytes() == "whole é\n".encode()
    assert everything_in(tmp_path) == [f"new/{name}"]


def test_a_small_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    storage.write_small_text(str(tmp_path / "x.txt"), "old")
    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        storage.write_small_text(str(tmp_path / "x.txt"), "new")
    assert everything_in(tmp_path) == ["x.txt"]


def test_a_folder_that_may_not_be_listed_is_told_or_raised(tmp_path, monkeypatch):
    fill(tmp_path, "a/1", "b/2", "c/3")
    scandir = os.scandir

    def locked(path):
        if path.rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(storage.os, "scandir", locked)
    walked = list(storage.walk_files(str(tmp_path)))
    assert [file.name for file in walked] == ["a/1", "b", "c/3"]
    assert [file.problem and "Permission denied" in file.problem for file in walked] == [None, True, None]
    with pytest.raises(OSError, match=r"/b: the folder cannot be listed: .*Permission denied"):
        storage.list_files(str(tmp_path), recursive=True)
