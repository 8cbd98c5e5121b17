import dataclasses
import json

import pytest
from builders import CARD

from raycap.encoder_card import EncoderCard
from raycap.errors import EncoderMismatchError, FormatError, InputError
from raycap.model_card import BUNDLE_FOLDER, CARD_FILE, ModelCard, find_bundle, read_card
from raycap.schema import FORMAT_VERSION
from raycap.storage import write_json, write_text

MODEL = ModelCard(
    encoder=CARD,
    max_length=34,
    vocab_size=7579,
    training={"epochs": 20, "model": {"units": 256}},
    metrics={"epoch": 2, "dev_loss": 3.612},
    versions={"keras": "3.15.0"},
)
FIELDS = dataclasses.asdict(CARD)
SPATIAL = dataclasses.replace(CARD, layer="block5_pool", num_regions=49)


def test_an_encoder_card_round_trips():
    assert EncoderCard.from_json(CARD.to_json(), source="x") == CARD
    assert EncoderCard.from_json(CARD.to_json().encode(), source="x") == CARD
    assert EncoderCard.from_fields(dataclasses.asdict(CARD), source="x") == CARD
    assert json.loads(CARD.to_json())["format_version"] == FORMAT_VERSION


def test_a_card_without_regions_is_of_whole_photos():
    """As all cards are that were written before there were regions, and as such cards still are."""
    without = {name: value for name, value in FIELDS.items() if name not in {"num_regions", "precision"}}
    assert CARD.to_fields() == json.loads(CARD.to_json()) == without
    assert EncoderCard.from_fields(without, source="x") == CARD
    assert CARD.shape == (4,)


def test_the_card_of_spatial_features_round_trips():
    assert SPATIAL.to_fields()["num_regions"] == 49
    assert EncoderCard.from_json(SPATIAL.to_json(), source="x") == SPATIAL
    assert SPATIAL.shape == (49, 4)


def test_another_precision_is_another_encoder():
    half = dataclasses.replace(CARD, precision="bfloat16")
    assert half.to_fields()["precision"] == "bfloat16"
    assert EncoderCard.from_json(half.to_json(), source="x") == half
    with pytest.raises(EncoderMismatchError, match="precision 'bfloat16' against 'float32'"):
        half.require_same(CARD, mine="these", others="those")
    with pytest.raises(FormatError, match=r"^x carries no encoder card: precision is 'int4'"):
        EncoderCard.from_fields(FIELDS | {"precision": "int4"}, source="x")


@pytest.mark.parametrize("num_regions", [0, -1, "49", 49.0, True, None, [7, 7]])
def test_regions_are_counted_from_one(num_regions):
    with pytest.raises(FormatError, match=r"^x carries no encoder card"):
        EncoderCard.from_fields(FIELDS | {"num_regions": num_regions}, source="x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"card"',
        "{}",
        b"\xff\xfe",
        f'{{"format_version": {FORMAT_VERSION}}}',
        json.dumps(FIELDS | {"format_version": "one"}),
        json.dumps(FIELDS | {"flavour": "vanilla"}),
        json.dumps({name: value for name, value in FIELDS.items() if name != "weights_hash"}),
    ],
)
def test_a_damaged_encoder_card_is_a_format_error_that_says_where(text):
    with pytest.raises(FormatError, match=r"^part-a\.parquet carries no encoder card"):
        EncoderCard.from_json(text, source="part-a.parquet")


