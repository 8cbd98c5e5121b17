"""`import raycap`: what is there, that it is lazy, and that type checkers see it."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import fs

import raycap
from raycap import parquet, readers, storage
from raycap.config import CaptionConfig, DecodingConfig, LimitsConfig
from raycap.errors import (
    FormatError,
    ImageDecodeError,
    ImageFeatureError,
    ImageMissingError,
    ImageShapeError,
    ImageTimeoutError,
    ImageTooLargeError,
    InputError,
)
from raycap.photo_sources import find_photos

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def captioner(model: Path) -> "raycap.Captioner":
    return raycap.Captioner.load(model)


@pytest.fixture(scope="module")
def captioned(model: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the bulk job makes of the photos, and of one that is none."""
    out = tmp_path_factory.mktemp("api") / "captions"
    broken = out.parent / "broken.jpg"
    broken.write_bytes(b"no photo")
    decoding = DecodingConfig(num_captions=2, mirrored=True)
    photos = (str(photo_folder), str(broken))
    raycap.caption(CaptionConfig(photos=photos, model=str(model), out=str(out), decoding=decoding))
    return out


def python(script: str, *, cwd: Path = ROOT) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the module


def test_importing_raycap_loads_nothing_else() -> None:
    others = "{'ray', 'tensorflow', 'keras', 'pyarrow', 'numpy', 'PIL', 'tyro'}"
    assert python(f"import raycap, sys; print(*({others} & sys.modules.keys()))").split() == []


def test_captioning_loads_no_ray(model: Path, photo_folder: Path) -> None:
    photo = str(sorted(photo_folder.iterdir())[0])
    script = f"""
import raycap, sys
print(raycap.Captioner.load({str(model)!r}).caption({photo!r}).caption)
assert 'ray' not in sys.modules
"""
    assert "red square" in python(script)


