"""The caption stage on a real Ray: pixels to captions in one job."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycap.captioner import Captioner
from raycap.config import CaptionConfig, DecodingConfig, OutputConfig, WorkersConfig
from raycap.errors import ConflictError, InputError, TooManyFailuresError, WeightsError
from raycap.features import FeatureSet
from raycap.schema import GENERATED
from raycap.sidecars import SidecarCounts
from raycap.stages.caption import caption, plan


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
        found = captioner.caption_features(shard.features, DecodingConfig(), image_ids=shard.image_ids)
        for name, [best] in zip(shard.image_ids, found, strict=True):
            row = rows.loc[by_name[name]]
            assert (row.caption, row.num_tokens) == (best.caption, best.num_tokens)
            assert row.log_prob == pytest.approx(best.log_prob, abs=1e-4)
            assert (row.width, row.height, row.encoder) == (96, 96, "grid")
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


def captions_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "captions").set_index("image_id").sort_index()


def test_formats_and_sidecars_say_the_same(model: Path, folder: Path) -> None:
    out = folder.parent / "out"
    (folder / "mine.png").write_bytes(next(folder.glob("*.png")).read_bytes())
    (folder / "mine.txt").write_text("what a person wrote\n")
    config = CaptionConfig(
        photos=(str(folder),),
        model=str(model),
        out=str(out),
        output=OutputConfig(formats=("parquet", "jsonl", "csv"), sidecars="beside"),
        decoding=DecodingConfig(num_captions=3),
    )
    result = caption(config)
    assert (result.num_photos, result.num_captions, result.num_failures, result.num_left) == (5, 4, 1, 0)
    assert result.sidecars == SidecarCounts(written=3, kept=1)
    rows = captions_of(out)
    assert list(pd.read_json(out / "captions.jsonl", lines=True).set_index("image_id").sort_index().caption) == list(
        rows.caption
    )
    as_csv = pd.read_csv(out / "captions.csv").set_index("image_id").sort_index()
    assert list(as_csv.caption) == list(rows.caption)
    assert as_csv.log_prob.to_numpy() == pytest.approx(rows.log_prob.to_numpy())
    assert [len(each) for each in rows.alternatives] == [2, 2, 2, 2]
    assert json.loads(as_csv.alternatives.iloc[0])[0]["caption"] == rows.alternatives.iloc[0][0]["caption"]
    for image_id, row in rows.iterrows():
        said = (folder / str(image_id)).with_suffix(".txt").read_text().strip()
        assert said == ("what a person wrote" if image_id == "mine.png" else row.caption)
        log_probs = [row.log_prob, *(each["log_prob"] for each in row.alternatives)]
        assert log_probs == sorted(log_probs, reverse=True)
    assert not list(folder.rglob(".tmp-*"))

    # sidecars in another place, of captions that are there: nothing is captioned again
    mirrored = folder.parent / "mirrored"
    result = caption(replace(config, output=OutputConfig(sidecars=str(mirrored))))
    assert (result.num_new, result.sidecars) == (0, SidecarCounts(written=4))
    for image_id, row in rows.iterrows():
        assert (mirrored / str(image_id)).with_suffix(".txt").read_text() == row.caption + "\n"

    # starting over takes what raycap wrote, and nothing else
    overwrite = OutputConfig(formats=("csv",), if_exists="overwrite")
    changed = replace(config, output=overwrite, decoding=DecodingConfig(beam_width=1))
    with pytest.raises(ConflictError, match=r"decoding was .* --if-exists overwrite"):
        caption(replace(changed, output=OutputConfig()))
    assert caption(changed).num_new == 5
    assert sorted(path.name for path in folder.rglob("*.txt")) == ["mine.txt", "notes.txt"]
    assert not list(mirrored.rglob("*.txt"))
    assert not (out / "captions.jsonl").exists()
    assert list(captions_of(out).columns) == [name for name in GENERATED.names if name != "image_id"]


@pytest.mark.slow
def test_captions_as_one_file_are_never_those_of_an_earlier_run(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder.parent / "out"
    config = CaptionConfig(photos=(str(folder),), model=str(model), out=str(out), limit=1)
    with_jsonl = replace(config, limit=None, output=OutputConfig(formats=("jsonl",)))

    def listed() -> list[str]:
        return sorted(json.loads(line)["image_id"] for line in (out / "captions.jsonl").read_text().splitlines())

    with monkeypatch.context() as patch:  # killed between the last shard and the file
        patch.setattr("raycap.stages.caption.export", lambda *_: exit(9))
        with pytest.raises(SystemExit):
            caption(with_jsonl)
    assert not (out / "captions.jsonl").exists()
    caption(with_jsonl)
    assert len(listed()) == 3
    shutil.copy(next(folder.glob("*.png")), folder / "one more.png")
    with monkeypatch.context() as patch:
        patch.setattr("raycap.stages.caption.export", lambda *_: exit(9))
        with pytest.raises(SystemExit):
            caption(with_jsonl)
    assert not (out / "captions.jsonl").exists(), "a file without the new caption could be taken for whole"
    caption(with_jsonl)
    assert len(listed()) == 4
    shutil.copy(folder / "one more.png", folder / "and another.png")
    caption(config)  # which asks for no file, but there is one
    assert "and another.png" in listed()


def test_what_raycap_did_not_write_is_never_replaced(model: Path, folder: Path) -> None:
    (folder / "captions.csv").write_text("image,caption\na.jpg,by hand\n")
    (folder / "captions").mkdir()
    (folder / "captions/mine.txt").write_text("mine")
    config = CaptionConfig(photos=(str(folder),), model=str(model), out=str(folder), limit=1)
    asking = replace(config, output=OutputConfig(formats=("csv",)))
    for refused in (asking, replace(asking, output=replace(asking.output, if_exists="overwrite"))):
        for call in (plan, caption):
            with pytest.raises(ConflictError, match=r"captions.csv is there, and nothing says that raycap wrote it"):
                call(refused)
    caption(config)
    assert caption(replace(config, output=OutputConfig(formats=("jsonl",), if_exists="overwrite"))).num_new == 1
    caption(replace(config, limit=None))
    for _ in range(2):  # of captions that are there; and again, now that it is raycap's own
        assert caption(replace(config, output=OutputConfig(formats=("coco",)))).num_new == 0
        assert len(json.loads((folder / "coco_results.json").read_text())) == 3
    caption(replace(config, output=OutputConfig(if_exists="overwrite")))
    assert not (folder / "captions.jsonl").exists()
    assert not (folder / "coco_results.json").exists()
    assert (folder / "captions.csv").read_text() == "image,caption\na.jpg,by hand\n"
    assert (folder / "captions/mine.txt").read_text() == "mine"


def test_a_dry_run_says_that_there_is_no_place_for_sidecars(model: Path, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(next(folder.glob("*.png")), "a.png")
    output = OutputConfig(sidecars="beside")
    with pytest.raises(InputError, match="no place beside"):
        plan(CaptionConfig(photos=(f"{tmp_path}/t.tar",), model=str(model), out=f"{tmp_path}/out", output=output))


def test_a_dry_run_touches_nothing_and_fail_refuses_what_is_there(model: Path, folder: Path) -> None:
    out = folder.parent / "out"
    careful = OutputConfig(if_exists="fail")
    config = CaptionConfig(photos=(str(folder),), model=str(model), out=str(out), output=careful)
    sizes = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in {".png", ".JPG"})
    planned = plan(config)
    assert (planned.num_photos, planned.num_pending, planned.pending_bytes) == (4, 4, sizes)
    assert not out.exists()
    assert caption(replace(config, limit=3)).num_left == 1
    with pytest.raises(ConflictError, match="is not empty"):
        caption(config)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    planned = plan(replace(config, output=OutputConfig()))
    assert planned.num_captions + planned.num_failures == 3
    assert planned.num_pending == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_failed_photos_are_tried_again_when_asked(model: Path, folder: Path) -> None:
    out = folder.parent / "out"
    config = CaptionConfig(photos=(str(folder),), model=str(model), out=str(out))
    assert caption(config).num_failures == 1
    shutil.copy(next(folder.glob("*.png")), folder / "broken.JPG")
    assert (caption(config).num_new, caption(config).num_failures) == (0, 1)
    mended = caption(replace(config, workers=WorkersConfig(retry_failed=True)))
    assert (mended.num_new, mended.num_captions, mended.num_failures) == (1, 4, 0)
    assert len(captions_of(out)) == 4


def test_photos_in_containers(model: Path, folder: Path, tmp_path: Path) -> None:
    """The same photos in a folder, a list, a tar shard and in Parquet, all in one run, get the same captions."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in {".png", ".JPG"}}
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for name, path in paths.items():
            archive.add(path, name)
            archive.addfile(tarfile.TarInfo(name.rsplit(".", 1)[0] + ".json"))
    rows = {"image": [{"bytes": path.read_bytes(), "path": name} for name, path in paths.items()]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet", row_group_size=2)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (tmp_path / "list.txt").write_text("\n".join(f"copy/{name}" for name in paths))
    sources = (str(folder), *(str(tmp_path / name) for name in ("list.txt", "shard-*.tar", "rows.parquet")))
    result = caption(CaptionConfig(photos=sources, model=str(model), out=str(tmp_path / "out")))
    assert (result.num_photos, result.num_captions, result.num_failures) == (16, 12, 4)
    by_uri = pd.read_parquet(tmp_path / "out/captions").set_index("uri").caption
    for row, (name, path) in enumerate(paths.items()):
        if path.suffix == ".png":
            inside = [f"{tmp_path}/shard-0.tar#{name}", f"{tmp_path}/rows.parquet#{row}", str(copy / name)]
            assert {by_uri[uri] for uri in inside} == {by_uri[str(path)]}
    assert len(set(by_uri)) > 1


@pytest.mark.slow
def test_another_photo_of_the_same_name_is_not_taken_for_done(model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption(CaptionConfig(photos=(str(folder),), model=str(model), out=str(out)))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(ConflictError, match=r"already holds a photo called .* from another place"):
        caption(CaptionConfig(photos=(str(copy),), model=str(model), out=str(out)))
    both = caption(CaptionConfig(photos=(str(folder), str(copy)), model=str(model), out=str(out)))
    assert (both.num_new, both.num_captions, both.num_failures) == (4, 6, 2)


@pytest.mark.slow
def test_sampling_is_the_same_in_any_shards(model: Path, folder: Path, tmp_path: Path) -> None:
    decoding = DecodingConfig(sample=True, temperature=2.0, sample_seed=4, min_length=6, no_repeat_ngram=2)
    found = []
    for shard_size in (1, 256):
        out = tmp_path / str(shard_size)
        workers = WorkersConfig(shard_size=shard_size)
        config = CaptionConfig(
            photos=(str(folder),), model=str(model), out=str(out), decoding=decoding, workers=workers
        )
        caption(config)
        found.append(captions_of(out))
    assert list(found[0].caption) == list(found[1].caption)
    assert all(len(each.split()) >= 4 for each in found[0].caption)


def test_captions_are_shown_where_there_is_no_out(model: Path, folder: Path) -> None:
    rows: list[dict[str, Any]] = []
    config = CaptionConfig(photos=(str(folder),), model=str(model), workers=WorkersConfig(batch_size=2))
    result = caption(config, show=rows.append)
    assert (result.num_captions, result.num_failures) == (3, 1)
    assert sorted(row["image_id"] for row in rows if row["error_type"]) == ["broken.JPG"]
    assert all("square" in row["caption"] for row in rows if not row["error_type"])


def test_all_photos_failing_is_an_error(model: Path, folder: Path) -> None:
    with pytest.raises(TooManyFailuresError, match="the only photo failed"):
        caption(CaptionConfig(photos=(str(folder / "broken.JPG"),), model=str(model)))


@pytest.mark.slow
def test_fast_decoding_is_an_option(model: Path, tmp_path: Path) -> None:
    """The encoder sees the means of 8 x 8 pixels, though the model's features were made of whole photos."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.jpg", quality=95, subsampling=0)
    Image.open(tmp_path / "noise.jpg").convert("RGB").reduce(8).save(tmp_path / "small.png")

    def log_prob(name: str, *, fast: bool) -> float:
        out = tmp_path / f"{name} {fast}"
        caption(CaptionConfig(photos=(str(tmp_path / name),), model=str(model), out=str(out), fast_decode=fast))
        return float(captions_of(out).log_prob.item())

    assert log_prob("noise.jpg", fast=True) == pytest.approx(log_prob("small.png", fast=False), abs=0.05)
    assert log_prob("noise.jpg", fast=True) != pytest.approx(log_prob("noise.jpg", fast=False), abs=0.05)


@pytest.mark.slow
def test_less_precision_is_an_option(model: Path, folder: Path, tmp_path: Path) -> None:
    """Though the model's features were made in float32."""
    exact, less = (
        CaptionConfig(
            photos=(str(folder),), model=str(model), out=str(tmp_path / (precision or "own")), precision=precision
        )
        for precision in (None, "bfloat16")
    )
    for config in (exact, less):
        caption(config)
    found, expected = captions_of(tmp_path / "bfloat16"), captions_of(tmp_path / "own")
    assert found.log_prob.tolist() == pytest.approx(expected.log_prob.tolist(), abs=0.2)
    assert found.log_prob.tolist() != expected.log_prob.tolist()


def test_neighbors_that_a_model_has_not_are_said_before_anything_is_done(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    decoding = DecodingConfig(consensus=0.3, num_neighbors=5)
    with pytest.raises(InputError, match=r"--num-neighbors needs the photos .*train with --keep-neighbors"):
        caption(CaptionConfig(photos=(str(folder),), model=str(model), out=str(tmp_path / "out"), decoding=decoding))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_encoder_that_moved(model: Path, encoder_file: Path, folder: Path, tmp_path: Path) -> None:
    """A bundle trained elsewhere: its encoder's file is not where it was."""
    bundle = tmp_path / "bundle"
    shutil.copytree(model / "bundle", bundle)
    card = (bundle / "card.json").read_text().replace(str(encoder_file), "/elsewhere/grid.keras")
    (bundle / "card.json").write_text(card)
    photo = str(next(folder.glob("*.png")))
    with pytest.raises((InputError, WeightsError), match=r"/elsewhere/grid.keras any more; .* --encoder-file"):
        caption(CaptionConfig(photos=(photo,), model=str(bundle)))
    config = CaptionConfig(photos=(photo,), model=str(bundle), encoder_file=str(encoder_file))
    assert caption(config).num_captions == 1


@pytest.mark.slow
def test_finished_photos_are_not_opened_again(model: Path, photo_folder: Path, folder: Path, tmp_path: Path) -> None:
    """Their files are gone, and only their names still in the list."""
    listed = tmp_path / "list.txt"
    finished = sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".JPG"})
    listed.write_text("\n".join(map(str, finished)))
    out = tmp_path / "out"
    config = CaptionConfig(photos=(str(listed),), model=str(model), out=str(out))
    assert caption(config).num_captions == 3
    before, failed = captions_of(out), pd.read_parquet(out / "failures").to_dict("records")
    for path in finished:
        path.unlink()
    more = sorted(photo_folder.iterdir())[:2]
    listed.write_text("\n".join(map(str, [*finished, *more])))
    result = caption(config)
    assert (result.num_photos, result.num_new, result.num_captions, result.num_failures) == (6, 2, 5, 1)
    after = captions_of(out)
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    assert pd.read_parquet(out / "failures").to_dict("records") == failed
    # the files are really what a photo is read from
    (tmp_path / "other").mkdir()
    other = caption(replace(config, out=str(tmp_path / "other")))
    assert (other.num_captions, other.num_failures) == (2, 4)


@pytest.mark.slow
def test_rays_metrics_have_the_counts(model: Path, folder: Path) -> None:
    import ray

    def metrics() -> dict[str, float]:
        port = ray.nodes()[0]["MetricsExportPort"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        counted = re.findall(r'^ray_raycap_photos_total{.*?outcome="(\w+)".*?stage="caption".*?} ([\d.]+)', text, re.M)
        shown = re.findall(r'^ray_raycap_(pending_photos|photos_per_s){.*?stage="caption".*?} ([\d.e+-]+)', text, re.M)
        return {name: float(value) for name, value in [*counted, *shown]}

    def wait_for(**expected: float) -> dict[str, float]:
        """Wait until all of it has been seen: Ray shows a gauge for some seconds after it was set."""
        deadline, seen = time.monotonic() + 60, set[tuple[str, float]]()
        while not expected.items() <= seen:
            assert time.monotonic() < deadline, f"{sorted(seen)}, not {expected}"
            seen |= metrics().items()
            time.sleep(0.5)
        return dict(seen)

    before, now = {"done": 0.0, "failed": 0.0}, metrics()
    while not now.items() <= before.items():  # earlier tests' counts come for some ten seconds
        before |= now
        time.sleep(11)
        now = metrics()
    caption(CaptionConfig(photos=(str(folder),), model=str(model), out=str(folder.parent / "out")))
    now = wait_for(done=before["done"] + 3, failed=before["failed"] + 1, pending_photos=0.0)
    assert now["photos_per_s"] > 0

    # a run that ends before its photos do leaves what was pending
    for number in range(120):
        (folder / f"broken {number}.jpg").write_text("no photo")
    workers = WorkersConfig(shard_size=20, max_failure_rate=0.1)
    with pytest.raises(TooManyFailuresError, match=r"of \d+ photos failed") as error:
        caption(CaptionConfig(photos=(str(folder),), model=str(model), out=str(folder.parent / "2"), workers=workers))
    tried = int(str(error.value).split()[2])
    assert tried < 124
    wait_for(pending_photos=124.0 - tried)


@pytest.mark.slow
def test_killed_at_any_moment_every_photo_is_captioned_once(model: Path, photo_folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    originals = sorted(photo_folder.iterdir())
    for number in range(2400):
        os.link(originals[number % len(originals)], photos / f"{number}.png")
    for number in range(10):
        (photos / f"broken {number}.jpg").write_bytes(b"no photo")
    options = f"--model {model} --shard-size 32 --formats jsonl --sidecars beside --beam-width 1 --out {tmp_path}/out"
    command = [sys.executable, "-m", "raycap", "caption", str(photos), *options.split()]
    rng = random.Random(0)

    def finished() -> int:
        return sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out").glob("captions/*.parquet"))

    kills = done = 0
    while True:
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
        enough = done + rng.randrange(1, 400)
        while kills < 5 and process.poll() is None and finished() < enough:
            time.sleep(0.1 * rng.random())
        if kills == 5 or process.poll() is not None:
            process.wait(timeout=400)
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert finished() >= enough  # what was finished is never lost
        done = finished()
    assert kills > 0
    assert process.returncode == 3, process.stderr and process.stderr.read()
    rows = pd.read_parquet(tmp_path / "out/captions")
    assert sorted(rows.image_id) == sorted(f"{number}.png" for number in range(2400))
    assert len(pd.read_parquet(tmp_path / "out/failures")) == 10
    assert len((tmp_path / "out/captions.jsonl").read_text().splitlines()) == 2400
    assert not list(tmp_path.rglob(".tmp-*"))
    for row in rows.itertuples():
        assert (photos / row.image_id).with_suffix(".txt").read_text() == row.caption + "\n"
    alone = {Path(path).name: row for path, row in zip(rows.image_id, rows.caption, strict=True)}
    for number in range(48, 2400):  # copies of a photo have its caption, whichever run captioned them
        assert alone[f"{number}.png"] == alone[f"{number % 48}.png"]
