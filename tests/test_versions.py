"""Files of this version and of older ones stay readable; newer and damaged ones give an error that says so.

`tests/data/format-1` was written by `python tests/test_versions.py`, with raycap 0.1 on Keras 3.15, and is never
written again: a new format gets a folder of its own, beside it. What stages refuse of `run.json`, cards and tokenizers
is tested with them, in test_runs.py, test_cards.py and test_text.py.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from builders import CARD, write_shard

from raycap.errors import FormatError, RaycapError
from raycap.features import FeatureSet, feature_array
from raycap.model_card import BUNDLE_FOLDER, CARD_FILE, read_card
from raycap.parquet import read_table, write_table
from raycap.prepared import CAPTIONS_FILE, PHOTOS_FILE, Prepared
from raycap.runs import RUN_FILE, Run, short_hash
from raycap.schema import FORMAT_VERSION, check_version, feature_schema
from raycap.storage import read_json, write_json, write_text
from raycap.text import TOKENIZER_FILE, Tokenizer

DATA = Path(__file__).parent / "data"
FORMATS = sorted(DATA.glob("format-*"))
EXPECTED_FILE = "expected.json"
DIM, SEED = 4, 19


def write_format(folder: Path) -> None:
    """Write a small bundle and features as this version does, and what comes of them."""
    import keras

    from raycap.config import ModelConfig
    from raycap.decoders import build_model
    from raycap.model import Bundle
    from raycap.model_card import ModelCard
    from raycap.runs import versions

    captions = ["a zib sleeps on the wug", "two blue zibs and a gorp", "the gorp sees a blue wug"]
    tokenizer = Tokenizer.fit(captions, keep_one_letter_words=True)
    keras.utils.set_random_seed(1)
    config = ModelConfig(units=4, embedding_dim=2, normalization="standardize")
    moments = (np.full(DIM, 0.5, np.float32), np.full(DIM, 2.0, np.float32))
    model = build_model(config, vocab_size=tokenizer.vocab_size, feature_shape=(DIM,), moments=moments)
    rng = np.random.default_rng(SEED)
    for weights in model.trainable_weights:  # so that words differ by far more than rounding does
        weights.assign(rng.normal(size=weights.shape))
    card = ModelCard(
        encoder=CARD,
        max_length=tokenizer.max_length,
        vocab_size=tokenizer.vocab_size,
        training={"model": dataclasses.asdict(config), "epochs": 1},
        metrics={"epoch": 1, "dev_loss": 2.5},
        versions=versions(),
    )
    Bundle(model, tokenizer, card).save(str(folder / BUNDLE_FOLDER))
    features = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float16).astype(np.float32)
    write_shard(folder / "features", "part-0.parquet", ["a.jpg", "sub/b.jpg"], features[:2])
    write_shard(folder / "features", "part-1.parquet", ["c.jpg", "d é.jpg"], features[2:], dtype=pa.float16())
    write_json(str(folder / EXPECTED_FILE), {"features": features.tolist(), "captions": captions_of(folder)})


def captions_of(folder: Path) -> list[dict[str, Any]]:
    """What the bundle in a folder says of the features there."""
    from raycap.captioner import Captioner
    from raycap.config import DecodingConfig

    captioner = Captioner.load(str(folder))
    rows = []
    for shard in FeatureSet.open(str(folder)).iter_shards():
        for beam_width in (1, 3):
            decoding = DecodingConfig(beam_width=beam_width)
            found = captioner.caption_features(shard.features, decoding, image_ids=shard.image_ids)
            for image_id, [best, *_] in zip(shard.image_ids, found, strict=True):
                rows.append({"image_id": image_id, "beam_width": beam_width, **best._asdict()})
    return rows


# ---- what older versions wrote is read


def test_every_format_so_far_is_kept() -> None:
    assert [folder.name for folder in FORMATS] == [f"format-{number}" for number in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_features_of_every_format_are_read(folder: Path) -> None:
    expected = read_json(str(folder / EXPECTED_FILE))
    features = FeatureSet.open(str(folder))
    assert features.image_ids() == ["a.jpg", "sub/b.jpg", "c.jpg", "d é.jpg"]
    found = np.concatenate([shard.features for shard in features.iter_shards()])
    np.testing.assert_array_equal(found, np.array(expected["features"], np.float32))
    card = features.card
    assert (card.name, card.shape, card.format_version) == (CARD.name, (DIM,), int(folder.name[7:]))


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_a_bundle_of_every_format_says_what_it_said(folder: Path) -> None:
    expected = read_json(str(folder / EXPECTED_FILE))["captions"]
    card = read_card(str(folder))
    assert card.format_version == int(folder.name[7:])
    card.encoder.require_same(FeatureSet.open(str(folder)).card, mine="the model", others="the features")
    found = captions_of(folder)
    assert len(found) == len(expected) == 8
    assert len({row["caption"] for row in expected}) > 2
    for row, wanted in zip(found, expected, strict=True):
        assert row.pop("log_prob") == pytest.approx(wanted.pop("log_prob"), abs=1e-5)
        assert row == wanted


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_the_hash_of_a_card_stays(folder: Path) -> None:
    """It is in run.json of evaluate and caption, who would take the model for another one."""
    fields = read_json(str(folder / BUNDLE_FOLDER / CARD_FILE))
    assert short_hash(read_card(str(folder)).to_fields()) == short_hash(fields)


# ---- what is newer is refused, and what is damaged named


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The newest format's folder, to be damaged."""
    return Path(shutil.copytree(FORMATS[-1], tmp_path / "model"))


