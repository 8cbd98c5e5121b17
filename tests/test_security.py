"""What docs/security.md promises: strangers' bundles, photos, lists and names run no code and write nowhere else."""

import ast
import dataclasses
import io
import json
import os
import pickle  # noqa: TID251  # what attackers write
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import CARD, write_shard

from raycap import cli, storage
from raycap.caption_files import CaptionFile
from raycap.caption_formats import export
from raycap.config import LimitsConfig
from raycap.diagram import model_svg
from raycap.errors import DatasetError, FormatError, ImageMissingError, InputError, WeightsError
from raycap.features import FeatureSet
from raycap.input_sizes import input_size
from raycap.parquet import open_parquet, read_table, write_table
from raycap.photo_reader import Address, read_photos
from raycap.photo_sources import find_photos
from raycap.progress import printable, say
from raycap.saved_models import check_config, read_config
from raycap.schema import PHOTO_LISTING
from raycap.shards import ShardedOutput
from raycap.sidecars import Sidecars, delete_written_sidecars

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("raycap/**/*.py"), *ROOT.glob("jobs/*.py")])
LOCKS = ("requirements.lock", "requirements-gpu.lock")


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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
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


# ---- bundles and saved encoders from strangers cannot run code


def layer(kind: str, module: str | None = "keras.layers", registered: str | None = None, **config) -> dict:
    return {"class_name": kind, "module": module, "registered_name": registered, "config": config}


def in_a_model(each: object, **more) -> dict:
    photo = layer("InputLayer", batch_shape=[None, 32, 32, 3], dtype="float32", name="photo")
    functional = layer("Functional", "keras.src.models.functional", "Functional", name="m", layers=[photo, each])
    return functional | more


def function(name: str, module: str | None, registered: str | None = None) -> dict:
    return {"class_name": "function", "config": name, "module": module, "registered_name": registered or name}


