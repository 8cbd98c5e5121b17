import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raycap import locations, photo_sources, storage
from raycap.config import PhotosConfig
from raycap.errors import InputError
from raycap.photo_sources import find_photos
from raycap.schema import PHOTO_LISTING

ODD_NAMES = [
    "a b",
    "new\nline",
    "quo\"te's",
    "é狗",
    "100%",
    "a%20b",
    "a#1",
    "a?b",
    "[ab]",
    "{a,b}",
    "~",
    "a\\b",
    "\udcff",
]


def fill(folder: Path, *names: str) -> str:
    """Write files that each hold their own name, and return the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return str(folder)


def write(path: Path, content: bytes | str | pa.Table) -> str:
    if isinstance(content, pa.Table):
        with path.open("wb") as file:  # pyarrow does not take every name
            pq.write_table(content, file)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def tar(path: Path, *members: str | tarfile.TarInfo, mode: str = "w") -> str:
    """Write a tar whose files each hold their own name."""
    with tarfile.open(path, mode) as archive:
        for each in members:
            info = tarfile.TarInfo(each) if isinstance(each, str) else each
            content = os.fsencode(info.name)
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def find(*locations: str | Path, **options) -> list[dict]:
    table = find_photos([str(each) for each in locations], PhotosConfig(**options))
    assert table.schema == PHOTO_LISTING
    rows = table.to_pylist()
    for column in ("image_id", "uri"):  # what tells photos apart
        assert len({row[column] for row in rows}) == len(rows)
    return rows


def ids(*locations: str | Path, **options) -> list[str]:
    rows = find(*locations, **options)
    assert [row["problem"] for row in rows] == [None] * len(rows)
    return [row["image_id"] for row in rows]


def contents(*locations: str | Path, **options) -> list[str]:
    return [os.fsdecode(storage.read_bytes(row["uri"])) for row in find(*locations, **options)]


def problems(*locations: str | Path, **options) -> list[tuple[str, str]]:
    return [(row["image_id"], row["problem"]) for row in find(*locations, **options) if row["problem"] is not None]


def test_a_folder_gives_its_photos_by_their_paths_in_it(tmp_path):
    names = ["A.JPG", "b.webp", "c.avif", "d.HeiC", "sub/deep/e.jpeg", "x.jpg/f.png"]
    fill(tmp_path, *names, "notes.txt", "jpg", "a.jpg.part", "sub/g.tar", ".h.jpg", ".git/i.jpg", "sub/.j.png")
    assert ids(tmp_path) == ids(f"{tmp_path}/") == ids(f"file://{tmp_path}") == names
    assert contents(tmp_path) == contents(f"file://{tmp_path}") == names
    assert sorted(ids(tmp_path, hidden=True)) == sorted([*names, ".h.jpg", ".git/i.jpg", "sub/.j.png"])
    assert ids(tmp_path / ".git") == ["i.jpg"]
    assert ids(f"{tmp_path}/*.jpg", hidden=True) == [".h.jpg"]
    assert [row["uri"] for row in find(tmp_path)] == [f"{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_listed_and_read(name, tmp_path, monkeypatch):
    photo = f"{name}.jpg"
    names = [photo, f"{name}/{photo}"]
    folder = Path(fill(tmp_path / name, *names))
    escaped = [locations.as_utf8(each) for each in names]
    monkeypatch.chdir(folder)
    for given in (folder, f"file://{quote(os.fsencode(folder))}"):
        assert ids(given) == escaped
        assert contents(given) == names
    assert ids(photo, folder / names[1]) == [find(folder / each)[0]["uri"] for each in names]
    assert contents(photo, folder / names[1]) == names
    assert contents("*.jpg") == names[:1]
    listing = write(tmp_path / "list.lst", b"\0".join(os.fsencode(folder / each) for each in names))
    assert contents(listing) == names


@pytest.mark.parametrize("name", ODD_NAMES)
def test_containers_may_have_any_name(name, tmp_path):
    folder = Path(fill(tmp_path / name, "a.jpg"))
    table = pa.table({"image": [b"1"], "path": ["a.jpg"]})
    given = [tar(folder / f"{name}.tar", "b.jpg"), write(folder / f"{name}.parquet", table)]
    for location in given:
        (row,) = find(location)
        assert storage.read_bytes(row["container"]) == Path(location).read_bytes()
    assert contents(write(folder / f"{name}.txt", "a.jpg")) == ["a.jpg"]
    assert problems(write(folder / f"{name}.csv", "path\n\n''\n ,"), write(folder / f"{name}.jsonl", "{"))
    assert problems(write(folder / f"{name}.tar", "no tar"), write(folder / f"{name}.parquet", "no Parquet"))


def test_links_to_folders_are_followed_and_each_photo_comes_once_under_its_real_name(tmp_path):
    fill(tmp_path / "there", "z/a.jpg", "z/b/c.jpg")
    fill(tmp_path / "elsewhere", "d.jpg", "e/f.jpg")
    (tmp_path / "there/a link").symlink_to("z")
    (tmp_path / "there/z/loop").symlink_to("..")
    (tmp_path / "there/z/loop too").symlink_to(tmp_path / "there")
    (tmp_path / "there/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "there/two").symlink_to("../elsewhere")
    assert ids(tmp_path / "there") == ["z/a.jpg", "z/b/c.jpg", "one/d.jpg", "one/e/f.jpg"]
    assert ids(f"{tmp_path}/there/**/*.jpg") == ids(tmp_path / "there")
    assert ids(tmp_path / "there/a link") == ["a.jpg", "b/c.jpg", "loop/one/d.jpg", "loop/one/e/f.jpg"]


def test_links_and_pipes_are_listed_whatever_they_are(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "same.jpg").symlink_to("a.jpg")
    everything = ["a.jpg", "dangling.jpg", "pipe.jpg", "same.jpg"]
    assert ids(tmp_path) == ids(f"{tmp_path}/*") == ids(*map(tmp_path.joinpath, everything)) == everything


def test_a_link_to_itself_does_not_stop_the_rest(tmp_path):
    fill(tmp_path, "a.jpg", "z.jpg")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    assert ids(tmp_path) == ["a.jpg", "b.jpg", "z.jpg"]


def test_a_list_that_is_no_file_is_an_input_error(tmp_path):
    (tmp_path / "list.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "list.csv")
    for name in ("list.txt", "list.csv"):
        with pytest.raises(InputError, match=name):
            find(tmp_path / name)


@pytest.mark.parametrize("given", ["{folder}", "{folder}/**/*.jpg", "{folder}/sub/../*/*.jpg"])
def test_a_folder_that_may_not_be_read_is_a_problem(given, tmp_path, monkeypatch):
    fill(tmp_path, "a/a.jpg", "locked/b.jpg", "z/z.jpg")
    scandir = os.scandir

    def locked(path):
        if path.rstrip("/").endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    rows = find(given.format(folder=tmp_path))
    assert [row["image_id"] for row in rows] == ["a/a.jpg", "locked", "z/z.jpg"]
    assert [bool(row["problem"] and "cannot be listed" in row["problem"]) for row in rows] == [False, True, False]
    assert [bool(problem) for _, problem in problems(tmp_path / "locked")] == [True]


GLOBBED = ["1.jpg", "2.png", "a/3.jpg", "a/b/4.jpg", "c d/5.jpg", "e/6.JPG", "[x]/7.jpg", "x/8.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["1.jpg"]),
        ("*", ["1.jpg", "2.png"]),
        ("?.{png,jpg}", ["1.jpg", "2.png"]),
        ("[13-9].*", ["1.jpg"]),
        ("[!1].*", ["2.png"]),
        ("*/*.jpg", ["[x]/7.jpg", "a/3.jpg", "c d/5.jpg", "x/8.jpg"]),
        ("**/*.jpg", ["1.jpg", "[x]/7.jpg", "a/3.jpg", "a/b/4.jpg", "c d/5.jpg", "x/8.jpg"]),
        ("**", GLOBBED),
        ("a/**", ["3.jpg", "b/4.jpg"]),
        ("a/**/*.jpg", ["3.jpg", "b/4.jpg"]),
        ("{a,x}/*.jpg", ["a/3.jpg", "x/8.jpg"]),
        ("{1,3}.jpg", ["1.jpg"]),
        ("{1.jpg,a/3.jpg}", ["1.jpg", "a/3.jpg"]),
        ("c d/*", ["5.jpg"]),
        ("*/6.[Jj][Pp][Gg]", ["e/6.JPG"]),
        ("[x]", ["7.jpg"]),
        ("[x]/*.jpg", ["7.jpg"]),
        ("[[]x]/*.jpg", ["[x]/7.jpg"]),
        (".h/*.jpg", ["9.jpg"]),
        (".*/*.jpg", [".h/9.jpg"]),
    ],
)
@pytest.mark.parametrize("kind", ["relative", "absolute", "uri"])
def test_globs(pattern, expected, kind, tmp_path, monkeypatch):
    fill(tmp_path, *GLOBBED, ".h/9.jpg")
    monkeypatch.chdir(tmp_path)
    if kind == "uri":  # where ? would begin a query
        pattern = pattern.replace(" ", "%20").replace("?", "[!x]")
    start = {"relative": "", "absolute": f"{tmp_path}/", "uri": f"file://{tmp_path}/"}[kind]
    assert sorted(ids(start + pattern)) == sorted(expected)


def test_a_glob_of_containers_gives_what_they_hold(tmp_path):
    for shard in ("s-0", "s-1"):
        tar(tmp_path / f"{shard}.tar", "a.jpg", f"{shard}.jpg")
        write(tmp_path / f"{shard}.parquet", pa.table({"image": [b"1", b"2"]}))
    members = [f"s-{shard}.tar/{name}.jpg" for shard in (0, 1) for name in ("a", f"s-{shard}")]
    assert ids(f"{tmp_path}/s-*.tar") == members
    rows = [f"s-{shard}.parquet/s-{shard}.parquet#{row}" for shard in (0, 1) for row in (0, 1)]
    assert ids(f"{tmp_path}/*.parquet") == rows
    assert ids(f"{tmp_path}/s-{{0,1}}.{{tar,parquet}}") == [*rows[:2], *members[:2], *rows[2:], *members[2:]]
    colliding = find(f"{tmp_path}/s-0.tar", f"{tmp_path}/s-1.tar")
    uris = [f"{tmp_path}/s-{shard}.tar#a.jpg" for shard in (0, 1)]
    assert [row["image_id"] for row in colliding] == [uris[0], "s-0.jpg", uris[1], "s-1.jpg"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a.jpg\nsub/b.png\n", ["a.jpg", "sub/b.png"]),
        (b"\xef\xbb\xbfa.jpg\r\n\r\n \nsub/b.png", ["a.jpg", "sub/b.png"]),
        (b"a.jpg\0\0new\nline.jpg\0sub/b.png\0", ["a.jpg", "new\nline.jpg", "sub/b.png"]),
        (b"{here}/a.jpg\nfile://{here}/sub/b.png\nnone", ["a.jpg", "sub/b.png", None]),
        (b"sub/b.png\na.jpg\na.jpg\nsub/b.png\n", ["sub/b.png", "a.jpg"]),
        (b"./a.jpg\na.jpg\n.//sub/./b.png\n", ["a.jpg", "sub/b.png"]),
        (b"\xff.jpg\n100%.jpg\n file.jpg \n", ["\udcff.jpg", "100%.jpg", " file.jpg "]),
        (b"file://{here}/%FF.jpg\n", ["\udcff.jpg"]),
    ],
)
@pytest.mark.parametrize("kind", ["list.txt", "list.lst", "-", "uri"])
def test_lists_of_paths(content, expected, kind, tmp_path, monkeypatch):
    fill(tmp_path, "a.jpg", "sub/b.png", "new\nline.jpg", "\udcff.jpg", "100%.jpg", " file.jpg ")
    content = content.replace(b"{here}", os.fsencode(tmp_path))
    given = kind
    if kind == "-":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        monkeypatch.chdir(tmp_path)
    else:
        given = write(tmp_path / ("l.txt" if kind == "uri" else kind), content)
    rows = find(f"file://{given}" if kind == "uri" else given)
    there = [row["uri"] for row in rows if storage.exists(row["uri"])]
    assert [os.fsdecode(storage.read_bytes(uri)) for uri in there] == [name for name in expected if name]
    assert len(rows) == len(expected)


def test_a_photo_is_one_however_its_path_goes(tmp_path):
    fill(tmp_path, "a.jpg", "sub/b.png")
    location = write(tmp_path / "list.txt", f"sub/../a.jpg\na.jpg\n../{tmp_path.name}/sub/b.png\n")
    assert [row["uri"] for row in find(location)] == [f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b.png"]


TABLES = {
    "t.csv": "caption,path\none,a.jpg\ntwo,sub/b.png\n",
    "crlf.csv": '\ufeffcaption,path\r\n"on\r\ne",a.jpg\r\ntwo,"sub/b.png"\r\n',
    "separators.csv": "caption,path\non\u2028e\x0b\x0c\x85\x1c,a.jpg\ntwo,sub/b.png\n",
    "T.TSV": "path\tcaption\na.jpg\tone, or so\nsub/b.png\ttwo\n",
    "t.jsonl": '{"path": "a.jpg", "caption": "on\u2028e"}\n\n{"path": "sub/b.png"}\n',
    "t.ndjson": '\ufeff{"path": "a.jpg"}\r\n{"path": "sub/b.png"}',
    "t.parquet": pa.table({"caption": ["one", "two"], "path": ["a.jpg", "sub/b.png"]}),
    "large.parquet": pa.table({"path": pa.array(["a.jpg", "sub/b.png"], pa.large_string())}),
    "categories.parquet": pa.table({"path": pa.array(["a.jpg", "sub/b.png"]).dictionary_encode()}),
    "name.with.dots.parquet": pa.table({"path": ["a.jpg", "sub/b.png"], "path.bytes": [b"", b""]}),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_name_photos(name, tmp_path):
    fill(tmp_path, "a.jpg", "sub/b.png")
    location = write(tmp_path / name, TABLES[name])
    assert ids(location) == ids(f"file://{location}") == ["a.jpg", "sub/b.png"]
    assert contents(location) == contents(f"file://{location}") == ["a.jpg", "sub/b.png"]


ROW_CASES = ["csv", "wide csv", "open tsv", "open csv", "jsonl", "jsonl at once", "deep jsonl", "half a character"]
ROW_CASES += ["parquet", "parquet of nulls"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "path,n\na.jpg,1\n,2\n  ,3\nb.jpg\n", [None, "no path", "no path", None]),
        ("t.csv", f"path,caption\na.jpg,{'x' * 200_000}\nb.jpg,x\n", [None, None]),
        ("t.tsv", 'path\tcaption\na.jpg\t"open\nb.jpg\tx\nc.jpg\t"shut\nd.jpg\tx\n', ["lines 2 to 4 are lost", None]),
        ("t.csv", 'path,caption\na.jpg,x\nb.jpg,"open\nc.jpg,x\n', [None, "lines 3 to 4 are lost"]),
        (
            "t.jsonl",
            '{"path": "a.jpg"}\n{"path":\n[1]\n{"path": 3}\n{"x": 1}',
            [None, "not JSON", "not a JSON object", *["no path"] * 2],
        ),
        ("t.jsonl", '{"caption": "x"}\n{"path": "a.jpg"}\n', ["no path", None]),
        ("t.jsonl", f'{{"path": "a.jpg"}}\n{"[" * 100_000}\n', [None, "not JSON"]),
        ("t.jsonl", '{"path": "a.jpg"}\n{"path": "\\ud800.jpg"}\n', [None, None]),
        ("t.parquet", pa.table({"path": ["a.jpg", None, " "]}), [None, "no path", "no path"]),
        ("t.parquet", pa.table({"path": pa.array([None, None], pa.string())}), ["no path", "no path"]),
    ],
    ids=ROW_CASES,
)
def test_rows_without_a_path_become_problems(name, content, expected, tmp_path):
    rows = find(write(tmp_path / name, content))
    assert len(rows) == len(expected)
    for row, problem in zip(rows, expected, strict=True):
        assert (problem or "") in (row["problem"] or "")
        assert (row["problem"] is None) is (problem is None)
        assert problem is None or row["image_id"].startswith(f"{tmp_path}/{name}")


def test_captions_that_a_shell_gives_beside_their_photos_are_no_lists(tmp_path):
    fill(tmp_path, "a.jpg", "b.png")
    for name in ("a.txt", "b.png.txt"):
        write(tmp_path / name, "a dog runs\n")
    write(tmp_path / "list.txt", "b.png\nsub/c.jpg\n")
    assert ids(*sorted(tmp_path.iterdir())) == ["a.jpg", "b.png", "sub/c.jpg"]
    assert ids(tmp_path / "a.txt") == ["a dog runs"]  # nothing says that it is one


@pytest.mark.parametrize("pattern", ["in it/*/my photo*.jpg", "in%20it/*/my%20photo*.jpg", "**/my photo*"])
def test_a_uris_spaces_may_be_escaped_or_not(pattern, tmp_path):
    fill(tmp_path, "in it/x/my photo 1.jpg", "in it/x/other.jpg")
    [row] = find(f"file://{tmp_path}/{pattern}")
    assert row["uri"] == f"file://{tmp_path}/in%20it/x/my%20photo%201.jpg"
    assert contents(f"file://{tmp_path}/{pattern}") == ["in it/x/my photo 1.jpg"]
    assert ids(row["uri"]) == ids(row["uri"].replace("%20", " ")) == ["my photo 1.jpg"]


def test_a_glob_may_stand_for_thousands_of_names(tmp_path):
    fill(tmp_path, "00003.jpg", "01999.jpg", "02000.jpg")
    assert ids(f"{tmp_path}/{{00000..01999}}.jpg") == ["00003.jpg", "01999.jpg"]
    with pytest.raises(InputError, match=r"jpg cannot be used: .*limit"):
        find(f"{tmp_path}/{{0..999999}}.jpg")


def test_members_of_a_tar_far_away_are_not_asked_for_one_by_one(tmp_path, monkeypatch):
    location = tar(tmp_path / "t.tar", *(f"{number}.jpg" for number in range(300)))
    near = find(location)
    reads = []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            reads.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(photo_sources, "is_local", lambda _: False)
    monkeypatch.setattr(photo_sources, "open_input", lambda _: Counted(location))
    assert find(location) == near
    assert len(near) == 300
    assert len(reads) < 5


def image_struct(*paths: str | None) -> pa.Array:
    fields = [("bytes", pa.binary()), ("path", pa.string())]
    return pa.array([{"bytes": b"1", "path": path} for path in paths], pa.struct(fields))


@pytest.mark.parametrize(
    ("columns", "options", "column", "expected"),
    [
        ({"jpg": [b"1", b"2"]}, {}, "jpg", ["t.parquet#0", "t.parquet#1"]),
        ({"image": pa.array([b"1", None], pa.large_binary())}, {}, "image", ["t.parquet#0", "t.parquet#1"]),
        ({"image": [b"1", b"2"], "image_id": [0, 7]}, {}, "image", ["0", "7"]),
        ({"image": [b"1", b"2"], "image_id": ["x", None]}, {}, "image", ["x", "t.parquet#1"]),
        ({"image": [b"1", b"2"], "key": ["x", "\u00e9"]}, {"id_column": "key"}, "image", ["x", "\u00e9"]),
        ({"image": image_struct("x.jpg", None)}, {}, "image.bytes", ["x.jpg", "t.parquet#1"]),
        ({"image": image_struct("x.jpg", "x.jpg")}, {}, "image.bytes", ["{t}#0", "{t}#1"]),
        ({"image": image_struct("x.jpg", "y"), "image_id": ["1", "2"]}, {}, "image.bytes", ["1", "2"]),
        ({"url": ["x.jpg", "y.jpg"], "bytes": [b"1", b"2"]}, {}, "bytes", ["t.parquet#0", "t.parquet#1"]),
        ({"url": ["x.jpg", "y.jpg"], "bytes": [b"1", b"2"]}, {"image_column": "url"}, None, ["x.jpg", "y.jpg"]),
        (
            {"image": [b"1", b"2"], "mask": [b"3", b"4"]},
            {"image_column": "mask"},
            "mask",
            ["t.parquet#0", "t.parquet#1"],
        ),
        ({"path": ["x.jpg", "y.jpg"], "image_id": [0, None]}, {}, None, ["0", "y.jpg"]),
        ({"path": ["x.jpg", "y.jpg"]}, {"id_column": "path"}, None, ["x.jpg", "y.jpg"]),
        ({"weird": ["x.jpg", "y.jpg"], "path": ["1", "2"]}, {"image_column": "weird"}, None, ["x.jpg", "y.jpg"]),
    ],
)
def test_parquet_files(columns, options, column, expected, tmp_path):
    location = write(tmp_path / "t.parquet", pa.table(columns))
    rows = find(location, **options)
    assert [row["image_id"] for row in rows] == [each.format(t=location) for each in expected]
    assert [row["column"] for row in rows] == [column] * 2
    assert [row["position"] for row in rows] == ([0, 1] if column else [None] * 2)
    assert [row["container"] for row in rows] == [location if column else None] * 2


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.csv", "name,text\na.jpg,x\n", {}, "has no column of a usual name for photos; it has name, text"),
        ("t.csv", "path,x\na.jpg,x\n", {"image_column": "file"}, "no column file; it has path, x.* --image-column"),
        ("t.csv", "path,x\na.jpg,x\n", {"id_column": "key"}, "has no column key; it has path, x"),
        ("t.jsonl", '{"a": "a.jpg"}', {}, "has no column of a usual name for photos; it has a"),
        ("t.parquet", pa.table({"a": ["a.jpg"]}), {}, "has no column of a usual name for photos; it has a"),
        ("t.parquet", pa.table({"path": ["a.jpg"]}), {"id_column": "key"}, "has no column key; it has path"),
        (
            "t.parquet",
            pa.table({"image": [[1, 2]]}),
            {},
            "column image of .* is list<.*> *; a path, or bytes, is needed",
        ),
        ("t.csv", "", {}, "there are no photos in .*t.csv"),
        ("t.csv", "path\n", {}, "there are no photos in .*t.csv"),
        ("t.txt", "\n \n", {}, "there are no photos in .*t.txt"),
        ("t.parquet", pa.table({"image": pa.array([], pa.binary())}), {}, "there are no photos in .*t.parquet"),
        ("t.tgz", gzip.compress(b""), {}, "t.tgz is compressed, so .* decompress it"),
        ("t.TAR.GZ", gzip.compress(b""), {}, "is compressed"),
        ("t.tar.zst", b"", {}, "is compressed"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(name, content, options, message, tmp_path):
    for location in (write(tmp_path / name, content), f"{tmp_path}/*{name}"):
        with pytest.raises(InputError, match=message) as error:
            find(location, **options)
        assert str(tmp_path) in str(error.value)


def test_a_tar_gives_its_photos_and_where_their_bytes_are(tmp_path):
    link, hard, folder = tarfile.TarInfo("link.jpg"), tarfile.TarInfo("hard.jpg"), tarfile.TarInfo("folder.jpg")
    link.type, hard.type, folder.type = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
    link.linkname = hard.linkname = "b.jpg"
    long = f"{'long/' * 60}name.JPG"
    others = ["b.txt", "b.json", "b.cls", link, hard, folder]
    names = ["b.jpg", "sub/deep/c d.png", "é#1.webp", "\udcff.jpg", long]
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "t.tar", "w", format=format_) as archive:
            for each in [*names, *others]:
                info = tarfile.TarInfo(each) if isinstance(each, str) else each
                info.size = len(os.fsencode(info.name)) if info.isreg() else 0
                archive.addfile(info, io.BytesIO(os.fsencode(info.name)))
        rows = find(tmp_path / "t.tar")
        assert [row["image_id"] for row in rows] == [locations.as_utf8(name) for name in names]
        assert [row["uri"] for row in rows] == [f"{tmp_path}/t.tar#{row['image_id']}" for row in rows]
        whole = (tmp_path / "t.tar").read_bytes()
        assert [whole[row["position"] :][: row["num_bytes"]] for row in rows] == [os.fsencode(name) for name in names]


def test_of_two_members_of_one_name_the_later_counts_as_tar_has_it(tmp_path):
    tar(tmp_path / "t.tar", "a.jpg", "b.jpg")
    tar(tmp_path / "t.tar", "a.jpg", mode="a")
    rows = find(tmp_path / "t.tar")
    assert [row["image_id"] for row in rows] == ["a.jpg", "b.jpg"]
    with tarfile.open(tmp_path / "t.tar") as archive:
        assert rows[0]["position"] == archive.getmember("a.jpg").offset_data > rows[1]["position"]


@pytest.mark.parametrize(
    ("cut", "photos", "problem"),
    [
        (lambda whole: whole[:1540], ["a.jpg", "b.jpg"], "unexpected end of data"),  # in b's bytes
        (lambda whole: whole[:1300], ["a.jpg"], "truncated header"),
        (lambda whole: whole[:1024] + b"garbage " * 64 + whole[1536:], ["a.jpg"], "header"),
        (lambda whole: b"garbage " * 64 + whole[512:], [], "header"),
        (lambda whole: whole[:100], [], "truncated header"),
        (lambda _: b"", [], "empty"),
        (gzip.compress, [], "header"),
    ],
    ids=["in bytes", "in a header", "damaged header", "no tar", "stump", "empty", "gzip"],
)
def test_a_damaged_tar_gives_what_comes_before_the_damage_and_a_problem(cut, photos, problem, tmp_path):
    whole = Path(tar(tmp_path / "t.tar", "a.jpg", "b.jpg", "c.jpg")).read_bytes()
    rows = find(write(tmp_path / "t.tar", cut(whole)))
    assert [row["image_id"] for row in rows] == [*photos, "t.tar"]
    assert [row["problem"] for row in rows[:-1]] == [None] * len(photos)
    assert rows[-1]["problem"] is not None
    assert "not a whole tar file: " in rows[-1]["problem"]
    assert problem in rows[-1]["problem"]


def test_a_tar_whose_end_is_not_marked_is_whole(tmp_path):
    whole = Path(tar(tmp_path / "t.tar", "a.jpg", "b.jpg")).read_bytes()
    assert ids(write(tmp_path / "t.tar", whole[:2048])) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_damaged_parquet_file_is_a_problem(size, tmp_path):
    whole = Path(write(tmp_path / "t.parquet", pa.table({"image": [b"1", b"2"]}))).read_bytes()
    ((name, problem),) = problems(write(tmp_path / "t.parquet", whole[:size]))
    assert name == "t.parquet"
    assert "not a whole Parquet file" in problem


def test_ids_are_whole_uris_where_names_would_be_two_photos(tmp_path):
    one, two = fill(tmp_path / "one", "a.jpg", "b.jpg"), fill(tmp_path / "two", "a.jpg", "c.jpg")
    assert ids(one, two) == [f"{one}/a.jpg", "b.jpg", f"{two}/a.jpg", "c.jpg"]
    assert ids(one, f"{one}/a.jpg", f"{one}/../one", one, f"{tmp_path}/o*/*") == ["a.jpg", "b.jpg"]
    table = write(tmp_path / "t.csv", "path,image_id\none/a.jpg,same\ntwo/a.jpg,same\none/b.jpg,7\n,8\n")
    assert [row["image_id"] for row in find(table)] == [f"{one}/a.jpg", f"{two}/a.jpg", "7", f"{table}:4"]


@pytest.mark.parametrize(
    ("locations", "message"),
    [
        (["absent.jpg"], "no photo or folder at .*/absent.jpg"),
        (["file:///absent/a.jpg?region=x"], r"no photo or folder at file:///absent/a.jpg\?region=x"),
        (["file:///absent/a.jpg"], "no photo or folder at file:///absent/a.jpg"),
        (["absent/*.jpg"], r"no file matches .*/absent/\*.jpg"),
        (["empty/*"], "no file matches"),
        (["empty"], r"there are no photos in empty, no file that ends in \.jpg \.jpeg"),
        (["a\0b.jpg"], "no photo or folder at"),
        (["\udcff.jpg"], r"no photo or folder at .*\\xff\.jpg"),
        (["nowhere://a/b.jpg"], "cannot use 'nowhere://a/b.jpg'"),
        (["photos", "absent"], "no photo or folder at .*/absent"),
    ],
)
def test_what_is_not_there_is_an_input_error(locations, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find(*locations)


@pytest.mark.parametrize("inside", ["", "sub/"])
@pytest.mark.parametrize("uri", [False, True], ids=["path", "uri"])
@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_folder_of_containers_is_told_how_to_be_read(suffix, uri, inside, tmp_path):
    folder = tmp_path / "my shards" / inside
    folder.mkdir(parents=True)
    tar(folder / "s.tar", "a.jpg") if suffix == ".tar" else write(folder / "s.parquet", pa.table({"image": [b"1"]}))
    given = locations.join(f"file://{tmp_path}", "my shards") if uri else f"{tmp_path}/my shards"
    with pytest.raises(InputError, match=rf"to read the \{suffix} files there, give '.*'") as error:
        find(given)
    assert len(ids(str(error.value).split("'")[-2])) == 1  # as it says


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket?{query}", ["a b.jpg", "sub/c.jpg"]),
        ("s3://bucket/*.jpg?{query}", ["a b.jpg"]),
        ("s3://bucket/a%20b.jpg?{query}", ["a b.jpg"]),
        ("s3://bucket/l.txt?{query}", ["a b.jpg", "sub/c.jpg"]),
        ("s3://bucket/t.tar?{query}", ["t.jpg"]),
    ],
)
def test_a_uris_query_stays_with_every_photo(given, expected, tmp_path, monkeypatch):
    query = "region=x&endpoint_override=127.0.0.1:9000"
    fill(tmp_path / "bucket", "a b.jpg", "sub/c.jpg", "notes.md")
    write(tmp_path / "bucket/l.txt", "a b.jpg\nsub/c.jpg\n")
    tar(tmp_path / "bucket/t.tar", "t.jpg")
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # stands in for the store of that address

    def resolve(location):
        path, _, given_query = location.removeprefix("s3://").partition("?")
        assert given_query == query
        return store, os.fsdecode(unquote_to_bytes(path))

    monkeypatch.setattr(storage, "resolve", resolve)
    rows = find(given.format(query=query))
    assert [row["image_id"] for row in rows] == expected
    for row in rows:
        assert storage.exists(row["container"] or row["uri"])


def test_lines_of_json_keep_their_ids(tmp_path):
    rows = [{"path": "a.jpg", "image_id": 0}, {"path": "b.jpg", "image_id": ""}, {"path": "c.jpg", "image_id": "é"}]
    location = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert ids(location) == ["0", "b.jpg", "é"]
    assert ids(location, id_column="path") == ["a.jpg", "b.jpg", "c.jpg"]
