import os
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from pyarrow import fs

from raycap import locations, parquet, storage
from raycap.errors import InputError
from raycap.photo_sources import find_photos
from raycap.schema import PHOTO_LISTING
from raycap.sidecars import BESIDE, SidecarCounts, Sidecars, delete_written_sidecars


def listing(*uris: str, ids: tuple[str, ...] | None = None, container: str | None = None) -> pa.Table:
    rows = [
        {"image_id": image_id, "uri": uri, "container": container}
        for image_id, uri in zip(ids or uris, uris, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PHOTO_LISTING)


def place(where: str, *uris: str, **options) -> list[str]:
    places = Sidecars(out="/out", where=where).place(listing(*uris, **options))
    assert len(set(places)) == len(uris)
    assert not set(places) & set(uris)
    return places


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (["/p/a.jpg", "/p/b.c.PNG"], ["/p/a.txt", "/p/b.c.txt"]),
        (["/p/a.jpg", "/p/a.png", "/p/b.jpg"], ["/p/a.jpg.txt", "/p/a.png.txt", "/p/b.txt"]),
        (["/p/a.jpg", "/q/a.jpg"], ["/p/a.txt", "/q/a.txt"]),
        (["/p/a.txt", "/p/b.jpg"], ["/p/a.txt.txt", "/p/b.txt"]),
        (["/p/a.jpg", "/p/a.txt"], ["/p/a.jpg.txt", "/p/a.txt.txt"]),
        (["/p/a", "/p/.b", "/p.q/c"], ["/p/a.txt", "/p/.b.txt", "/p.q/c.txt"]),
        (["/p/a?b.jpg", "/p/c#d.jpg", "/p/100%.jpg"], ["/p/a?b.txt", "/p/c#d.txt", "/p/100%.txt"]),
        (["/p/new\nline é.jpg", "file:///p/%FF.jpg"], ["/p/new\nline é.txt", "file:///p/%FF.txt"]),
        (["s3://b/a.jpg", "s3://b/a.png"], ["s3://b/a.jpg.txt", "s3://b/a.png.txt"]),
        (["s3://b/a.jpg?region=x&e=1.2:9"], ["s3://b/a.txt?region=x&e=1.2:9"]),
        (["s3://b/a.jpg?e=1.2:9", "s3://b/a.png?e=1.2:9"], ["s3://b/a.jpg.txt?e=1.2:9", "s3://b/a.png.txt?e=1.2:9"]),
    ],
)
def test_places_beside_photos(uris, expected):
    assert place(BESIDE, *uris) == expected


@pytest.mark.parametrize(
    "uris",
    [
        ["/p/a.jpg", "/p/a.png", "/p/a.jpg.gif"],  # the last one's short name is the first one's long name
        ["/p/a.jpg", "/p/a.png", "/p/a.jpg.gif", "/p/a.jpg.gif.bmp", "/p/a.png.txt", "/p/a.txt"],
        ["/p/a.txt", "/p/a.txt.txt"],
        ["/p/a.txt", "/p/a.txt.txt", "/p/a.txt.txt.txt", "/p/a.jpg"],
    ],
)
def test_no_two_photos_have_one_place_and_no_photo_is_one(uris):
    for where in (BESIDE, "/p"):
        ids = tuple(uri.removeprefix("/p/") for uri in uris)
        places = place(where, *uris, ids=ids)
        assert all(os.path.dirname(each) == "/p" and each.endswith(".txt") for each in places)
        assert place(where, *reversed(uris), ids=tuple(reversed(ids))) == places[::-1]


@pytest.mark.parametrize(
    ("image_id", "expected"),
    [
        ("a.jpg", "a.txt"),
        ("sub/deep/a b.jpg", "sub/deep/a b.txt"),
        ("./sub//a.jpg", "sub/a.txt"),
        ("../a.jpg", "%2E%2E/a.txt"),
        ("sub/../../a.jpg", "sub/%2E%2E/%2E%2E/a.txt"),
        ("/etc/a.jpg", "etc/a.txt"),
        ("//etc/a.jpg", "etc/a.txt"),
        ("~/a.jpg", "~/a.txt"),
        ("s3://b/sub/a.jpg", "s3/b/sub/a.txt"),
        ("file:///p/%FF.jpg", "file/p/%FF.txt"),
        ("/p/t.tar#sub/a.jpg", "p/t.tar#sub/a.txt"),
        ("t.parquet#7", "t.txt"),
        ("7", "7.txt"),
    ],
)
@pytest.mark.parametrize("container", [None, "/p/t.tar"])
def test_places_in_a_folder_mirror_the_ids_and_never_leave_it(image_id, expected, container):
    for where, there in (("/mirror", expected), ("s3://b/m", quote(expected))):
        assert place(where, "/p/a.jpg", ids=(image_id,), container=container) == [f"{where}/{there}"]