HARMLESS = [
    layer("Dense", units=1, activation=function("gelu", "builtins")),
    layer("Dense", units=1, kernel_initializer=layer("GlorotUniform", "keras.initializers")),
    layer("Add", "keras.src.ops.numpy", "Add"),
    layer("LayerScale", "keras.src.applications.convnext", "LayerScale"),
    layer("DTypePolicy", "keras", name="float32"),
    {"class_name": "__keras_tensor__", "config": {"shape": [None, 4], "keras_history": ["photo", 0, 0]}},
]
HARMFUL = [
    layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}),
    layer("Lambda", "keras.src.layers.core.lambda_layer", "Lambda", function="f"),
    layer("TFSMLayer", filepath="/tmp/evil", call_endpoint="serve"),
    layer("TorchModuleWrapper", module="gANj"),
    layer("JaxLayer"),
    layer("FlaxLayer"),
    layer("system", "os", command="true"),
    layer("Popen", "subprocess", args=["true"]),
    layer("Evil", "evil_package", "evil_package>Evil"),
    layer("Evil", None, "Custom>Evil"),
    layer("Dense", "keras.layers", "Custom>Evil", units=1),
    layer("Dense", None, units=1),
    layer("Evil", "keras_hub.src.evil"),
    layer("Evil", "kerasevil.layers"),
    layer("Evil", "keras.src.utils.torch_utils"),
    layer("Sequence", "keras.utils"),
    layer("Dense", units=1, activation=function("system", "os")),
    layer("Dense", units=1, activation=function("get_file", "keras.utils")),
    layer("Dense", units=1, activation=function("heap_dump", "keras.src.utils.debugging")),
    layer("Dense", units=1, activation=function("relu", "keras.activations", "Custom>relu")),
    layer("Dense", units=1, activation={"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}),
    layer("Dense", units=1, activation={"class_name": "__typespec__", "module": "os", "spec_name": "x", "config": []}),
    layer("TimeDistributed", layer=layer("Bidirectional", layer=layer("Lambda", function="f"))),
    {"class_name": 3, "module": "keras.layers", "config": {}},
    {"class_name": ["Dense"], "module": ["keras.layers"], "config": {}},
    {"class_name": "function", "module": "builtins", "config": {"class_name": "x"}},
]


@pytest.mark.parametrize("each", HARMLESS, ids=lambda each: each["class_name"])
def test_keras_own_layers_pass(each):
    check_config(in_a_model(each))


@pytest.mark.parametrize("each", HARMFUL, ids=lambda each: str(each["class_name"]))
def test_anything_else_in_a_saved_model_is_refused_before_keras_sees_it(each):
    for config in (in_a_model(each), each, [each], {"config": {"deep": [[{"x": each}]]}}):
        with pytest.raises(ValueError, match="only Keras' own layers and operations are loaded"):
            check_config(config)


def test_how_a_model_was_compiled_is_not_loaded_and_does_not_count():
    check_config(in_a_model(HARMLESS[0], compile_config={"loss": function("my_loss", "my_module")}))
    with pytest.raises(ValueError, match="my_module"):
        check_config(in_a_model(in_a_model(HARMLESS[0], compile_config={"loss": function("my_loss", "my_module")})))


def saved(members: dict[str, bytes | str], **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


WHOLE = {"metadata.json": "{}", "config.json": json.dumps(in_a_model(HARMLESS[0])), "model.weights.h5": b"\x89HDF"}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "../../../../tmp/x",
        "/etc/x",
        "assets/x",
        "assets/../../x",
        "model.weights.npz",
        "a\nb",
        "C:\\x",
        "x" * 999,
    ],
)
def test_a_saved_model_holds_no_file_that_could_be_written_elsewhere_or_be_a_pickle(name):
    assert read_config(saved(WHOLE))["class_name"] == "Functional"
    with pytest.raises(ValueError, match=r"it holds .*; only config\.json, metadata\.json, model\.weights\.h5 may be"):
        read_config(saved(WHOLE | {name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_saved_model_is_no_bomb(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("config.json", "w", force_zip64=True) as file:
            for _ in range(65):
                file.write(b" " * 2**20)
        archive.writestr("model.weights.h5", b"")
    bombs = [buffer.getvalue(), saved(WHOLE | {"config.json": "[" * 100_000})]
    weights = io.BytesIO()
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", WHOLE["config.json"])
        with archive.open("model.weights.h5", "w", force_zip64=True) as file:
            for _ in range(300):
                file.write(bytes(2**20))
    bombs.append(weights.getvalue())
    twice = io.BytesIO(saved(WHOLE))
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("config.json", json.dumps(HARMFUL[0]))
    bombs.append(twice.getvalue())
    for each in bombs:
        with pytest.raises(ValueError, match=r"would unpack to|a file twice|not a whole saved Keras model"):
            read_config(each)
        (tmp_path / "e.keras").write_bytes(each)
        with pytest.raises(WeightsError):
            input_size(str(tmp_path / "e.keras"))


def replace_config(path: Path, change) -> None:
    """Rewrite the configuration of a saved model."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    path.write_bytes(saved(members | {"config.json": json.dumps(change(config))}))


def evil_lambda(folder: Path):
    """A layer that makes a folder when it is called, or loaded."""
    import keras

    text = str(folder)
    return keras.layers.Lambda(lambda x: (os.mkdir(text), x)[1])


def test_a_bundle_with_code_in_it_is_refused(tmp_path, trap):
    import keras
    from test_model import bundle

    from raycap.model import Bundle

    bundle().save(str(tmp_path / "b"))
    Bundle.load(str(tmp_path / "b"))
    path = tmp_path / "b/model.keras"
    whole = path.read_bytes()
    photo = keras.Input((12,))
    keras.Model(photo, evil_lambda(tmp_path / "made at saving")(photo)).save(path)
    with pytest.raises(FormatError, match=r"model\.keras cannot be loaded: it holds"):
        Bundle.load(str(tmp_path / "b"))
    for each in (*HARMFUL, {"class_name": "Dense"}, {}, [], None, 3):
        path.write_bytes(whole)
        replace_config(path, lambda _, each=each: in_a_model(each) if each in HARMFUL else each)
        with pytest.raises(FormatError, match=r"model\.keras cannot be loaded"):
            Bundle.load(str(tmp_path / "b"))
    path.write_bytes(whole)
    Bundle.load(str(tmp_path / "b"))


def test_keras_safe_mode_refuses_the_same_layer_where_the_list_would_not(tmp_path, monkeypatch):
    """The second lock: even a layer that the list let pass would not run."""
    import keras
    from test_model import bundle

    from raycap import saved_models
    from raycap.model import Bundle

    bundle().save(str(tmp_path))
    photo = keras.Input((12,))
    keras.Model(photo, evil_lambda(tmp_path / "made at saving")(photo)).save(tmp_path / "model.keras")
    monkeypatch.setattr(saved_models, "check_config", lambda _: None)
    (tmp_path / "made at saving").rmdir()
    with pytest.raises(FormatError, match=r"model\.keras cannot be loaded"):
        Bundle.load(str(tmp_path))
    assert not (tmp_path / "made at saving").exists()


def test_an_encoder_that_a_bundle_names_cannot_run_code(tmp_path, trap):
    import keras

    from raycap.encoder import load_encoder, reload_encoder

    photo = keras.Input((32, 32, 3))
    flat = keras.layers.Flatten()(keras.layers.AveragePooling2D(16)(photo))
    path = tmp_path / "e.keras"
    keras.Model(photo, evil_lambda(tmp_path / "made at saving")(flat)).save(path)
    card = dataclasses.replace(CARD, weights=str(path), height_px=32, width_px=32, dim=12)
    for load in (lambda: load_encoder(str(path)), lambda: reload_encoder(card)):
        with pytest.raises(WeightsError, match=r"e\.keras cannot be loaded as a saved Keras model: it holds"):
            load()
    (tmp_path / "w.h5").write_bytes(pickle.dumps(Trap(trap)))
    named = dataclasses.replace(CARD, name="mobilenetv2", weights=str(tmp_path / "w.h5"), preprocessing="mobilenet_v2")
    with pytest.raises(WeightsError, match="does not hold the weights"):
        reload_encoder(named)
    for name in ("os.system", "../x", "keras.utils.get_file", "get_file", "__class__"):
        with pytest.raises(InputError, match="there is no encoder"):
            reload_encoder(dataclasses.replace(CARD, name=name, preprocessing="os"))


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


# ---- captions and names cannot steer a terminal, or forge HTML; for CSV see test_caption_formats.py

STEERING = "a\x1b[2J\x9b31m\x07\x08\x7f\r\x85\u202egpj.\u2066\u2028b\ud800"


def steers(text: str) -> list[str]:
    """The characters of a text that a terminal would obey, other than ends of lines and tabs."""
    return [each for each in text if each not in "\n\t" and (not each.isprintable() and each != "\u200d")]


def row(**changes) -> dict:
    shown = {"image_id": STEERING, "uri": f"/p/{STEERING}", "caption": STEERING, "log_prob": -1.5, "num_tokens": 2}
    return shown | {"width": 1, "height": 1, "error_type": None, "error_message": None} | changes


def test_text_is_escaped_and_people_can_still_read_it():
    assert printable("a\x1b[31mb\nc\td\x9b") == r"a\x1b[31mb\nc\td\x9b"
    assert steers(printable(STEERING)) == []
    for fine in ("é狗 😀", "שלום", "👩\u200d🚀", r"C:\new", "it's"):
        assert printable(fine) == fine


@pytest.mark.parametrize("switch", ["", "RAYCAP_JSON"])
def test_names_and_captions_cannot_steer_a_terminal_or_forge_a_line(switch, capsys, monkeypatch):
    if switch:
        monkeypatch.setenv(switch, "1")
    two_lines = "x.jpg\tforged\t0.0\ny.jpg\tforged\t0.0"
    failed = row(image_id=two_lines, error_type="ImageMissingError", error_message=f"no {two_lines} {STEERING}")
    for each in (row(), row(image_id=two_lines, caption=two_lines), failed):
        cli._show_caption(each)
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert steers(text) == []
        assert text.count("\n") == 1
        assert text.count("\t") == (0 if switch or each is failed else 2)
        if switch:  # what a program reads is exact
            assert json.loads(printed.out)["image_id"] == each["image_id"]


def test_errors_and_messages_cannot_steer_a_terminal(capsys, tmp_path):
    assert cli.main(["caption", str(tmp_path / STEERING.replace("\ud800", "")), "--model", str(tmp_path)]) == 2
    assert cli.main([STEERING]) == 2
    say(f"epoch 1\n{STEERING}")
    printed = capsys.readouterr()
    assert steers(printed.out + printed.err) == []
    assert "epoch 1\n" in printed.err


def test_everything_is_printed_in_one_place():
    """So that nothing goes around the escaping: print is called by progress alone."""
    found = {
        str(path.relative_to(ROOT)): sum(
            isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "sys.stdout.write", "sys.stderr.write"}
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
        )
        for path in SOURCES
    }
    assert {name: count for name, count in found.items() if count} == {"raycap/progress.py": 3}


class Operation:
    """As much of a Keras operation as the drawing asks for."""

    def __init__(self, name: str) -> None:
        self.name, self._inbound_nodes, self.output = name, [], np.zeros(1)


def test_a_drawing_escapes_the_names_in_it():
    class Model:
        name = '<script>alert("1")</script>'
        operations = (Operation("</text><script>x</script>&\"'"),)

        def count_params(self):
            return 1

    drawn = ElementTree.fromstring(model_svg(Model()))
    assert {each.tag.rpartition("}")[2] for each in drawn.iter()} <= {
        "svg",
        "defs",
        "marker",
        "path",
        "rect",
        "text",
        "g",
    }
    assert drawn.get("aria-label") == '<script>alert("1")</script>, 1 parameters'


# ---- nothing listens beyond loopback unless told to


LISTEN = """
import os, sys
import psutil, ray
from raycap.cluster import connect
connect()
ray.get(ray.remote(lambda: None).options(num_cpus=1).remote())
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
for process in processes:
    for each in process.net_connections("inet"):
        if each.status == psutil.CONN_LISTEN or (each.type == 2 and not each.raddr):
            print("LISTENS", each.laddr.ip, process.name())
print("NODE", ray.util.get_node_ip_address())
"""


@pytest.mark.parametrize("verbose", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["", "with a dashboard"])
def test_a_ray_of_our_own_listens_on_loopback_alone(verbose):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory() as folder:  # with a short name, as sockets need one
        environment |= {"RAYCAP_VERBOSE": verbose, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", LISTEN]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listening = {tuple(line.split()[1:3]) for line in done.stdout.splitlines() if line.startswith("LISTENS")}
    assert {name for _, name in listening} >= {"gcs_server", "raylet"}
    assert {ip.removeprefix("::ffff:") for ip, _ in listening} <= {"127.0.0.1", "::1"}, listening


# ---- dependencies are audited


@pytest.mark.parametrize("name", LOCKS)
def test_dependencies_are_pinned_by_hash(name):
    lock = (ROOT / name).read_text("utf-8")
    pins = re.split(r"\n(?=[a-z0-9])", lock)
    assert all("--hash=sha256:" in each for each in pins if "==" in each)
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", lock)


def test_dependencies_are_audited():
    recipe = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"^check-all: check audit\b", recipe, re.MULTILINE)
    audit = recipe.partition("\naudit:")[2].partition("\n\n")[0]
    # strict: what could not be looked up is an error, and not passed over
    for option in ("--strict", "--require-hashes", "--disable-pip", *(f"-r {name}" for name in LOCKS)):
        assert option in audit.split("||")[0]
    assert "exit 1" in audit
