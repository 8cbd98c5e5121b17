"""The extract stage on a real Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_manifest
from PIL import Image

from raycap.config import ExtractConfig, LimitsConfig, WorkersConfig
from raycap.errors import ConflictError, EncoderMismatchError, FormatError, InputError, StaleError, TooManyFailuresError
from raycap.errors import WeightsError as NoWeightsError
from raycap.features import FeatureSet
from raycap.stages import extract as stage
from raycap.stages.extract import extract


def read_features(out: Path) -> dict[str, np.ndarray]:
    return {
        image_id: feature
        for shard in FeatureSet.open(str(out)).iter_shards()
        for image_id, feature in zip(*shard, strict=True)
    }


def expected_feature(path: Path) -> np.ndarray:
    """What the small encoder gives, computed with Pillow and numpy alone."""
    image = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.NEAREST)
    return (np.asarray(image, np.float64) / 127.5 - 1).reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)).reshape(-1)


def test_features_equal_the_encoder_run_photo_by_photo(features: Path, photo_folder: Path) -> None:
    found = read_features(features)
    assert sorted(found) == sorted(path.name for path in photo_folder.iterdir())
    for image_id, feature in found.items():
        np.testing.assert_allclose(feature, expected_feature(photo_folder / image_id), rtol=1e-4, atol=1e-6)


def test_driver_never_imports_tensorflow(photo_folder: Path, encoder_file: Path, tmp_path: Path) -> None:
    """A process of its own, on a Ray of its own."""
    photos = {path.name: path for path in sorted(photo_folder.iterdir())[:2]}
    manifest = make_manifest(tmp_path / "m.parquet", photos)
    code = (
        "import sys; from raycap.stages.extract import extract; from raycap.config import ExtractConfig\n"
        "result = extract(ExtractConfig(manifest=sys.argv[1], out=sys.argv[2], encoder=sys.argv[3]))\n"
        "assert result.num_new == 2\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, manifest, str(tmp_path / "out"), str(encoder_file)], check=True)


def test_card_and_plain_columns(features: Path, encoder_file: Path) -> None:
    shard = next((features / "features").glob("*.parquet"))
    schema = pq.read_schema(shard)
    assert schema.names == ["image_id", "feature"]
    assert schema.field("feature").type == pa.list_(pa.field("item", pa.float32(), nullable=False), 48)
    card = FeatureSet.open(str(features)).card
    assert (card.name, card.weights, card.dim) == ("grid", str(encoder_file), 48)
    assert (card.height_px, card.width_px, card.resize, card.exif_orientation) == (32, 32, "nearest", False)
    assert len(pd.read_parquet(features / "features")) == 48


def test_again_does_no_work(features: Path, prepared: Path, encoder_file: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in features.rglob("*") if path.is_file()}
    config = ExtractConfig(manifest=str(prepared / "photos.parquet"), out=str(features), encoder=str(encoder_file))
    assert extract(config).num_new == 0
    assert {path: path.stat().st_mtime_ns for path in features.rglob("*") if path.is_file()} == before


def test_only_what_is_left_is_done(features: Path, prepared: Path, encoder_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    shutil.copytree(features, out)
    lost = sorted((out / "features").glob("*.parquet"))[0]
    num_lost = pq.read_metadata(lost).num_rows
    kept = {path: path.stat().st_mtime_ns for path in (out / "features").iterdir() if path != lost}
    lost.unlink()
    (out / "features" / ".tmp-00000000000000000000000000000000-half.parquet").write_bytes(b"half")
    config = ExtractConfig(manifest=str(prepared / "photos.parquet"), out=str(out), encoder=str(encoder_file))
    result = extract(config)
    assert (result.num_new, result.num_features) == (num_lost, 48)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list((out / "features").glob(".tmp-*"))
    everything = read_features(out)
    original = read_features(features)
    assert sorted(everything) == sorted(original)
    for image_id, feature in original.items():
        np.testing.assert_array_equal(everything[image_id], feature)


def test_bad_photos_become_failures(ray_cluster: None, photo_folder: Path, encoder_file: Path, tmp_path: Path) -> None:
    good = sorted(photo_folder.iterdir())[0]
    content = good.read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "empty.jpg").touch()
    (bad / "truncated.png").write_bytes(content[: len(content) // 2])
    (bad / "text.jpg").write_text("not a photo")
    (bad / "folder.jpg").mkdir()
    Image.new("L", (3000, 3000)).save(bad / "large.png")
    expected = {
        "empty.jpg": "ImageEmptyError",
        "truncated.png": "ImageDecodeError",
        "text.jpg": "ImageDecodeError",
        "folder.jpg": "ImageMissingError",
        "gone.jpg": "ImageMissingError",
        "large.png": "ImageTooLargeError",
    }
    manifest = make_manifest(tmp_path / "m.parquet", {name: bad / name for name in expected} | {"good": good})
    out = tmp_path / "out"
    config = ExtractConfig(
        manifest=manifest, out=str(out), encoder=str(encoder_file), limits=LimitsConfig(max_pixels=1_000_000)
    )
    result = extract(config)
    assert (result.num_features, result.num_failures) == (1, 6)
    failures = pd.read_parquet(out / "failures")
    assert dict(zip(failures.image_id, failures.error_type, strict=True)) == expected
    assert set(failures.stage) == {"extract"}
    assert all(failures.error_message)
    assert list(read_features(out)) == ["good"]
    assert extract(config).num_new == 0

    (bad / "empty.jpg").write_bytes(content)
    retried = extract(
        ExtractConfig(
            manifest=manifest,
            out=str(out),
            encoder=str(encoder_file),
            limits=LimitsConfig(max_pixels=1_000_000),
            workers=WorkersConfig(retry_failed=True),
        )
    )
    assert (retried.num_new, retried.num_features, retried.num_failures) == (6, 2, 5)


def test_every_photo_failing_is_an_error(ray_cluster: None, encoder_file: Path, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "m.parquet", {f"{n}.jpg": tmp_path / f"{n}.jpg" for n in range(3)})
    with pytest.raises(TooManyFailuresError, match="all 3 photos failed"):
        extract(ExtractConfig(manifest=manifest, out=str(tmp_path / "out"), encoder=str(encoder_file)))


def test_max_failure_rate_ends_the_run(
    ray_cluster: None, photo_folder: Path, encoder_file: Path, tmp_path: Path
) -> None:
    good = sorted(photo_folder.iterdir())[0]
    photos = {f"{n}": good if n % 2 else tmp_path / "gone" for n in range(20)}
    config = ExtractConfig(
        manifest=make_manifest(tmp_path / "m.parquet", photos),
        out=str(tmp_path / "out"),
        encoder=str(encoder_file),
        workers=WorkersConfig(max_failure_rate=0.25),
    )
    with pytest.raises(TooManyFailuresError, match=r"10 of 20 photos failed.*--max-failure-rate"):
        extract(config)


def test_kinds_of_photo(ray_cluster: None, encoder_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = Image.fromarray(rng.integers(0, 255, (50, 70, 3)).astype(np.uint8))
    folder = tmp_path / "photos"
    folder.mkdir()
    base.convert("L").save(folder / "grey.png")
    base.convert("P").save(folder / "palette.png")
    base.convert("RGBA").save(folder / "alpha.png")
    base.convert("CMYK").save(folder / "cmyk.jpg")
    base.save(folder / "UPPER.JPG", format="JPEG")
    base.save(folder / "photo.webp", lossless=True)
    base.save(folder / "animated.gif", save_all=True, append_images=[base.rotate(90)])
    photos = {path.name: path for path in folder.iterdir()}
    config = ExtractConfig(
        manifest=make_manifest(tmp_path / "m.parquet", photos), out=str(tmp_path / "out"), encoder=str(encoder_file)
    )
    assert extract(config).num_failures == 0
    for image_id, feature in read_features(tmp_path / "out").items():
        np.testing.assert_allclose(feature, expected_feature(photos[image_id]), rtol=1e-4, atol=1e-6)


def test_exif_orientation_and_float16_are_options(ray_cluster: None, encoder_file: Path, tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photo = tmp_path / "turned.png"
    Image.fromarray(pixels).save(photo, exif=exif)
    manifest = make_manifest(tmp_path / "m.parquet", {"turned": photo})
    options = {"manifest": manifest, "encoder": str(encoder_file)}
    extract(ExtractConfig(out=str(tmp_path / "plain"), **options))
    extract(ExtractConfig(out=str(tmp_path / "upright"), exif_orientation=True, dtype="float16", **options))
    plain = read_features(tmp_path / "plain")["turned"].reshape(4, 4, 3)
    upright = read_features(tmp_path / "upright")["turned"].reshape(4, 4, 3)
    np.testing.assert_allclose(plain[:, ::-1], upright, atol=1e-3)
    assert FeatureSet.open(str(tmp_path / "upright")).card.exif_orientation
    shard = next((tmp_path / "upright/features").iterdir())
    assert pq.read_schema(shard).field("feature").type.value_type == pa.float16()


def of_one_photo(photo: Path, encoder_file: Path) -> dict[str, str]:
    """Return options to extract a photo, called `noise`, to `out` beside it."""
    manifest = make_manifest(photo.parent / "m.parquet", {"noise": photo})
    return {"manifest": manifest, "encoder": str(encoder_file), "out": str(photo.parent / "out")}


def test_fast_decoding_is_an_option_that_the_card_tells(ray_cluster: None, encoder_file: Path, tmp_path: Path) -> None:
    """The encoder sees the means of 8 x 8 pixels."""
    photo = tmp_path / "noise.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(photo, quality=95, subsampling=0)
    options = of_one_photo(photo, encoder_file)
    extract(ExtractConfig(fast_decode=True, **options))
    small = tmp_path / "small.png"
    Image.open(photo).convert("RGB").reduce(8).save(small)
    found = read_features(tmp_path / "out")["noise"]
    np.testing.assert_allclose(found, expected_feature(small), atol=0.01)
    assert np.abs(found - expected_feature(photo)).max() > 0.05
    assert FeatureSet.open(str(tmp_path / "out")).card.resize == "dct scaling, nearest"
    with pytest.raises(ConflictError, match="fast_decode"):
        extract(ExtractConfig(**options))


def test_the_card_tells_what_the_encoder_computed_in(ray_cluster: None, encoder_file: Path, tmp_path: Path) -> None:
    photo = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(photo)
    options = of_one_photo(photo, encoder_file)
    extract(ExtractConfig(precision="bfloat16", **options))
    found = read_features(tmp_path / "out")["noise"]
    np.testing.assert_allclose(found, expected_feature(photo), atol=0.02)
    assert np.abs(found - expected_feature(photo)).max() > 0
    assert FeatureSet.open(str(tmp_path / "out")).card.precision == "bfloat16"
    with pytest.raises(ConflictError, match="precision"):
        extract(ExtractConfig(**options))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_spatial_features_are_those_of_each_place(
    ray_cluster: None, photo_folder: Path, map_file: Path, tmp_path: Path, dtype: str
) -> None:
    """The map is the small encoder's grid, 4 x 4 places of 3 numbers."""
    photos = {path.name: path for path in sorted(photo_folder.iterdir())[:5]} | {"gone": tmp_path / "gone.jpg"}
    manifest = make_manifest(tmp_path / "m.parquet", photos)
    options = {"manifest": manifest, "encoder": str(map_file), "out": str(tmp_path / "out"), "dtype": dtype}
    options["num_views"] = 3
    result = extract(ExtractConfig(spatial=True, **options))
    assert (result.num_features, result.num_failures) == (5, 1)
    found = read_features(tmp_path / "out")
    assert sorted(found) == sorted(set(photos) - {"gone"})
    tolerance = 1e-3 if dtype == "float16" else 1e-5
    for image_id, feature in found.items():
        assert feature.shape == (16, 3)
        expected = expected_feature(photos[image_id]).reshape(16, 3)
        np.testing.assert_allclose(feature, expected, rtol=tolerance, atol=tolerance)
    card = FeatureSet.open(str(tmp_path / "out")).card
    assert (card.num_regions, card.dim, card.layer) == (16, 3, "input of mean")
    opened = FeatureSet.open(str(tmp_path / "out"))
    assert opened.num_views == 3
    for name in opened.shards:
        image_ids, mirrored = opened.read_shard(name, view=1)
        _, cropped = opened.read_shard(name, view=2)
        for image_id, feature, other in zip(image_ids, mirrored, cropped, strict=True):
            grid = found[image_id].reshape(4, 4, 3)
            np.testing.assert_allclose(feature.reshape(4, 4, 3), grid[:, ::-1], rtol=tolerance, atol=tolerance)
            assert not np.allclose(other.reshape(4, 4, 3), grid, atol=0.01)
    assert extract(ExtractConfig(spatial=True, **options)).num_new == 0
    with pytest.raises(ConflictError, match="spatial was True, now False"):
        extract(ExtractConfig(**options))


