import csv
import io
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import fs

from raycap import caption_formats, parquet, storage
from raycap.caption_formats import EXPORT_FILES, coco_id, export, export_location
from raycap.schema import ALTERNATIVES, GENERATED

TEXTS = [
    "a dog",
    'two "dogs"',
    "a, b;\tc",
    "new\nline\r\nand another",
    "é狗 😀 \u2028",
    "",
    "  spaces  ",
    "'=1",
    "-1.5",
]
FORMULAS = [
    *("=1+1", "+1", "-1", "@a", "\tx", "\rx", "\nx", '=HYPERLINK("http://x")', "  =1", "'' -1"),
    *("\uff1d1", "\uff0b1", "\uff0d1", "\uff201"),  # full-width, which some spreadsheets take for the narrow ones
]
SCHEMA = pa.schema([*list(GENERATED)[:5], ALTERNATIVES, *list(GENERATED)[5:]])


def row(number: int, caption: str = "a dog", **more) -> dict:
    alternatives = [{"caption": f"{caption} {rank}", "log_prob": -rank / 4, "num_tokens": rank} for rank in (1, 2)]
    return {
        "image_id": f"{number}.jpg",
        "uri": f"/p/{number}.jpg",
        "caption": caption,
        "log_prob": -number / 8,
        "num_tokens": number,
        "alternatives": alternatives,
        "width": 640,
        "height": 480,
        "model": "/m",
        "encoder": "vgg16",
        **more,
    }


def shard(out: Path, name: str, *rows: dict) -> None:
    parquet.write_table(f"{out}/captions/{name}.parquet", pa.Table.from_pylist(list(rows), schema=SCHEMA))


def exported(out: Path, file_format: str, numbers: list[int]) -> list[dict]:
    photos = pa.table({"uri": [f"/p/{number}.jpg" for number in numbers]})
    export(f"{out}/captions", str(out), file_format, photos)
    text = storage.read_bytes(export_location(str(out), file_format)).decode()
    if file_format == "coco":
        return json.loads(text)
    if file_format in {"jsonl", "imagefolder"}:
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_jsonl_gives_back_what_was_written(tmp_path):
    rows = [row(number, text) for number, text in enumerate([*TEXTS, *FORMULAS])]
    shard(tmp_path, "part-0", *rows)
    assert exported(tmp_path, "jsonl", [*range(len(rows))]) == rows
    assert "é狗 😀" in (tmp_path / "captions.jsonl").read_text("utf-8")


def test_csv_gives_back_what_was_written_but_for_formulas(tmp_path):
    texts = TEXTS[:-1]
    rows = [row(number, text) for number, text in enumerate([*texts, *FORMULAS])]
    shard(tmp_path, "part-0", *rows)
    found = exported(tmp_path, "csv", [*range(len(rows))])
    assert list(found[0]) == SCHEMA.names
    escaped = ["''=1" if text == "'=1" else text for text in texts]
    assert [each["caption"] for each in found] == [*escaped, *(f"'{formula}" for formula in FORMULAS)]
    # as docs/captioning.md says: without the ' before a formula, every text is what it was
    undone = [re.sub(r"^'(?='*(\s*[=+@＝＋－＠-]|[\t\r\n]))", "", each["caption"]) for each in found]  # noqa: RUF001
    assert undone == [each["caption"] for each in rows]
    assert [json.loads(each["alternatives"]) for each in found] == [each["alternatives"] for each in rows]
    for name in ("log_prob", "num_tokens", "width", "height"):  # numbers below zero among them are no formulas
        assert [float(each[name]) for each in found] == [each[name] for each in rows]


def test_any_column_of_text_may_hold_a_formula(tmp_path):
    shard(tmp_path, "part-0", row(0, image_id="=1.jpg", model="@m"))
    (found,) = exported(tmp_path, "csv", [0])
    assert (found["image_id"], found["model"], found["uri"]) == ("'=1.jpg", "'@m", "/p/0.jpg")


def test_imagefolder_names_each_photo_and_its_text(tmp_path):
    rows = [row(number, text) for number, text in enumerate([*TEXTS, *FORMULAS])]
    shard(tmp_path, "part-0", *rows)
    found = exported(tmp_path, "imagefolder", [*range(len(rows))])
    assert found == [{"file_name": each["image_id"], "text": each["caption"]} for each in rows]


