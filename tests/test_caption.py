"""The caption stage on a real Ray: pixels to captions in one job."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycap.caption import caption, find_photos
from raycap.captioner import Captioner
from raycap.config import CaptionConfig, DecodingConfig, WorkersConfig
from raycap.errors import ConflictError, InputError, TooManyFailuresError, WeightsError
from raycap.features import FeatureSet
from raycap.schema import GENERATED


@pytest.fixture
def folder(photo_folder: Path, tmp_path: Path) -> Path:
    """Three of the dataset's test photos, one in a folder inside, a broken one, and a file that is no photo."""
    folder = tmp_path / "new photos"
    (folder / "inside").mkdir(parents=True)
    names = sorted(path.name for path in photo_folder.iterdir())[-3:]
    for name in names[:2]:
        shutil.copy(photo_folder / name, folder / name)
    shutil.copy(photo_folder / names[2], folder / "inside" / names[2])
    (folder / "broken.JPG").write_text("no photo")
    (folder / "notes.txt").write_text("no photo, and not meant to be")
    return folder


def test_captions_from_pixels_equal_captions_from_features(model: Path, features: Path, folder: Path) -> None:
    out = folder.parent / "out"
    config = CaptionConfig(photos=(str(folder),), model=str(model), out=str(out))
    result = caption(config)
    assert (result.num_captions, result.num_failures, result.num_new) == (3, 1, 4)
    rows = pd.read_parquet(out / "captions").set_index("image_id")
    expected = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}
    assert sorted(rows.index) == sorted(expected)
    captioner = Captioner.load(str(model))
    by_name = {Path(image_id).name: image_id for image_id in expected}
    for shard in FeatureSet.open(str(features)).iter_shards(wanted=by_name.keys()):
        for name, best in zip(
            shard.image_ids, captioner.caption_features(shard.features, DecodingConfig()), strict=True
        ):
            row = rows.loc[by_name[name]]
            assert (row.caption, row.num_tokens) == (best.caption, best.num_tokens)
            assert row.log_prob == pytest.approx(best.log_prob, abs=1e-4)
            assert (row.width_px, row.height_px, row.encoder) == (96, 96, "grid")
            assert row.uri == str(expected[by_name[name]])
    failures = pd.read_parquet(out / "failures")
    assert list(failures.image_id) == ["broken.JPG"]
    assert list(failures.stage) == ["caption"]
    shard = next((out / "captions").iterdir())
    assert pq.read_schema(shard).names == GENERATED.names

    # again: nothing to do; one more photo: only that
    assert caption(config).num_new == 0
    Image.new("RGB", (40, 30), "red").save(folder / "one more.png")
    assert caption(config).num_new == 1
    with pytest.raises(ConflictError, match="decoding was"):
        caption(
            CaptionConfig(photos=(str(folder),), model=str(model), out=str(out), decoding=DecodingConfig(beam_width=1))
        )


def test_captions_are_shown_where_there_is_no_out(model: Path, folder: Path) -> None:
    rows: list[dict[str, Any]] = []
    config = CaptionConfig(photos=(str(folder),), model=str(model), workers=WorkersConfig(batch_size=2))
    result = caption(config, show=rows.append)
    assert (result.num_captions, result.num_failures) == (3, 1)
    assert sorted(row["image_id"] for row in rows if row["error_type"]) == ["broken.JPG"]
    assert all("square" in row["caption"] for row in rows if not row["error_type"])


def test_find_photos(folder: Path, photo_folder: Path, tmp_path: Path) -> None:
    assert sorted(Path(name).name for name in find_photos([str(folder)])["image_id"].to_pylist()) == sorted(
        path.name for path in folder.rglob("*") if path.suffix in {".png", ".JPG"}
    )
    one = next(photo_folder.iterdir())
    assert find_photos([str(one), str(one)]).to_pylist() == [{"image_id": one.name, "uri": str(one)}]
    # the same names in two folders stay two photos
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    both = find_photos([str(folder), str(copy)])
    assert len(both["image_id"].unique()) == len(both) == 8
    with pytest.raises(InputError, match=r"no photo or folder at .*gone"):
        find_photos([str(tmp_path / "gone")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there are no photos in .*empty"):
        find_photos([str(tmp_path / "empty")])


def test_all_photos_failing_is_an_error(model: Path, folder: Path) -> None:
    with pytest.raises(TooManyFailuresError, match="all 1 photos failed"):
        caption(CaptionConfig(photos=(str(folder / "broken.JPG"),), model=str(model)))


def test_encoder_that_moved(model: Path, encoder_file: Path, folder: Path, tmp_path: Path) -> None:
    """A bundle trained elsewhere: its encoder's file is not where it was."""
    bundle = tmp_path / "bundle"
    shutil.copytree(model / "bundle", bundle)
    card = (bundle / "card.json").read_text().replace(str(encoder_file), "/elsewhere/grid.keras")
    (bundle / "card.json").write_text(card)
    photo = str(next(folder.glob("*.png")))
    with pytest.raises((InputError, WeightsError), match=r"/elsewhere/grid.keras"):
        caption(CaptionConfig(photos=(photo,), model=str(bundle)))
    config = CaptionConfig(photos=(photo,), model=str(bundle), encoder_file=str(encoder_file))
    assert caption(config).num_captions == 1