@pytest.mark.parametrize("version", [None, "1", 1.0, True, [1], {}, -1.5])
def test_what_is_no_version_is_not_taken_for_one(version: object) -> None:
    with pytest.raises(TypeError, match="format_version"):
        check_version(version, source="x")


def test_newer_is_refused_and_says_what_to_do() -> None:
    check_version(FORMAT_VERSION, source="x")
    with pytest.raises(
        FormatError, match=r"^x was written by a newer raycap; upgrade raycap to use it \(its format is 9"
    ):
        check_version(9, source="x")


def change_json(path: Path, **changes: Any) -> None:
    write_json(str(path), read_json(str(path)) | changes)


@pytest.mark.parametrize("name", [CARD_FILE, TOKENIZER_FILE])
def test_a_newer_bundle_is_refused(name: str, copy: Path) -> None:
    from raycap.model import Bundle

    change_json(copy / BUNDLE_FOLDER / name, format_version=FORMAT_VERSION + 1, unheard_of=1)
    with pytest.raises(FormatError, match=rf"{name} was written by a newer raycap; upgrade raycap"):
        Bundle.load(str(copy))


def test_newer_features_are_refused(copy: Path) -> None:
    card = CARD.to_json().replace('"format_version": 1', f'"format_version": {FORMAT_VERSION + 1}').encode()
    table = read_table(str(copy / "features/part-1.parquet"))
    schema = feature_schema((DIM,), pa.float16(), card)
    write_table(str(copy / "features/part-1.parquet"), table.replace_schema_metadata(schema.metadata))
    with pytest.raises(FormatError, match=r"part-1\.parquet was written by a newer raycap; upgrade raycap"):
        FeatureSet.open(str(copy))