def test_a_newer_encoder_card_is_refused():
    newer = json.dumps(FIELDS | {"format_version": FORMAT_VERSION + 1, "unheard_of": 1})
    with pytest.raises(FormatError, match=r"part-a\.parquet was written by a newer raycap"):
        EncoderCard.from_json(newer, source="part-a.parquet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "vgg16"}, ["name 'tiny' against 'vgg16'"]),
        ({"weights_hash": "ffff"}, ["weights_hash 'a1b2' against 'ffff'"]),
        ({"layer": "fc1"}, ["layer 'fc2' against 'fc1'"]),
        ({"preprocessing": "vgg16"}, ["preprocessing 'in model' against 'vgg16'"]),
        ({"resize": "bilinear"}, ["resize 'nearest' against 'bilinear'"]),
        ({"exif_orientation": True}, ["exif_orientation False against True"]),
        ({"height_px": 224, "width_px": 225}, ["height_px 8 against 224", "width_px 8 against 225"]),
        ({"dim": 4096}, ["dim 4 against 4096"]),
        ({"layer": "conv", "num_regions": 49}, ["layer 'fc2' against 'conv'", "num_regions 1 against 49"]),
    ],
)
def test_require_same_names_what_differs(change, said):
    with pytest.raises(EncoderMismatchError) as error:
        CARD.require_same(dataclasses.replace(CARD, **change), mine="the model", others="the features")
    message = str(error.value)
    assert "the model" in message
    assert "the features" in message
    for part in said:
        assert part in message
    assert message.count(" against ") == len(said)


@pytest.mark.parametrize("change", [{}, {"weights": "/moved/w.keras"}, {"seed": 9}, {"format_version": 0}])
def test_require_same_does_not_mind_where_the_weights_came_from(change):
    CARD.require_same(dataclasses.replace(CARD, **change), mine="a", others="b")


@pytest.mark.parametrize("inside", ["", BUNDLE_FOLDER])
def test_a_model_card_round_trips_from_trains_output_and_from_its_bundle(inside, tmp_path):
    bundle = str(tmp_path / inside) if inside else str(tmp_path)
    write_json(f"{bundle}/{CARD_FILE}", dataclasses.asdict(MODEL))
    assert find_bundle(str(tmp_path)) == bundle
    assert read_card(str(tmp_path)) == MODEL
    assert read_card(bundle) == MODEL
    assert isinstance(read_card(bundle).encoder, EncoderCard)


@pytest.mark.parametrize("encoder", [CARD, SPATIAL], ids=["whole", "spatial"])
def test_a_model_card_is_made_of_its_fields(encoder):
    card = dataclasses.replace(MODEL, encoder=encoder)
    assert ModelCard.from_fields(json.loads(json.dumps(card.to_fields())), source="x") == card


def test_no_model_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"no model in .*run raycap train first"):
        read_card(str(tmp_path))
    with pytest.raises(InputError, match="no model in"):
        find_bundle(str(tmp_path / "nowhere"))


MODEL_FIELDS = dataclasses.asdict(MODEL)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        None,
        "card",
        {},
        {"format_version": FORMAT_VERSION},
        MODEL_FIELDS | {"format_version": None},
        MODEL_FIELDS | {"flavour": "vanilla"},
        MODEL_FIELDS | {"encoder": None},
        MODEL_FIELDS | {"encoder": "vgg16"},
        MODEL_FIELDS | {"encoder": FIELDS | {"flavour": "vanilla"}},
        {name: value for name, value in MODEL_FIELDS.items() if name != "max_length"},
        {name: value for name, value in MODEL_FIELDS.items() if name != "encoder"},
    ],
)
def test_a_damaged_model_card_is_a_format_error_that_says_where(fields, tmp_path):
    write_json(str(tmp_path / CARD_FILE), fields)
    with pytest.raises(FormatError, match=r"card\.json"):
        read_card(str(tmp_path))


def test_half_a_model_card_is_a_format_error(tmp_path):
    write_text(str(tmp_path / CARD_FILE), json.dumps(MODEL_FIELDS)[:100])
    with pytest.raises(FormatError, match=r"card\.json is damaged"):
        read_card(str(tmp_path))


@pytest.mark.parametrize(
    "newer",
    [{"format_version": FORMAT_VERSION + 1}, {"encoder": FIELDS | {"format_version": FORMAT_VERSION + 1}}],
)
def test_a_newer_model_card_is_refused(newer, tmp_path):
    write_json(str(tmp_path / CARD_FILE), MODEL_FIELDS | newer)
    with pytest.raises(FormatError, match=r"card\.json was written by a newer raycap"):
        read_card(str(tmp_path))
