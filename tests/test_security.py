"""What docs/security.md promises: strangers' bundles, photos, lists and names run no code and write nowhere else."""

import ast
import io
import os
import pickle  # noqa: TID251  # what attackers write
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import write_shard

from raycap import storage
from raycap.caption_files import CaptionFile
from raycap.config import LimitsConfig
from raycap.errors import DatasetError, FormatError, ImageMissingError
from raycap.exports import export
from raycap.features import FeatureSet
from raycap.photo_reader import Address, read_photos
from raycap.photo_sources import find_photos
from raycap.schema import PHOTO_LISTING
from raycap.shards import ShardedOutput
from raycap.sidecars import Sidecars, delete_written_sidecars
from raycap.storage import open_parquet, read_table, write_table

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("raycap/*.py"), *ROOT.glob("jobs/*.py")])


class Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def trap(tmp_path):
    """A folder that code of a stranger makes, if it is run."""
    folder = tmp_path / "code was run"
    yield folder
    assert not folder.exists()


# ---- no pickle is loaded from storage


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_unpickles_and_every_model_is_loaded_in_safe_mode(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch", "yaml"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = ast.unparse(node.func)
            options = {each.arg: ast.unparse(each.value) for each in node.keywords}
            assert called not in {"eval", "exec", "pd.read_pickle", "np.frombuffer.loads"}
            if called.endswith(("np.load", "numpy.load")):
                assert options["allow_pickle"] == "False"
            if called.endswith("load_model"):
                assert (options["safe_mode"], options["compile"]) == ("True", "False")


def with_pickles(location: Path, name: str, columns: dict, *, inside: str = "", metadata: dict | None = None) -> str:
    """Write a Parquet file whose column `name`, or its field `inside`, is one that Ray Data unpickles."""
    column = pa.array([pickle.dumps(Trap(location.parent / "code was run"))], pa.large_binary())
    unpickled = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    field = pa.field(inside or name, pa.large_binary(), metadata=unpickled)
    if inside:
        column = pa.StructArray.from_arrays([column], fields=[field])
        field = pa.field(name, column.type)
    table = pa.table(columns)
    schema = pa.schema([*table.schema, field], metadata=metadata)
    pq.write_table(pa.Table.from_arrays([*table.columns, column], schema=schema), location)
    return str(location)


def test_a_column_of_pickles_is_refused_by_every_reader(tmp_path, trap):
    import ray.data  # noqa: F401  # registers the type, in the driver and in every task that reads photos

    ids = with_pickles(tmp_path / "ids.parquet", "image_id", {"path": ["a.jpg"], "uri": ["a.jpg"], "caption": ["a"]})
    photos = with_pickles(tmp_path / "photos.parquet", "image", {"caption": ["a dog"]}, inside="bytes")
    assert pq.read_schema(ids).field("image_id").type.extension_name == "ray.data.arrow_pickled_object"  # it is armed
    for location in (ids, photos):
        [row] = find_photos([location]).to_pylist()
        assert re.search("column .* is of a Python type, which could run code", row["problem"])
        with pytest.raises(FormatError, match="is of a Python type, which could run code"):
            read_table(location)
        with pytest.raises(DatasetError, match="is of a Python type, which could run code"):
            list(CaptionFile.open(location, ("image_id", "caption", "split")).records("parquet"))
    [error] = read_photos([Address("x", container=photos, column="image.bytes", position=0)], LimitsConfig())
    assert isinstance(error, ImageMissingError)
    (tmp_path / "out/captions").mkdir(parents=True)
    with_pickles(tmp_path / "out/captions/part-0.parquet", "uri", {"image_id": ["a"]})
    with pytest.raises((FormatError, pa.ArrowInvalid), match="is of a Python type"):
        export(str(tmp_path / "out/captions"), str(tmp_path / "out"), "csv", pa.table({"uri": ["a"]}))
    write_shard(tmp_path / "features", "part-0.parquet", ["a"], [[1, 2, 3, 4]])
    card = pq.read_schema(tmp_path / "features/part-0.parquet").metadata
    features = read_table(str(tmp_path / "features/part-0.parquet"))
    pickled = {"feature": features["feature"]}
    with_pickles(tmp_path / "features/part-0.parquet", "image_id", pickled, metadata=card)
    with pytest.raises(FormatError, match=r"part-0\.parquet.* is of a Python type"):
        FeatureSet.open(str(tmp_path))
    assert not list(tmp_path.rglob("code was run"))


def test_columns_of_rays_tensors_beside_the_photos_do_no_harm(tmp_path):
    from ray.data.extensions import ArrowTensorArray

    embeddings = ArrowTensorArray.from_numpy(np.zeros((2, 3), np.float32))
    write_table(str(tmp_path / "p.parquet"), pa.table({"path": ["a.jpg", "b.jpg"], "embedding": embeddings}))
    photos = find_photos([str(tmp_path / "p.parquet")])
    assert (photos["image_id"].to_pylist(), photos["problem"].null_count) == (["a.jpg", "b.jpg"], 2)


def test_a_registered_type_with_metadata_that_is_a_pickle_is_refused(tmp_path, trap):
    import ray.data  # noqa: F401

    metadata = {
        b"ARROW:extension:name": b"ray.data.arrow_tensor",
        b"ARROW:extension:metadata": pickle.dumps(Trap(trap)),
    }
    schema = pa.schema([pa.field("path", pa.list_(pa.int64()), metadata=metadata)])
    pq.write_table(pa.Table.from_arrays([pa.array([[1]])], schema=schema), tmp_path / "p.parquet")
    with pytest.raises(pa.ArrowInvalid), open_parquet(str(tmp_path / "p.parquet")):
        pass
    assert find_photos([str(tmp_path / "p.parquet")])["problem"].null_count == 0


# ---- paths in a list or tar cannot write outside the output folder

NAMES = [
    *("../a.jpg", "../../../../../../tmp/a.jpg", "/etc/a.jpg", "//a.jpg", "sub/../../a.jpg", "~/a.jpg", "~root/a.jpg"),
    *("..", ".", "...jpg", "a/..", "a/../..", "%2e%2e/a.jpg", "%2E%2E/b.jpg", "..%2fa.jpg", "..\\a.jpg", "a\nb.jpg"),
    *("file:///etc/a.jpg", "s3://b/../a.jpg", "$HOME/a.jpg", "`id`.jpg", "a;b.jpg", "-rf.jpg", "a\u202egpj.exe.jpg"),
    *("nul\0byte.jpg", "\x1b[31m.jpg", "C:\\a.jpg", "con.jpg", " .jpg", "a?endpoint=x.jpg", "a#b.jpg"),
]


def listing(names: list[str]) -> pa.Table:
    rows = [{"image_id": name, "uri": f"/nowhere/{number}.jpg"} for number, name in enumerate(names)]
    return pa.Table.from_pylist(rows, PHOTO_LISTING)


def outside(root: Path, inside: Path) -> list[Path]:
    """The files under `root` that are not under `inside`."""
    return [path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(inside)]


@pytest.mark.parametrize("uri", [False, True], ids=["path", "uri"])
def test_names_cannot_write_outside_the_output(uri, tmp_path):
    out = tmp_path / "deep/deeper/out"
    location = f"file://{out}" if uri else str(out)
    photos = listing(NAMES)
    table = photos.append_column("error_type", pa.array([None, "E"] * (len(photos) // 2) + [None] * (len(photos) % 2)))
    table = table.append_column("error_message", table["error_type"]).append_column("caption", photos["image_id"])
    ShardedOutput(out=location, folder="captions", stage="caption").write(table, columns=["image_id", "uri", "caption"])
    sidecars = Sidecars(out=location, where=f"{location}/txt")
    places = sidecars.place(photos)
    sidecars.write("part-0.parquet", photos["uri"].to_pylist(), places, ["a caption"] * len(photos))
    export(f"{location}/captions", location, "csv", photos)
    assert outside(tmp_path, out) == []
    assert len(list((out / "txt").rglob("*.txt"))) == len(NAMES)
    delete_written_sidecars(location)
    assert list((out / "txt").rglob("*.txt")) == []


def test_members_of_a_tar_are_read_in_place_and_never_unpacked(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for number, name in enumerate(["../../x.jpg", "/etc/x.jpg", "link.jpg", "hard.jpg", "device.jpg"]):
            member = tarfile.TarInfo(name)
            member.size = 3 if number < 2 else 0
            member.type = [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE][number]
            member.linkname = "/etc/passwd"
            archive.addfile(member, io.BytesIO(b"abc"[: member.size]))
    before = sorted(tmp_path.rglob("*"))
    photos = find_photos([str(tmp_path / "t.tar")])
    assert photos["image_id"].to_pylist() == ["../../x.jpg", "/etc/x.jpg"]  # links and devices are no photos
    places = Sidecars(out=str(tmp_path / "out"), where=str(tmp_path / "txt")).place(photos)
    assert places == [f"{tmp_path}/txt/%2E%2E/%2E%2E/x.txt", f"{tmp_path}/txt/etc/x.txt"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_the_photo_folder_is_not_written_through(tmp_path):
    """Beside strangers' photos there may be links, even under the name that a .txt file has until it is whole."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    (folder / "b.jpg").write_bytes(b"")
    storage.write_small_text(str(tmp_path / "probe/a.txt"), "x")
    for name in ("a.txt", "b.txt"):
        hidden = storage._TEMPORARY_PREFIX + storage.hashlib.sha256(name.encode()).hexdigest()[:32]
        (folder / hidden).symlink_to(mine)
    (folder / "b.txt").symlink_to(tmp_path / "not there")
    photos = find_photos([str(folder)])
    for overwrite in (False, True):
        sidecars = Sidecars(out=str(tmp_path / "out"), where="beside", overwrite=overwrite)
        sidecars.write("part-0.parquet", photos["uri"].to_pylist(), sidecars.place(photos), ["a dog", "a cat"])
        assert mine.read_text() == "precious"
        assert not (tmp_path / "not there").exists()
        assert [(folder / name).read_text() for name in ("a.txt", "b.txt")] == ["a dog\n", "a cat\n"]
        assert not (folder / "a.txt").is_symlink()


def test_starting_over_deletes_nothing_but_txt_files(tmp_path):
    """A stranger's output may hold a record that says any file is ours."""
    for name in ("id_rsa", "notes.txt"):
        (tmp_path / name).write_text("known\n")
    out = str(tmp_path / "out")
    sidecars = Sidecars(out=out, where="beside")
    places = [str(tmp_path / "id_rsa"), str(tmp_path / "id_rsa?x=.txt")]
    rows = {"uri": ["u", "u"], "sidecar": places, "caption": ["known"] * 2, "written": [True] * 2}
    write_table(f"{sidecars.record}/part-0.parquet", pa.table(rows))
    delete_written_sidecars(out)
    assert (tmp_path / "id_rsa").exists()