def test_a_newer_dataset_is_refused(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for name in (PHOTOS_FILE, CAPTIONS_FILE):
        write_table(f"{folder}/{name}", pa.table({"image_id": ["a"]}))
    write_text(f"{folder}/{TOKENIZER_FILE}", Tokenizer.fit(["a dog"]).to_json())
    Run(out=folder, stage="prepare", config={}, identity={}).save({})
    Prepared.open(folder)
    change_json(tmp_path / RUN_FILE, format_version=FORMAT_VERSION + 1)
    with pytest.raises(FormatError, match=r"run\.json was written by a newer raycap; upgrade raycap"):
        Prepared.open(folder)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (CARD_FILE, {"max_length": "six"}),
        (CARD_FILE, {"max_length": -1}),
        (CARD_FILE, {"max_length": True}),
        (CARD_FILE, {"vocab_size": 1.5}),
        (CARD_FILE, {"vocab_size": 10**9}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"height_px": "8"}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"height_px": -8}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"name": ["vgg16"]}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"weights": None}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"exif_orientation": "no"}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"dim": 0}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"dim": 5}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"num_regions": 0}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"num_regions": "1"}}),
        (CARD_FILE, {"encoder": dataclasses.asdict(CARD) | {"format_version": "1"}}),
        (TOKENIZER_FILE, {"words": ["startseq", "endseq", 3]}),
        (TOKENIZER_FILE, {"words": ["startseq", "endseq", "zib", "zib"]}),
        (TOKENIZER_FILE, {"words": ["startseq", "endseq", "zib"]}),
        (TOKENIZER_FILE, {"words": "startseq endseq"}),
        (TOKENIZER_FILE, {"max_length": "long"}),
        (TOKENIZER_FILE, {"max_length": None}),
    ],
)
def test_a_bundle_whose_fields_are_of_wrong_types_or_do_not_fit_is_damaged(name, changes, copy: Path) -> None:
    from raycap.model import Bundle

    change_json(copy / BUNDLE_FOLDER / name, **changes)
    with pytest.raises(FormatError, match=r"card\.json|tokenizer\.json|do not belong together"):
        Bundle.load(str(copy))


@pytest.mark.parametrize("name", [CARD_FILE, TOKENIZER_FILE, "model.keras"])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 50, b"null", b"[[1]]", b'"x"', DEEP.encode(), b"\xff\xfe{}"])
def test_a_bundle_with_a_file_that_is_damaged_names_it(name: str, content: bytes | None, copy: Path) -> None:
    from raycap.model import Bundle

    path = copy / BUNDLE_FOLDER / name
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        Bundle.load(str(copy))


def test_a_bundle_that_lacks_a_file_names_it(copy: Path) -> None:
    from raycap.model import Bundle

    for name in ("model.keras", TOKENIZER_FILE):
        (copy / BUNDLE_FOLDER / name).unlink()
        with pytest.raises(RaycapError, match=name.replace(".", r"\.")):
            Bundle.load(str(copy))


@pytest.mark.parametrize(
    "columns",
    [
        {"image_id": ["a"], "feature": feature_array(np.zeros((1, DIM + 1), np.float32), pa.float32())},
        {"image_id": ["a"], "feature": pa.array([[1.0] * DIM])},
        {"image_id": ["a"], "feature": pa.array([["x"] * DIM], pa.list_(pa.string(), DIM))},
        {"image_id": ["a"], "feature": ["x"]},
        {"image_id": [1], "feature": feature_array(np.zeros((1, DIM), np.float32), pa.float32())},
        {"image_id": ["a"]},
    ],
)
def test_features_of_another_shape_are_damaged(columns: dict[str, Any], copy: Path) -> None:
    metadata = feature_schema((DIM,), pa.float32(), CARD.to_json().encode()).metadata
    write_table(str(copy / "features/part-1.parquet"), pa.table(columns).replace_schema_metadata(metadata))
    with pytest.raises(FormatError, match=r"part-1\.parquet does not hold features of 4 numbers"):
        FeatureSet.open(str(copy))


def test_features_with_rows_without_one_are_damaged(copy: Path) -> None:
    metadata = feature_schema((DIM,), pa.float32(), CARD.to_json().encode()).metadata
    table = pa.table({"image_id": ["a", "b"], "feature": pa.array([[1.0] * DIM, None], pa.list_(pa.float32(), DIM))})
    write_table(str(copy / "features/part-1.parquet"), table.replace_schema_metadata(metadata))
    features = FeatureSet.open(str(copy))
    with pytest.raises(FormatError, match=r"part-1\.parquet is damaged: it has rows without a feature"):
        list(features.iter_shards())


if __name__ == "__main__":
    new = DATA / f"format-{FORMAT_VERSION}"
    if new.exists():
        sys.exit(f"{new} is there already: what a version wrote is kept")
    write_format(new)
    print(json.dumps(captions_of(new), indent=1, ensure_ascii=False))