def test_every_name_is_there_and_none_is_missing() -> None:
    assert [name for name in raycap.__all__ if not hasattr(raycap, name)] == []
    assert set(raycap.__all__) <= set(dir(raycap))
    assert all(getattr(raycap, name).__doc__ for name in raycap.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'captions'"):
        _ = raycap.captions
    with pytest.raises(ImportError):
        from raycap import nothing  # noqa: F401


def test_type_checkers_see_the_same_names() -> None:
    [block] = [node for node in ast.parse((ROOT / "raycap/__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(raycap.__all__)
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert {raycap._module_of(alias.name) for alias in node.names} == {node.module}


@pytest.mark.slow
def test_types_of_what_users_write(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "import raycap\n"
        "captioner = raycap.Captioner.load('m')\n"
        "reveal_type(captioner.caption('a.jpg'))\n"
        "reveal_type(captioner.caption(['a.jpg', b'']))\n"
        "reveal_type(captioner.caption(['a.jpg'], errors='return'))\n"
        "reveal_type(raycap.train(raycap.TrainConfig(prepared='p', features='f', out='o')))\n"
        "raycap.TrainConfig(prepared=1, features='f', out='o')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(tmp_path / "use.py")]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = [line.partition(" ")[2] for line in done.stdout.splitlines() if "use.py" in line]
    assert "PhotoCaption" in found[0]
    assert "list[" in found[1]
    assert "ImageError]" in found[2]
    assert "TrainResult" in found[3]
    assert 'incompatible type "int"' in found[4]


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert "raycap/py.typed" in zipfile.ZipFile(wheel).namelist()


# ---- Captioner.caption


def test_captions_are_those_of_the_bulk_job(captioner: "raycap.Captioner", captioned: Path, photo_folder: Path) -> None:
    rows = {row["image_id"]: row for row in raycap.read_captions(captioned).to_pylist()}
    paths = sorted(photo_folder.iterdir())
    found = captioner.caption(paths, num_captions=2, mirrored=True)
    assert len(found) == len(rows) == 48
    for path, each in zip(paths, found, strict=True):
        row = rows[path.name]
        assert (each.caption, each.num_tokens) == (row["caption"], row["num_tokens"])
        assert each.log_prob == pytest.approx(row["log_prob"], abs=1e-4)
        assert [other.caption for other in each.alternatives] == [other["caption"] for other in row["alternatives"]]


def test_a_photo_and_its_mirrored_twin_are_the_same_where_both_are_seen(
    captioner: "raycap.Captioner", photo_folder: Path
) -> None:
    size = (captioner.decoder.width_px, captioner.decoder.height_px)  # resizing is not symmetric
    pixels = np.asarray(Image.open(min(photo_folder.iterdir())).convert("RGB").resize(size))
    photos = [pixels, np.ascontiguousarray(pixels[:, ::-1])]
    one, other = captioner.caption(photos)
    assert one.log_prob != other.log_prob
    one, other = captioner.caption(photos, mirrored=True)
    assert one.caption == other.caption
    assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_what_is_drawn_at_random_is_what_the_bulk_job_draws(captioner: "raycap.Captioner", photo_folder: Path) -> None:
    """A photo's draws depend on its image_id, which for a file is as the bulk job's listing has it."""
    listing = find_photos([str(photo_folder)])
    uris, image_ids = (listing[name].to_pylist()[:6] for name in ("uri", "image_id"))
    decoding = DecodingConfig(sample=True, temperature=3.0, sample_seed=5)
    pixels = [each.pixels for each in captioner.decoder.decode(Path(uri).read_bytes() for uri in uris)]
    features = captioner.encoder.encode(np.stack(pixels))
    expected = [each.caption for each, *_ in captioner.caption_features(features, decoding, image_ids=image_ids)]
    found = captioner.caption(uris, sample=True, temperature=3.0, sample_seed=5)
    assert [each.caption for each in found] == expected
    assert len(set(expected)) > 4


def test_a_photo_is_the_same_however_it_is_given(captioner: "raycap.Captioner", photo_folder: Path) -> None:
    path = sorted(photo_folder.iterdir())[1]
    with Image.open(path) as image:
        image.load()
        given = [path, str(path), path.as_uri(), path.read_bytes(), image, np.asarray(image)]
        alone = [captioner.caption(each) for each in given]
        together = captioner.caption(given)
        assert image.size == (96, 96)  # it is still open, and still itself
    assert len(set(together)) == len(set(alone)) == 1
    assert alone[0].caption == together[0].caption
    assert isinstance(alone[0], raycap.PhotoCaption)
    grey = np.zeros((40, 50), np.uint8)
    assert [each.caption for each in captioner.caption([grey, np.dstack([grey] * 3), np.dstack([grey] * 4)])] == [
        captioner.caption(grey).caption
    ] * 3
    assert len(captioner.caption(np.stack([np.asarray(image)] * 2))) == 2
    assert captioner.caption([]) == []


def test_bad_photos_raise_their_error_or_are_returned_in_place(
    captioner: "raycap.Captioner", photo_folder: Path, tmp_path: Path
) -> None:
    good = sorted(photo_folder.iterdir())[0]
    with pytest.raises(ImageMissingError, match=r"^gone\.jpg: cannot be read"):
        captioner.caption(tmp_path / "gone.jpg")
    with pytest.raises(ImageDecodeError, match=r"^photo 1: not an image"):
        captioner.caption([good, b"no photo"])
    photos = [good, b"no photo", tmp_path / "gone.jpg", tmp_path, good] * 5  # more than are decoded at once
    found = captioner.caption(photos, errors="return")
    kinds = ["PhotoCaption", "ImageDecodeError", "ImageMissingError", "ImageMissingError", "PhotoCaption"] * 5
    assert [type(each).__name__ for each in found] == kinds
    assert isinstance(captioner.caption(b"no photo", errors="return"), ImageDecodeError)
    for wrong in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), [np.zeros(4, np.uint8)]):
        with pytest.raises(ImageShapeError, match="a photo is"):
            captioner.caption(wrong, errors="return")
    with pytest.raises(InputError, match="--beam-width is 0"):
        captioner.caption(good, beam_width=0)
    with pytest.raises(TypeError, match="not NoneType"):
        captioner.caption([good, None], errors="return")
    with pytest.raises(TypeError, match="beam"):
        captioner.caption(good, beam=3)


def test_a_feature_that_is_no_number_is_that_photos_error_alone(
    captioner: "raycap.Captioner", photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = sorted(photo_folder.iterdir())[:3]
    expected = captioner.caption(photos)
    encode = type(captioner.encoder).encode

    def overflowing(self: Any, images: Any) -> Any:
        found = encode(self, images)
        if len(found) > 1:
            found[1] = np.inf  # as in float16
        return found

    monkeypatch.setattr(type(captioner.encoder), "encode", overflowing)
    found = captioner.caption(photos, errors="return")
    assert [found[0], found[2]] == [expected[0], expected[2]]
    assert isinstance(found[1], ImageFeatureError)
    with pytest.raises(ImageFeatureError, match=rf"^{photos[1].name}: its feature holds what is no number"):
        captioner.caption(photos)


def test_limits_hold(model: Path, photo_folder: Path) -> None:
    photo = sorted(photo_folder.iterdir())[0]
    small = raycap.Captioner.load(model, limits=LimitsConfig(max_pixels=96 * 96 - 1))
    for given in (photo, photo.read_bytes(), Image.new("RGB", (96, 96))):
        with pytest.raises(ImageTooLargeError, match="pixels"):
            small.caption(given)
    light = raycap.Captioner.load(model, limits=LimitsConfig(max_bytes=100))
    with pytest.raises(ImageTooLargeError, match="bytes"):
        light.caption(photo)
    hurried = raycap.Captioner.load(model, limits=LimitsConfig(photo_timeout_s=1e-9))
    with pytest.raises(ImageTimeoutError):
        hurried.caption(photo.read_bytes())


def test_the_encoder_is_loaded_with_the_first_photo(model: Path, encoder_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no saved model at .*gone"):
        raycap.Captioner.load(model, encoder_file=str(tmp_path / "gone.keras")).caption(np.zeros((4, 4), np.uint8))
    captioner = raycap.Captioner.load(model, encoder_file=str(tmp_path / "gone.keras"))
    captions = captioner.caption_features(np.zeros((1, 48), np.float32), DecodingConfig(), image_ids=["a"])
    assert captions[0][0].caption


# ---- readers


def test_readers_read_what_stages_write(prepared: Path, features: Path, captioned: Path) -> None:
    assert raycap.read_manifest(prepared).num_rows == 48
    assert raycap.read_manifest(prepared / "photos.parquet", columns=["split"]).column_names == ["split"]
    assert raycap.read_references(prepared).num_rows == 96
    for location in (features, features / "features", str(features)):
        table = raycap.read_features(location)
        assert table.num_rows == 48
        assert table.schema.field("feature").type.list_size == 48
    assert raycap.read_features(features, columns=["image_id"]).column_names == ["image_id"]
    for location in (captioned, captioned / "captions"):
        assert raycap.read_captions(location, columns=["caption"]).num_rows == 48
    assert raycap.read_failures(captioned)["image_id"].to_pylist() == ["broken.jpg"]
    assert raycap.read_failures(captioned / "failures", columns=["error_type"]).to_pylist() == [
        {"error_type": "ImageDecodeError"}
    ]
    assert raycap.read_failures(features).num_rows == 0
    assert raycap.read_failures(features).schema == readers.FAILURES


def test_readers_take_uris_and_other_stores(captioned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert raycap.read_captions(captioned.as_uri()).num_rows == 48
    store = fs.SubTreeFileSystem(str(captioned.parent), fs.LocalFileSystem())  # not local, as far as raycap can see
    monkeypatch.setattr(storage, "resolve", lambda location: (store, location.removeprefix("s3://")))
    assert raycap.read_captions(f"s3://{captioned.name}").num_rows == 48
    assert raycap.read_failures(f"s3://{captioned.name}").num_rows == 1


def test_hypotheses_with_and_without_newer_columns(tmp_path: Path) -> None:
    parquet.write_table(str(tmp_path / "hypotheses.parquet"), pa.table({"image_id": ["a"], "hypothesis": ["b"]}))
    assert raycap.read_hypotheses(tmp_path).to_pylist() == [{"image_id": "a", "hypothesis": "b"}]
    with pytest.raises(FormatError, match="no column bleu_4"):
        raycap.read_hypotheses(tmp_path, columns=["bleu_4"])


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (readers.read_manifest, "no manifest in .*raycap prepare"),
        (readers.read_references, r"no captions.parquet in .*raycap prepare"),
        (readers.read_hypotheses, "no hypotheses in .*raycap evaluate"),
        (readers.read_features, "no features in .*raycap extract"),
        (readers.read_captions, "no captions in .*raycap caption"),
        (readers.read_failures, "no failures in .*raycap extract or caption"),
    ],
)
def test_what_is_not_there_is_said(read: object, says: str, tmp_path: Path) -> None:
    for location in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=says):
            read(location)  # type: ignore[operator]
