"""Bad and odd photos of every kind that we know: each ends as it should, alone or in the stage, and none is lost."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from bad_photos import CAPTIONED, LIMITS, MISSING, SLOW, TIMEOUT, Kind, build, many_scans
from numpy.typing import NDArray
from PIL import Image, features

from raycap.config import CaptionConfig, LimitsConfig, WorkersConfig
from raycap.operators import DecodePhotos
from raycap.photo_sources import find_photos
from raycap.stages.caption import caption

SIDE = 32
UNLIKE = 12.0
"""Mean difference of two pictures, of 255, that a lossy format or a palette does not reach."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad photos") / "photos"


@pytest.fixture(scope="module")
def kinds(folder: Path) -> dict[str, Kind]:
    return build(folder)


@pytest.fixture(scope="module")
def listing(folder: Path, kinds: dict[str, Kind]) -> pa.Table:
    return find_photos([str(folder)])


def name_of(uri: str, folder: Path) -> str:
    """The path in the folder of what a row is about."""
    path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))) if uri.startswith("file://") else uri
    return os.path.relpath(path, folder)


def outcomes(rows: list[dict[str, Any]], folder: Path) -> dict[str, str]:
    found = {name_of(row["uri"], folder): row.get("error_type") or CAPTIONED for row in rows}
    assert len(found) == len(rows)
    return found


def disagreements(found: dict[str, str], kinds: dict[str, Kind]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What became of those that did not end as declared, and what should have."""
    names = {*found, *(name for name, kind in kinds.items() if kind.ends_in)}
    pairs = {name: (found.get(name, "nowhere"), kinds[name].ends_in if name in kinds else ()) for name in names}
    return {name: pair for name, pair in sorted(pairs.items()) if pair[0] not in pair[1]}


def difference(row: dict[str, Any], shows: Image.Image) -> float:
    expected = np.asarray(shows.resize((SIDE, SIDE), Image.Resampling.NEAREST), int)
    pixels: NDArray[np.uint8] = np.frombuffer(row["image"], np.uint8).reshape(SIDE, SIDE, 3)
    return float(np.abs(pixels - expected).mean())


def decode(photos: pa.Table, *, exif_orientation: bool = False, limits: LimitsConfig = LIMITS) -> list[dict[str, Any]]:
    decoder = DecodePhotos(height_px=SIDE, width_px=SIDE, exif_orientation=exif_orientation, limits=limits)
    rows: list[dict[str, Any]] = decoder(photos).to_pylist()
    return rows


def test_every_kind_is_listed_once(folder: Path, kinds: dict[str, Kind], listing: pa.Table) -> None:
    names = [name_of(uri, folder) for uri in listing["uri"].to_pylist()]
    assert Counter(names) == Counter(name for name, kind in kinds.items() if kind.ends_in)
    assert len(set(listing["image_id"].to_pylist())) == len(listing)
    assert len(kinds) > 400
    assert all(kind.why for kind in kinds.values() if len(kind.ends_in) > 1)


@pytest.mark.parametrize("exif_orientation", [False, True])
def test_every_kind_ends_as_declared(
    folder: Path, kinds: dict[str, Kind], listing: pa.Table, exif_orientation: bool
) -> None:
    if exif_orientation:  # once is enough for what takes as long as it may
        listing = listing.filter(pa.array([not uri.endswith(SLOW) for uri in listing["uri"].to_pylist()]))
        kinds = {name: kind for name, kind in kinds.items() if name != SLOW}
    started = time.monotonic()
    rows = decode(listing, exif_orientation=exif_orientation)
    assert time.monotonic() - started < 60
    assert disagreements(outcomes(rows, folder), kinds) == {}
    assert [row["uri"] for row in rows if row["error_type"] and not row["error_message"]] == []
    good = {name_of(row["uri"], folder): row for row in rows if row["error_type"] is None}
    assert all(row["width"] >= 1 and row["height"] >= 1 for row in good.values())
    seen = {name: difference(row, kinds[name].shows) for name, row in good.items() if kinds[name].shows is not None}
    assert {name: value for name, value in seen.items() if value > UNLIKE} == {}


@pytest.mark.parametrize("name", ["dangling link", "loop a", "link to itself", "pipe", "socket", "link to zeros"])
def test_what_is_no_plain_file_is_named_by_itself(folder: Path, kinds: dict[str, Kind], name: str) -> None:
    [row] = decode(find_photos([str(folder / "files" / f"{name}.jpg")]))
    assert (row["image_id"], row["error_type"]) == (f"{name}.jpg", MISSING)


def test_every_name_is_found_by_itself(folder: Path, kinds: dict[str, Kind]) -> None:
    for name, kind in kinds.items():
        if name.startswith("names/") and kind.ends_in:
            [row] = find_photos([os.path.join(folder, name)]).to_pylist()
            assert name_of(row["uri"], folder) == name


def test_a_slow_photo_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow.jpg").write_bytes(many_scans(100_000))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "then.png")
    started = time.monotonic()
    rows = decode(find_photos([str(tmp_path)]), limits=LimitsConfig(photo_timeout_s=1))
    assert time.monotonic() - started < 10
    assert [row["error_type"] for row in rows] == [TIMEOUT, None]


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
@pytest.mark.xfail(reason="Pillow keeps Python's lock while it decodes JPEG 2000, so nobody can give it up")
def test_a_slow_jpeg_2000_is_given_up(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "slow.jp2")
    photos = find_photos([str(tmp_path)])
    started = time.monotonic()
    decode(photos)
    alone = time.monotonic() - started
    started = time.monotonic()
    [row] = decode(photos, limits=LimitsConfig(photo_timeout_s=alone / 10))
    assert time.monotonic() - started < alone / 2
    assert row["error_type"] == TIMEOUT


def test_the_stage_loses_none(model: Path, folder: Path, kinds: dict[str, Kind], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(**workers: Any) -> tuple[Any, dict[str, str]]:
        config = CaptionConfig(
            photos=(str(folder),),
            model=str(model),
            out=str(out),
            limits=LIMITS,
            workers=WorkersConfig(shard_size=64, **workers),
        )
        result = caption(config)
        captions, failures = pd.read_parquet(out / "captions"), pd.read_parquet(out / "failures")
        assert (captions.caption.str.len() > 0).all()
        assert (failures.error_message.str.len() > 0).all()
        rows = [*captions[["uri"]].to_dict("records"), *failures[["uri", "error_type"]].to_dict("records")]
        assert (result.num_captions, result.num_failures) == (len(captions), len(failures))
        return result, outcomes(rows, folder)

    num_photos = sum(1 for kind in kinds.values() if kind.ends_in)
    first, found = run()
    assert disagreements(found, kinds) == {}
    assert first.num_photos == first.num_new == first.num_captions + first.num_failures == num_photos
    assert first.num_left == 0

    again, same = run()
    assert (again.num_new, same) == (0, found)

    retried, same = run(retry_failed=True)
    assert retried.num_new == first.num_failures
    assert (retried.num_captions, retried.num_failures) == (first.num_captions, first.num_failures)
    assert same == found