def test_datasets_loads_the_photos_with_their_captions(tmp_path):
    """As docs/formats.md says: the file is copied into the photo folder."""
    import datasets

    photos = tmp_path / "photos"
    (photos / "in side").mkdir(parents=True)
    names = ["1.png", "in side/2.png", "3.png"]
    for number, name in enumerate(names):
        Image.new("RGB", (8 + number, 8), (40 * number, 0, 0)).save(photos / name)
    Image.new("RGB", (8, 8)).save(photos / "failed.png")  # a photo without a caption
    shard(tmp_path / "out", "part-0", *(row(0, f"a \u2028 {name}", image_id=name) for name in names))
    exported(tmp_path / "out", "imagefolder", [0])
    shutil.copy(tmp_path / "out/imagefolder/metadata.jsonl", photos)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(photos), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["text"][:] == [f"a \u2028 {name}" for name in names]
    assert [photo.size for photo in loaded["image"]] == [(8, 8), (9, 8), (10, 8)]


@pytest.mark.parametrize(
    ("image_id", "known_as"),
    [
        ("COCO_val2014_000000123456.jpg", 123456),
        ("val2014/COCO_val2014_000000000009.jpg", 9),
        ("000000123456.jpg", 123456),
        ("123456.jpg", "123456.jpg"),
        ("0000000123456.jpg", "0000000123456.jpg"),
        ("my COCO_val2014_000000123456.jpg", "my COCO_val2014_000000123456.jpg"),
        ("s3://b/a.jpg", "s3://b/a.jpg"),
    ],
)
def test_coco_knows_its_own_photos_by_number(image_id, known_as):
    assert coco_id(image_id) == known_as


def test_pycocotools_loads_the_results(tmp_path):
    from pycocotools.coco import COCO

    names = ["COCO_val2014_000000000042.jpg", "000000000043.jpg"]
    rows = [row(number, text, image_id=name) for number, (name, text) in enumerate(zip(names, TEXTS[1:], strict=False))]
    shard(tmp_path, "part-0", *rows)
    assert [each["image_id"] for each in exported(tmp_path, "coco", [0, 1])] == [42, 43]
    truth = {"images": [{"id": 42}, {"id": 43}], "annotations": [], "info": {}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    results = COCO(str(tmp_path / "truth.json")).loadRes(export_location(str(tmp_path), "coco"))
    assert {each["image_id"]: each["caption"] for each in results.anns.values()} == {42: TEXTS[1], 43: TEXTS[2]}


@pytest.mark.parametrize("file_format", ["jsonl", "csv"])
def test_rows_follow_the_listing_and_photos_that_are_not_in_it_come_last(file_format, tmp_path):
    shard(tmp_path, "part-a", row(6), row(7))
    shard(tmp_path, "part-b", row(8), row(9))
    shard(tmp_path, "part-c", row(2), row(3))
    shard(tmp_path, "part-d", row(5), row(4))
    (tmp_path / "captions/notes.txt").write_text("not a shard")
    found = exported(tmp_path, file_format, [5, 4, 3, 2, 1, 9, 8][::-1])
    order = ["8", "9", "2", "3", "5", "4", "6", "7"]
    assert [each["image_id"] for each in found] == [f"{number}.jpg" for number in order]


@pytest.mark.parametrize("file_format", EXPORT_FILES)
def test_without_captions_the_file_is_empty(file_format, tmp_path):
    assert exported(tmp_path, file_format, [1]) == []


@pytest.mark.parametrize("file_format", EXPORT_FILES)
@pytest.mark.parametrize("remote", [False, True], ids=["local", "object store"])
@pytest.mark.parametrize("old", [None, "old"])
def test_nothing_appears_if_writing_fails_in_the_middle(file_format, remote, old, tmp_path, monkeypatch):
    shard(tmp_path, "part-a", *(row(number, "x" * 5000) for number in range(50)))
    shard(tmp_path, "part-b", row(50))
    location = Path(export_location(str(tmp_path), file_format))
    location.parent.mkdir(exist_ok=True)
    if old:
        location.write_text(old)
    if remote:
        store = fs.SubTreeFileSystem("/", fs.LocalFileSystem())  # not local, as far as raycap can see
        monkeypatch.setattr(storage, "resolve", lambda location: (store, location.lstrip("/")))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    read_table = caption_formats.read_table

    def failing(shard_location):
        if "part-b" in shard_location:
            raise OSError("the disk is gone")
        return read_table(shard_location)

    monkeypatch.setattr(caption_formats, "read_table", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        exported(tmp_path, file_format, [*range(51)])
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert not old or location.read_text() == old
    monkeypatch.undo()
    assert len(exported(tmp_path, file_format, [*range(51)])) == 51