def test_features_of_before_there_were_spatial_ones_are_whole_photos(
    features: Path, prepared: Path, encoder_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    shutil.copytree(features, out)
    record = json.loads((out / "run.json").read_text())
    for part in ("identity", "config"):
        assert record[part].pop("spatial") is False
        assert record[part].pop("num_views") == 1
    (out / "run.json").write_text(json.dumps(record))
    options = {"manifest": str(prepared / "photos.parquet"), "out": str(out), "encoder": str(encoder_file)}
    assert extract(ExtractConfig(**options)).num_new == 0
    with pytest.raises(ConflictError, match="spatial was False, now True"):
        extract(ExtractConfig(spatial=True, **options))


@pytest.mark.parametrize(
    ("spatial", "dtype", "expected"),
    [(False, "float32", 3), (False, "float16", 3), (True, "float32", 8), (True, "float16", 4)],
)
def test_blocks_are_cut_for_features_too(spatial: bool, dtype: str, expected: int) -> None:
    config = ExtractConfig(manifest="m", out="o", spatial=spatial, dtype=dtype)
    assert stage._photo_bytes(config, (224, 224)) == expected * 224 * 224


def test_no_feature_map_ends_the_run_with_its_own_message(
    ray_cluster: None, prepared: Path, encoder_file: Path, tmp_path: Path
) -> None:
    config = ExtractConfig(
        manifest=str(prepared / "photos.parquet"), out=str(tmp_path / "out"), encoder=str(encoder_file), spatial=True
    )
    with pytest.raises(NoWeightsError, match=r"grid\.keras has no feature map to keep; spatial features need"):
        extract(config)


def test_another_encoder_is_refused(features: Path, prepared: Path, encoder_file: Path, tmp_path: Path) -> None:
    manifest = str(prepared / "photos.parquet")
    with pytest.raises(ConflictError, match="encoder was"):
        extract(ExtractConfig(manifest=manifest, out=str(features), encoder="vgg16"))
    # the same file name with other weights inside, after an interruption
    out = tmp_path / "features"
    shutil.copytree(features, out)
    sorted((out / "features").glob("*.parquet"))[0].unlink()
    other = tmp_path / "grid.keras"
    code = (
        "import keras, sys\n"
        "photo = keras.Input((32, 32, 3))\n"
        "x = keras.layers.Conv2D(48, 1)(photo)\n"
        "keras.Model(photo, keras.layers.GlobalAveragePooling2D()(x)).save(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, capture_output=True)
    record = json.loads((out / "run.json").read_text())
    record["identity"]["encoder"] = str(other)
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(StaleError, match="its encoder changed"):
        extract(ExtractConfig(manifest=manifest, out=str(out), encoder=str(other)))
    # where an older raycap did not note what the file held
    del record["identity"]["encoder_hash"]
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(EncoderMismatchError, match="weights_hash"):
        extract(ExtractConfig(manifest=manifest, out=str(out), encoder=str(other)))


def test_photos_of_another_folder_are_others_whatever_their_names(
    features: Path, prepared: Path, encoder_file: Path, tmp_path: Path
) -> None:
    photos = pq.read_table(prepared / "photos.parquet")
    here = str(Path(photos["uri"][0].as_py()).parent)
    moved = pa.array([uri.replace(here, "/other/photos") for uri in photos["uri"].to_pylist()], pa.string())
    place = photos.column_names.index("uri")
    pq.write_table(photos.set_column(place, photos.schema.field("uri"), moved), tmp_path / "photos.parquet")
    with pytest.raises(StaleError, match=f"photos_folder was '{here}', now '/other/photos'"):
        extract(ExtractConfig(manifest=str(tmp_path / "photos.parquet"), out=str(features), encoder=str(encoder_file)))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"manifest": "nowhere.parquet"}, InputError, "no manifest at .*nowhere.parquet"),
        ({"encoder": "vgg61"}, InputError, "no encoder 'vgg61'"),
        ({"encoder": "nowhere.keras"}, InputError, "no saved model at .*nowhere.keras"),
    ],
)
def test_wrong_options(
    prepared: Path, tmp_path: Path, options: dict[str, str], error: type[Exception], says: str
) -> None:
    config = {"manifest": str(prepared / "photos.parquet"), "out": str(tmp_path / "out")} | options
    with pytest.raises(error, match=says):
        extract(ExtractConfig(**config))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.parquet"))


