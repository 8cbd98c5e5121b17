import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.datasets import CaptionSet, assemble, read_captions, seeded_splits
from raycap.errors import DatasetError, InputError
from raycap.text import Tokenizer

FLICKR8K = Path(__file__).parents[2] / "shared/data/flickr8k"
FRACTIONS = {"dev_fraction": 0.2, "test_fraction": 0.2, "seed": 0}

DOG, CAT = ("dog.jpg", "A dog runs ."), ("cat.jpg", "A cat sleeps .")


def write(path: Path, content) -> str:
    """Write text, bytes, rows (to Parquet) or a JSON document, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pylist(content), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    return str(path)


def problems_of(found) -> list[tuple[str, str, str]]:
    return [(problem.kind, problem.image_id, problem.where) for problem in found.problems]


def coco(*captions, photos=((1, "dog.jpg"), (2, "cat.jpg"))):
    return {
        "info": {},
        "images": [{"id": number, "file_name": name} for number, name in photos],
        "annotations": [{"id": 9, "image_id": number, "caption": caption} for number, caption in captions],
    }


def karpathy(*photos):
    return {
        "dataset": "own",
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": raw, "tokens": []} for raw in raws], **more}
            for name, split, raws, more in photos
        ],
    }


def photo_folder(path: Path, *names: str) -> str:
    for name in names:
        write(path / name, b"as yet nobody looks inside")
    return str(path)


SAME_CAPTIONS = {
    "Flickr8k.token.txt": "dog.jpg#0\tA dog runs .\ncat.jpg#0\tA cat sleeps .\n",
    "results.token": "dog.jpg#0\tA dog runs .\ncat.jpg#11\tA cat sleeps .",
    "coco.json": coco((1, "A dog runs ."), (2, " A cat sleeps .\n")),
    "karpathy.json": karpathy(("dog.jpg", None, ["A dog runs ."], {}), ("cat.jpg", "", ["A cat sleeps ."], {})),
    "captions.csv": "image,caption\ndog.jpg,A dog runs .\ncat.jpg,A cat sleeps .\n",
    "captions.tsv": "image\tcaption\ndog.jpg\tA dog runs .\ncat.jpg\tA cat sleeps .\n",
    "captions.txt": "image,caption\ndog.jpg,A dog runs .\ncat.jpg,A cat sleeps .\n",
    "semicolons.csv": "caption;image\nA dog runs .;dog.jpg\nA cat sleeps .;cat.jpg",
    "bars.csv": "image| number| caption\ndog.jpg| 0| A dog runs .\ncat.jpg| 0| A cat sleeps .\n",
    "captions.jsonl": """{"image": "dog.jpg", "caption": "A dog runs ."}
{"image": "cat.jpg", "caption": "A cat sleeps ."}""",
    "rows.json": """{"image": "dog.jpg", "caption": "A dog runs ."}
{"image": "cat.jpg", "caption": ["A cat sleeps ."]}""",
    "captions.parquet": [{"image": name, "caption": caption} for name, caption in (DOG, CAT)],
}


@pytest.mark.parametrize("name", SAME_CAPTIONS)
def test_every_format_is_told_and_read(tmp_path, name):
    found = read_captions([write(tmp_path / name, SAME_CAPTIONS[name])])
    assert found == CaptionSet(captions=[DOG, CAT], splits={}, problems=[])


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("Flickr8k.token.txt", "flickr8k"),
        ("coco.json", "coco"),
        ("karpathy.json", "karpathy"),
        ("captions.csv", "csv"),
        ("captions.jsonl", "jsonl"),
        ("captions.parquet", "parquet"),
    ],
)
def test_a_format_can_be_given_whatever_the_name(tmp_path, name, file_format):
    location = write(tmp_path / name, SAME_CAPTIONS[name])
    Path(location).rename(tmp_path / "captions.unknown")
    found = read_captions([str(tmp_path / "captions.unknown")], format=file_format)
    assert found.captions == [DOG, CAT]


@pytest.mark.parametrize("name", [name for name in SAME_CAPTIONS if not name.endswith(".parquet")])
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path, name):
    location = Path(write(tmp_path / name, SAME_CAPTIONS[name]))
    location.write_bytes(b"\xef\xbb\xbf" + location.read_bytes().replace(b"\n", b"\r\n"))
    assert read_captions([str(location)]) == CaptionSet(captions=[DOG, CAT], splits={}, problems=[])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.token.txt", "a#b.jpg#0\ttabs\tstay\t, # 7 too", [("a#b.jpg", "tabs\tstay\t, # 7 too")]),
        ("a.token.txt", "a.jpg.1#0\tan odd name\n\n \n", [("a.jpg.1", "an odd name")]),
        ("a.token.txt", "x/y z/Ä 狗.jpg#0\tÜber \u2028 Eis", [("x/y z/Ä 狗.jpg", "Über \u2028 Eis")]),
        ("a.csv", 'image,caption\na.jpg,"He said ""hi"", twice"\n', [("a.jpg", 'He said "hi", twice')]),
        (
            "a.csv",
            'image,caption\na.jpg,"two\nlines"\n\nb.jpg,5" long\n',
            [("a.jpg", "two\nlines"), ("b.jpg", '5" long')],
        ),
        ("a.csv", "n,image,caption\n0,狗/1.jpg,狗\n", [("狗/1.jpg", "狗")]),
        ("a.jsonl", '{"image": "a.jpg", "caption": ["one", "two"]}', [("a.jpg", "one"), ("a.jpg", "two")]),
        ("a.jsonl", '{"image": "\\u72d7.jpg", "caption": "\\ud83d\\udc15"}', [("狗.jpg", "🐕")]),
        ("a.parquet", [{"image": "a.jpg", "caption": ["one", "one"]}], [("a.jpg", "one"), ("a.jpg", "one")]),
        ("a.json", karpathy(("a.jpg", "", ["one"], {"filepath": "val2014"})), [("val2014/a.jpg", "one")]),
    ],
)
def test_odd_but_good_content(tmp_path, name, content, expected):
    found = read_captions([write(tmp_path / name, content)])
    assert found.captions == expected
    assert found.problems == []


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_columns_can_be_named(tmp_path, name):
    rows = [{"file": "dog.jpg", "text": "A dog runs .", "fold": "valid", "caption": "not this"}]
    as_csv = "file,text,fold,caption\n" + ",".join(rows[0].values())
    location = write(tmp_path / name, {"a.csv": as_csv, "a.jsonl": json.dumps(rows[0]), "a.parquet": rows}[name])
    found = read_captions([location], image_column="file", caption_column="text", split_column="fold")
    assert found == CaptionSet(captions=[DOG], splits={"dog.jpg": "dev"}, problems=[])


def test_parquet_of_other_column_types(tmp_path):
    table = pa.table(
        {
            "image": pa.array(["dog.jpg"]).dictionary_encode(),
            "caption": pa.array(["A dog runs ."], pa.large_string()),
            "split": pa.array([None], pa.string()),
        }
    )
    found = read_captions([write(tmp_path / "a.parquet", table)])
    assert found == CaptionSet(captions=[DOG], splits={}, problems=[])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train", "train"),
        ("dev", "dev"),
        ("test", "test"),
        ("val", "dev"),
        ("valid", "dev"),
        ("validation", "dev"),
        ("restval", "train"),
        (" Train ", "train"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.json"])
def test_names_of_splits(tmp_path, name, given, expected):
    row = {"image": "dog.jpg", "caption": "A dog runs .", "split": given}
    content = {
        "a.csv": f"image,caption,split\ndog.jpg,A dog runs .,{given}",
        "a.jsonl": json.dumps(row),
        "a.parquet": [row],
        "a.json": karpathy(("dog.jpg", given, ["A dog runs ."], {})),
    }
    found = read_captions([write(tmp_path / name, content[name])])
    assert found == CaptionSet(captions=[DOG], splits={"dog.jpg": expected}, problems=[])


def flickr8k_folder(path: Path) -> str:
    write(path / "Flickr8k.token.txt", "dog.jpg#0\tA dog runs .\ncat.jpg#0\tA cat sleeps .\nowl.jpg#0\tAn owl\n")
    write(path / "Flickr_8k.trainImages.txt", "dog.jpg\r\n\r\n")
    write(path / "Flickr_8k.devImages.txt", "\ufeffcat.jpg")
    return str(path)


@pytest.mark.parametrize("inside", ["", "Flickr8k.token.txt"])
def test_flickr8k_takes_its_splits_from_beside_it(tmp_path, inside):
    found = read_captions([str(Path(flickr8k_folder(tmp_path)) / inside)])
    assert [name for name, _ in found.captions] == ["dog.jpg", "cat.jpg", "owl.jpg"]
    assert found.splits == {"dog.jpg": "train", "cat.jpg": "dev"}
    assert found.problems == []


def test_a_location_may_be_a_uri(tmp_path):
    assert len(read_captions([f"file://{flickr8k_folder(tmp_path)}"]).splits) == 2
    assert read_captions([f"dev=file://{tmp_path}"]).splits["dog.jpg"] == "dev"


def test_several_files_with_given_splits_are_merged(tmp_path):
    train = write(tmp_path / "captions_train.json", coco((1, "A dog runs .")))
    dev = write(tmp_path / "captions=val.json", coco((2, "A cat sleeps ."), (2, "A cat sleeps .")))
    rest = write(tmp_path / "rest.csv", "image,caption\nowl.jpg,An owl\n")
    found = read_captions([f"train={train}", f"VAL={dev}", rest])
    assert found.captions == [DOG, CAT, CAT, ("owl.jpg", "An owl")]
    assert found.splits == {"dog.jpg": "train", "cat.jpg": "dev"}
    assert found.problems == []
    assert read_captions([dev]).splits == {}


def test_a_given_split_wins_over_the_file(tmp_path):
    write(Path(flickr8k_folder(tmp_path)) / "Flickr_8k.testImages.txt", "has no captions.jpg\n")
    found = read_captions([f"test={tmp_path}"])
    assert found.splits == dict.fromkeys(("dog.jpg", "cat.jpg", "owl.jpg"), "test")
    assert found.problems == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.token.txt", "no tab", [("malformed_line", "", "a.token.txt:2")]),
        ("a.token.txt", "a.jpg\tno number", [("malformed_line", "", "a.token.txt:2")]),
        ("a.token.txt", "#0\tno photo", [("malformed_line", "", "a.token.txt:2")]),
        ("a.token.txt", " #0\tno photo", [("malformed_line", "", "a.token.txt:2")]),
        ("a.token.txt", "\n\na.jpg#0\t ", [("empty_caption", "a.jpg", "a.token.txt:4")]),
        ("a.token.txt", b"a.jpg#0\tcaf\xe9", [("not_utf8", "a.jpg", "a.token.txt:2")]),
        ("a.csv", "a.jpg,commas, unquoted", [("malformed_line", "", "a.csv:3")]),
        ("a.csv", "a.jpg", [("malformed_line", "", "a.csv:3")]),
        ("a.csv", ",no photo", [("malformed_line", "", "a.csv:3")]),
        ("a.csv", "a.jpg,", [("empty_caption", "a.jpg", "a.csv:3")]),
        (
            "a.csv",
            'a.jpg,"half" quoted\nb.jpg,',
            [("malformed_line", "", "a.csv:3"), ("empty_caption", "b.jpg", "a.csv:4")],
        ),
        ("a.csv", 'a.jpg,"never closed\nb.jpg,lost', [("malformed_line", "", "a.csv:3")]),
        ("a.jsonl", '{"image": "a.jpg", "cap', [("malformed_line", "", "a.jsonl:2")]),
        ("a.jsonl", '{"image": "a.jpg"}', [("malformed_line", "", "a.jsonl:2")]),
        ("a.jsonl", '{"caption": "no photo"}', [("malformed_line", "", "a.jsonl:2")]),
        ("a.jsonl", '["a.jpg", "caption"]', [("malformed_line", "", "a.jsonl:2")]),
        ("a.jsonl", '{"image": 7, "caption": "one"}', [("malformed_line", "", "a.jsonl:2")]),
        ("a.jsonl", '{"image": "a.jpg", "caption": 7}', [("malformed_line", "a.jpg", "a.jsonl:2")]),
        ("a.jsonl", '{"image": "a.jpg", "caption": null}', [("empty_caption", "a.jpg", "a.jsonl:2")]),
        ("a.jsonl", '{"image": "a.jpg", "caption": []}', [("empty_caption", "a.jpg", "a.jsonl:2")]),
        ("a.jsonl", '{"image": "a.jpg", "caption": "\\ud800"}', [("not_utf8", "a.jpg", "a.jsonl:2")]),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "one", "split": "holdout"}',
            [("unknown_split", "a.jpg", "a.jsonl:2")],
        ),
        ("a.jsonl", '{"image": "a.jpg", "caption": "one", "split": 1}', [("unknown_split", "a.jpg", "a.jsonl:2")]),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "1", "split": "dev"}\n{"image": "a.jpg", "caption": "2", "split": "test"}',
            [("two_splits", "a.jpg", "a.jsonl:3")],
        ),
    ],
)
def test_problems_of_lines(tmp_path, name, content, expected):
    start = {"a.token.txt": "dog.jpg#0\tA dog runs .\n", "a.csv": "image,caption\ndog.jpg,A dog runs .\n"}
    good = start.get(name, '{"image": "dog.jpg", "caption": "A dog runs ."}\n').encode()
    found = read_captions(
        [write(tmp_path / name, good + (content if isinstance(content, bytes) else content.encode()))]
    )
    assert problems_of(found) == expected
    assert found.captions[0] == DOG
    assert all(problem.detail for problem in found.problems)
    pa.array([caption for _, caption in found.captions])  # can be stored, whatever was in the file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (coco((1, "A dog runs ."), (3, "whose?")), [("malformed_line", "", "a.json annotations[1]")]),
        (coco((1, "A dog runs ."), (2, "")), [("empty_caption", "cat.jpg", "a.json annotations[1]")]),
        (
            coco((1, "A dog runs ."), (2, "x"), photos=[(1, "dog.jpg"), (2, None)]),
            [("malformed_line", "", "a.json annotations[1]")],
        ),
        (
            {
                **coco((1, "A dog runs .")),
                "annotations": [None, {"image_id": 1}, {"image_id": 1, "caption": "A dog runs ."}],
            },
            [("malformed_line", "", "a.json annotations[0]"), ("malformed_line", "", "a.json annotations[1]")],
        ),
        (
            {"images": [5, {"filename": "a.jpg"}, *karpathy(("dog.jpg", "", ["A dog runs ."], {}))["images"]]},
            [("malformed_line", "", "a.json images[0]"), ("malformed_line", "", "a.json images[1]")],
        ),
        (
            karpathy(("dog.jpg", "odd", ["A dog runs ."], {}), ("a.jpg", "val", [], {})),
            [("unknown_split", "dog.jpg", "a.json images[0]"), ("empty_caption", "a.jpg", "a.json images[1]")],
        ),
    ],
)
def test_problems_of_json_entries(tmp_path, content, expected):
    found = read_captions([write(tmp_path / "a.json", content)])
    assert problems_of(found) == expected
    assert found.captions == [DOG]


def test_lines_that_a_csv_loses_are_told(tmp_path):
    found = read_captions([write(tmp_path / "a.csv", 'image,caption\na.jpg,1\nb.jpg,1,2\nc.jpg,"3\nd.jpg,4\n')])
    assert [problem.detail for problem in found.problems] == [
        "3 cells, where the header has 2: ['b.jpg', '1', '2']",
        "unexpected end of data; lines 4 to 5 are lost",
    ]


def test_problems_of_parquet_rows(tmp_path):
    rows = [{"image": "dog.jpg", "caption": "A dog runs ."}, {"image": None, "caption": "x"}, {"image": "a.jpg"}]
    found = read_captions([write(tmp_path / "a.parquet", rows)])
    assert problems_of(found) == [
        ("malformed_line", "", "a.parquet row 1"),
        ("empty_caption", "a.jpg", "a.parquet row 2"),
    ]


def test_problems_of_split_files(tmp_path):
    folder = Path(flickr8k_folder(tmp_path))
    write(folder / "Flickr_8k.testImages.txt", "gnu.jpg\ndog.jpg\nowl.jpg\n")
    found = read_captions([str(folder)])
    assert problems_of(found) == [
        ("two_splits", "dog.jpg", "Flickr_8k.testImages.txt:2"),
        ("split_without_caption", "gnu.jpg", "Flickr_8k.testImages.txt:1"),
    ]
    assert found.splits["dog.jpg"] == "train"
    assert found.splits["owl.jpg"] == "test"


def test_two_files_that_put_a_photo_in_two_splits(tmp_path):
    location = write(tmp_path / "a.csv", SAME_CAPTIONS["captions.csv"])
    found = read_captions([f"train={location}", f"dev={location}"])
    assert problems_of(found) == [("two_splits", "dog.jpg", "a.csv:2"), ("two_splits", "cat.jpg", "a.csv:3")]
    assert set(found.splits.values()) == {"train"}


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "", {}, "is empty"),
        ("a.txt", " \n\r\n", {}, "is empty"),
        ("a.txt", "what is this?\n", {}, r"its format cannot be told .* --format flickr8k\|coco\|"),
        ("a.csv", "name,text\na.jpg,one\n", {}, "no column image or caption; it has name, text.* --image-column"),
        ("a.csv", "image,caption\na.jpg,one\n", {"split_column": "fold"}, "no column fold; it has image, caption"),
        ("a.csv", "image,caption\n", {}, "it holds no captions"),
        ("a.csv", "image,caption\na.jpg, \n", {}, r"it holds no captions \(a.csv:2: the caption is empty\)"),
        ("a.csv", "x" * 200_000, {}, "its first line is no header"),
        ("a.parquet", [{"image": "a.jpg"}], {}, "no column caption; it has image"),
        ("a.txt", "not Parquet", {"format": "parquet"}, "it is not whole Parquet"),
        ("a.jsonl", '{"file": "a.jpg"}', {}, r"it holds no captions \(a.jsonl:1: no 'caption'"),
        ("a.json", '{"images": [], "annotations": [', {}, "it is not JSON"),
        ("a.json", {"images": [], "annotations": []}, {}, "it holds no captions"),
        ("a.json", {"annotations": {}}, {}, "it has no list of images"),
        (
            "a.json",
            coco((1, "one")),
            {"format": "karpathy"},
            r"it holds no captions \(a.json images\[0\]: no 'sentences'",
        ),
        ("a.json", [coco((1, "one"))], {"format": "coco"}, "it has no list of images"),
        ("a.csv", "image,caption\na.jpg,one\n", {"format": "flickr8k"}, r"it holds no captions \(a.csv:1: not PHOTO#"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_way_out(tmp_path, name, content, options, message):
    location = write(tmp_path / name, content)
    with pytest.raises(DatasetError, match=message) as error:
        read_captions([location], **options)
    assert location in str(error.value)


def test_a_good_file_does_not_hide_a_useless_one(tmp_path):
    good = write(tmp_path / "good.csv", SAME_CAPTIONS["captions.csv"])
    with pytest.raises(DatasetError, match=r"useless\.csv: it holds no captions"):
        read_captions([good, write(tmp_path / "useless.csv", "image,caption\n")])


@pytest.mark.parametrize(
    ("locations", "options", "message"),
    [
        ([], {}, "no caption file was given"),
        (["absent.csv"], {}, "no caption file at .*absent.csv"),
        (["trian=absent.csv"], {}, "no caption file at .*trian=absent.csv"),
        (["train=absent.csv"], {}, "no caption file at .*/absent.csv"),
        (["."], {}, "nor a Flickr8k.token.txt in a folder"),
        (["nowhere://a/b.csv"], {}, "cannot use 'nowhere://a/b.csv'"),
        (["a.csv"], {"format": "xml"}, "no caption format 'xml'; there are auto, flickr8k, "),
    ],
)
def test_input_that_is_not_there(tmp_path, monkeypatch, locations, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", SAME_CAPTIONS["captions.csv"])
    with pytest.raises(InputError, match=message) as error:
        read_captions(locations, **options)
    assert not isinstance(error.value, DatasetError)


NAMES = [f"{number}.jpg" for number in range(100)]


@pytest.mark.parametrize(
    ("num_photos", "dev_fraction", "test_fraction", "expected"),
    [
        (100, 0.1, 0.2, {"dev": 10, "test": 20, "train": 70}),
        (100, 0.0, 0.0, {"train": 100}),
        (100, 0.0, 0.001, {"test": 1, "train": 99}),
        (3, 0.1, 0.1, {"dev": 1, "test": 1, "train": 1}),
        (2, 0.1, 0.1, {"dev": 1, "train": 1}),
        (1, 0.1, 0.1, {"train": 1}),
        (0, 0.1, 0.1, {}),
    ],
)
def test_seeded_splits_have_the_sizes_asked_for(num_photos, dev_fraction, test_fraction, expected):
    splits = seeded_splits(NAMES[:num_photos], dev_fraction=dev_fraction, test_fraction=test_fraction, seed=0)
    assert Counter(splits.values()) == expected
    assert splits.keys() == set(NAMES[:num_photos])


def test_seeded_splits_depend_on_seed_and_ids_alone():
    splits = seeded_splits(NAMES, **FRACTIONS)
    assert seeded_splits([*reversed(NAMES), *NAMES], **FRACTIONS) == splits
    assert seeded_splits(NAMES, **FRACTIONS | {"seed": 1}) != splits
    more = seeded_splits([*NAMES, "one more.jpg"], **FRACTIONS)
    assert sum(more[name] != splits[name] for name in NAMES) <= 2


@pytest.mark.parametrize(("dev_fraction", "test_fraction"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (float("nan"), 0)])
def test_fractions_out_of_range_are_refused(dev_fraction, test_fraction):
    with pytest.raises(InputError, match="0 or more and together less than 1"):
        seeded_splits(NAMES, dev_fraction=dev_fraction, test_fraction=test_fraction, seed=0)


def caption_set(*captions, splits=None) -> CaptionSet:
    return CaptionSet(captions=list(captions), splits=splits or {}, problems=[])


def test_assembled_tables_are_sorted_and_keep_a_photos_captions_in_file_order(tmp_path):
    names = ("b/Ä 狗.jpg", "a b%20#1.PNG", "c.d.jpeg", "c.d.jpg")
    folder = photo_folder(tmp_path / "photos", *names, "notes.txt", ".hidden.jpg")
    captions = [(name, text) for text in ("z second", "a first", "a first") for name in names]
    dataset = assemble(caption_set(*captions, splits={names[0]: "dev", names[2]: "train"}), folder, **FRACTIONS)
    assert dataset.photos.schema == schema.PHOTOS
    assert dataset.photos.to_pylist() == [
        {"image_id": names[1], "uri": f"{folder}/{names[1]}", "split": None},
        {"image_id": names[0], "uri": f"{folder}/{names[0]}", "split": "dev"},
        {"image_id": names[2], "uri": f"{folder}/{names[2]}", "split": "train"},
        {"image_id": names[3], "uri": f"{folder}/{names[3]}", "split": None},
    ]
    assert all(Path(uri).exists() for uri in dataset.photos["uri"].to_pylist())
    assert dataset.captions.schema.names == ["image_id", "split", "caption"]
    assert all(
        dataset.captions.schema.field(name) == schema.CAPTIONS.field(name) for name in dataset.captions.schema.names
    )
    assert dataset.captions["image_id"].to_pylist() == sorted(names * 3)
    assert dataset.captions["caption"].to_pylist() == ["z second", "a first", "a first"] * 4
    assert dataset.captions["split"].to_pylist() == [None] * 3 + ["dev"] * 3 + ["train"] * 3 + [None] * 3
    assert dataset.problems == []


def test_without_splits_every_photo_gets_a_seeded_one(tmp_path):
    folder = photo_folder(tmp_path, *NAMES[:10])
    dataset = assemble(caption_set(*[(name, "one") for name in NAMES]), folder, **FRACTIONS)
    expected = seeded_splits(NAMES[:10], **FRACTIONS)
    assert dict(zip(*(dataset.photos[name].to_pylist() for name in ("image_id", "split")), strict=True)) == expected
    assert Counter(dataset.captions["split"].to_pylist()) == {"train": 6, "dev": 2, "test": 2}


def test_photos_and_captions_that_do_not_meet_are_problems(tmp_path):
    folder = photo_folder(tmp_path / "photos", "dog.jpg", "alone.gif", "sub/bird.jpg")
    location = write(tmp_path / "a.csv", "image,caption\ndog.jpg,A dog runs .\ncat.jpg,A cat\ncat.jpg,\ncat.jpg,Cat\n")
    dataset = assemble(read_captions([location]), folder, **FRACTIONS)
    assert problems_of(dataset) == [
        ("empty_caption", "cat.jpg", "a.csv:4"),
        ("missing_photo", "cat.jpg", folder),
        ("photo_without_caption", "alone.gif", folder),
        ("photo_without_caption", "sub/bird.jpg", folder),
    ]
    assert dataset.problems[1].detail == "named by 2 captions, but not there"
    assert dataset.photos["image_id"].to_pylist() == ["dog.jpg"]
    assert dataset.captions["caption"].to_pylist() == ["A dog runs ."]


def test_the_photo_folder_may_be_a_uri_or_relative(tmp_path, monkeypatch):
    folder = photo_folder(tmp_path / "photos", "dog.jpg")
    monkeypatch.chdir(tmp_path)
    for given, expected in (("photos/", f"{folder}/dog.jpg"), (f"file://{folder}/", f"file://{folder}/dog.jpg")):
        assert assemble(caption_set(DOG), given, **FRACTIONS).photos["uri"].to_pylist() == [expected]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], InputError, "no folder of photos at"),
        (["notes.txt", ".hidden.jpg"], InputError, r"holds no photo, no file that ends in \.jpg, \.jpeg"),
        (["sub/owl.jpg", "sub/pup.jpg"], DatasetError, "captions name 'cat.jpg', photos are named 'sub/owl.jpg'; give"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path, names, error, message):
    folder = photo_folder(tmp_path / "photos", *names)
    with pytest.raises(error, match=message) as raised:
        assemble(caption_set(DOG, CAT), folder, **FRACTIONS)
    assert folder in str(raised.value)
    assert type(raised.value) is error


@pytest.mark.skipif(not FLICKR8K.exists(), reason=f"measures Flickr8k, which is not at {FLICKR8K}")
def test_flickr8k_gives_the_tutorials_numbers():
    dataset = assemble(read_captions([str(FLICKR8K / "text")]), str(FLICKR8K / "photos"), **FRACTIONS)
    assert dataset.problems == []
    assert dataset.captions.num_rows == 35_000
    assert Counter(dataset.photos["split"].to_pylist()) == {"train": 6_000, "dev": 1_000}

    rows = dataset.captions.to_pylist()
    tokenizer = Tokenizer.fit(row["caption"] for row in rows if row["split"] == "train")
    assert (tokenizer.vocab_size, tokenizer.max_length) == (7_579, 34)
    num_pairs: Counter[str] = Counter()
    for row in rows:
        pairs = len(tokenizer.encode(tokenizer.clean(row["caption"]))) - 1
        num_pairs.update({row["split"]: pairs, row["image_id"]: pairs})
    assert (num_pairs["train"], num_pairs["dev"]) == (306_404, 50_903)
    assert num_pairs["1000268201_693b08cb0e.jpg"] == 47


def test_cocos_own_layout(tmp_path):
    """The annotations give bare file names; the photos lie in a folder a split."""
    folder = photo_folder(tmp_path / "coco", "train2017/dog.jpg", "val2017/cat.jpg", "val2017/twin.jpg", "twin.jpg")
    train = write(tmp_path / "captions_train2017.json", coco((1, "A dog runs .")))
    dev = write(
        tmp_path / "captions_val2017.json", coco((2, "A cat sleeps ."), photos=((1, "dog.jpg"), (2, "cat.jpg")))
    )
    found = read_captions([f"train={train}", f"dev={dev}"])
    dataset = assemble(found, folder, **FRACTIONS)
    expected = [("train2017/dog.jpg", "train"), ("val2017/cat.jpg", "dev")]
    assert [(row["image_id"], row["split"]) for row in dataset.photos.to_pylist()] == expected
    assert [(row["image_id"], row["split"]) for row in dataset.captions.to_pylist()] == expected
    # a name that two photos have is only taken for the one at that very path
    twins = assemble(caption_set(("twin.jpg", "Two of a kind .")), folder, **FRACTIONS)
    assert twins.photos["image_id"].to_pylist() == ["twin.jpg"]