def test_a_mirrors_query_stays_at_the_end():
    assert place("s3://b/m?e=1.2:9", "/p/a b.jpg", ids=("a b.jpg",)) == ["s3://b/m/a%20b.txt?e=1.2:9"]
    both = place("s3://b/m?e=1.2:9", "/p/a.jpg", "/p/a.png", ids=("a.jpg", "a.png"))
    assert both == ["s3://b/m/a.jpg.txt?e=1.2:9", "s3://b/m/a.png.txt?e=1.2:9"]


def test_rows_of_a_parquet_file_have_a_place_each():
    ids = tuple(f"t.parquet#{row}" for row in range(3))
    places = place("/mirror", *(f"/p/{each}" for each in ids), ids=ids, container="/p/t.parquet")
    assert places == [f"/mirror/t.parquet#{row}.txt" for row in range(3)]


def test_there_is_no_place_beside_a_photo_in_a_container():
    with pytest.raises(InputError, match=r"no place beside /p/t.tar#a.jpg; give a folder: --sidecars FOLDER"):
        place(BESIDE, "/p/t.tar#a.jpg", container="/p/t.tar")


NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
CAPTIONS = [f"a caption of {name} 狗" for name in NAMES]


class Output:
    """A folder of photos and an output with two shards of captions of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.out = root, root / "photos", str(root / "out")
        self.folder.mkdir()
        for name in NAMES:
            (self.folder / name).write_bytes(b"")
        self.photos = find_photos([str(self.folder)])
        self.uris = self.photos["uri"].to_pylist()
        self.captions = locations.join(self.out, "captions")
        for shard in (0, 1):
            rows = {"image_id": NAMES, "uri": self.uris, "caption": CAPTIONS}
            table = pa.table(rows).slice(2 * shard, 2)
            parquet.write_table(locations.join(self.captions, f"part-{shard}.parquet"), table)

    def sidecars(self, where: str = BESIDE, **options) -> Sidecars:
        return Sidecars(out=self.out, where=where, **options)

    def write(self, shard: int, sidecars: Sidecars | None = None) -> None:
        sidecars, part = sidecars or self.sidecars(), slice(2 * shard, 2 * shard + 2)
        places = sidecars.place(self.photos)
        sidecars.write(f"part-{shard}.parquet", self.uris[part], places[part], CAPTIONS[part])

    def catch_up(self, sidecars: Sidecars | None = None, photos: pa.Table | None = None) -> SidecarCounts:
        sidecars, photos = sidecars or self.sidecars(), self.photos if photos is None else photos
        sidecars.catch_up(self.captions, photos, sidecars.place(photos))
        return sidecars.counts()

    def texts(self, folder: Path | None = None) -> dict[str, str]:
        files = (path for path in (folder or self.folder).rglob("*") if path.is_file())
        texts = (path for path in files if path.suffix not in {".jpg", ".parquet"})
        return {path.name: path.read_text("utf-8") for path in sorted(texts)}


ALL = {f"{name[0]}.txt": f"{caption}\n" for name, caption in zip(NAMES, CAPTIONS, strict=True)}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path)


@pytest.mark.parametrize("where", [BESIDE, "{root}/new/mirror", "file://{root}/a%20b", "{root}/out/sidecars"])
def test_written_sidecars_hold_the_captions_and_go_away_again(where, output):
    sidecars = output.sidecars(where.format(root=output.root))
    folder = output.folder if where == BESIDE else output.root / where.rpartition("}/")[2].replace("%20", " ")
    assert sidecars.counts() == SidecarCounts()
    for shard in (0, 1, 0):
        output.write(shard, sidecars)
    assert output.texts(folder) == ALL
    assert sidecars.counts() == SidecarCounts(written=4)
    delete_written_sidecars(output.out)
    assert output.texts(folder) == {}
    assert sidecars.counts() == SidecarCounts()
    delete_written_sidecars(output.out)  # nothing happens


def test_a_persons_file_is_kept_and_counted_until_it_may_be_replaced(output):
    (output.folder / "a.txt").write_bytes(b"by a person \xff")
    output.write(0)
    assert output.sidecars().counts() == SidecarCounts(written=1, kept=1)
    assert (output.folder / "a.txt").read_bytes() == b"by a person \xff"
    assert output.catch_up() == SidecarCounts(written=3, kept=1)
    assert output.catch_up(output.sidecars(overwrite=True)) == SidecarCounts(written=4)
    assert output.texts() == ALL


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_overwriting_replaces_a_sidecar_that_a_person_changed(overwrite, output):
    output.catch_up()
    (output.folder / "b.txt").write_text("changed since")
    output.catch_up(output.sidecars(overwrite=overwrite))
    assert output.texts() == (ALL if overwrite else ALL | {"b.txt": "changed since"})


def test_only_our_sidecars_go_away_and_only_if_unchanged(output):
    (output.folder / "a.txt").write_text("by a person")
    assert output.catch_up() == SidecarCounts(written=3, kept=1)
    (output.folder / "b.txt").write_text("changed since")
    (output.folder / "c.txt").unlink()
    (output.folder / "c.txt").mkdir()
    (output.folder / "e.txt").write_text("of no photo")
    delete_written_sidecars(output.out)
    assert output.texts() == {"a.txt": "by a person", "b.txt": "changed since", "e.txt": "of no photo"}
    assert (output.folder / "c.txt").is_dir()
    assert storage.list_files(output.captions) == ["part-0.parquet", "part-1.parquet"]


def test_a_photo_of_another_listing_keeps_its_place(output):
    ours = output.sidecars()
    [first] = ours.place(listing("/p/x/a.jpg"))
    ours.write("part-1.parquet", ["/p/x/a.jpg"], [first], ["a dog"])
    assert ours.place(listing("/p/x/a.jpg")) == [first]
    assert ours.place(listing("/p/x/a.png")) == ["/p/x/a.png.txt"]


def test_sidecars_in_two_places_are_two_records(output):
    mirror = output.sidecars(str(output.root / "mirror"))
    assert output.catch_up() == output.catch_up(mirror) == SidecarCounts(written=4)
    assert output.texts() == output.texts(output.root / "mirror") == ALL
    delete_written_sidecars(output.out)
    assert output.texts() == output.texts(output.root / "mirror") == {}


def test_a_run_that_was_killed_is_caught_up_with(output, monkeypatch):
    def killed(source, target):
        if target.endswith("d.txt"):
            raise KeyboardInterrupt
        rename(source, target)

    rename = os.replace
    output.write(0)
    before = (output.folder / "a.txt").stat().st_mtime_ns
    monkeypatch.setattr(storage.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        output.write(1)
    monkeypatch.undo()
    assert list(output.texts()) == ["a.txt", "b.txt", "c.txt"]
    assert output.sidecars().counts() == SidecarCounts(written=2)
    assert output.catch_up() == SidecarCounts(written=4)
    assert output.texts() == ALL
    assert (output.folder / "a.txt").stat().st_mtime_ns == before
    delete_written_sidecars(output.out)
    assert output.texts() == {}


@pytest.mark.parametrize("copied", [False, True])
def test_what_a_kill_left_on_an_object_store_goes_away(copied, output, monkeypatch):
    """A store copies what is uploaded to its name, then removes the upload; killed before the one or the other."""
    store = fs.SubTreeFileSystem(str(output.root), fs.LocalFileSystem())  # not local, as far as raycap can see
    folder = output.root / "mirror"
    folder.mkdir()

    class Killed:
        open_output_stream, get_file_info = store.open_output_stream, store.get_file_info

        def move(self, source, target):
            if copied:
                store.copy_file(source, target)
            raise KeyboardInterrupt

        def delete_file(self, _):
            raise OSError("nobody is there to do it")

    def resolved(store):
        return lambda uri: (store, uri.removeprefix("store://")) if uri.startswith("store://") else resolve(uri)

    resolve = storage.resolve
    mirror = output.sidecars("store://mirror")
    monkeypatch.setattr(storage, "resolve", resolved(Killed()))
    with pytest.raises(KeyboardInterrupt):
        output.write(0, mirror)
    assert len(list(folder.iterdir())) == 1 + copied
    monkeypatch.setattr(storage, "resolve", resolved(store))
    assert output.catch_up(mirror) == SidecarCounts(written=4)
    assert output.texts(folder) == ALL


def test_captions_of_other_photos_are_left_alone(output):
    three = output.photos.slice(0, 3)
    assert output.catch_up(photos=three) == SidecarCounts(written=2)  # the record of a shard has all of it or none
    assert output.texts() == {name: text for name, text in ALL.items() if name != "d.txt"}
    assert output.catch_up() == SidecarCounts(written=4)
    assert output.texts() == ALL


def test_nothing_is_recorded_of_a_shard_that_cannot_be_written(output):
    (output.folder / "b.txt").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*/b\.txt: .*; --sidecars FOLDER writes them elsewhere"):
        output.write(0)
    assert output.sidecars().counts() == SidecarCounts()
    (output.root / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*/file/a\.txt: File exists"):
        output.write(0, output.sidecars(str(output.root / "file")))