def test_manifest_with_a_photo_twice(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_id": ["a", "a"], "uri": ["x", "y"]}), path)
    with pytest.raises(FormatError, match="lists a photo twice"):
        extract(ExtractConfig(manifest=str(path), out=str(tmp_path / "out")))


def test_missing_weights_end_the_run_with_their_own_message(ray_cluster: None, prepared: Path, tmp_path: Path) -> None:
    config = ExtractConfig(
        manifest=str(prepared / "photos.parquet"), out=str(tmp_path / "out"), weights=str(tmp_path / "gone.h5")
    )
    with pytest.raises(NoWeightsError, match=r"there is no .*gone.h5"):
        extract(config)


@pytest.mark.slow
def test_killed_at_any_moment_every_photo_is_there_once(photo_folder: Path, encoder_file: Path, tmp_path: Path) -> None:
    """The driver is killed again and again, with kill -9, and the run started again until it is done."""
    photos = sorted(photo_folder.iterdir())
    manifest = make_manifest(tmp_path / "m.parquet", {f"{n:04d}": photos[n % 48] for n in range(2400)})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "raycap", "extract", "--manifest", manifest, "--out", str(out)]
    command += ["--encoder", str(encoder_file), "--shard-size", "16"]
    rng = np.random.default_rng(2)
    for _ in range(4):
        run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(14, 24)))
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    subprocess.run(command, check=True)
    image_ids = FeatureSet.open(str(out)).image_ids()
    assert sorted(image_ids) == [f"{n:04d}" for n in range(2400)]
    assert not list(out.rglob(".tmp-*"))
