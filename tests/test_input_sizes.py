import json
import zipfile

import pytest

from raycap.errors import InputError, WeightsError
from raycap.input_sizes import APPLICATION_SIZES, input_size, is_saved


def layer(shape, kind="InputLayer"):
    return {"class_name": kind, "config": {"batch_shape": shape, "dtype": "float32", "name": "x"}}


def model_config(*shapes, kind="Functional"):
    inputs = [layer(shape) for shape in shapes]
    return {"class_name": kind, "config": {"layers": [*inputs, {"class_name": "Dense", "config": {"units": 8}}]}}


def saved_model(folder, config, name="encoder.keras"):
    """A .keras file as far as its configuration goes; nothing else of it is looked at."""
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config if isinstance(config, str | bytes) else json.dumps(config))
        archive.writestr("model.weights.h5", b"")
    return path


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vgg16", 224),
        ("VGG16", 224),
        ("MobileNetV2", 224),
        ("ResNet50", 224),
        ("InceptionV3", 299),
        ("Xception", 299),
        ("NASNetLarge", 331),
        ("EfficientNetB0", 224),
        ("efficientnetb7", 600),
        ("EfficientNetV2S", 384),
        ("ConvNeXtXLarge", 224),
    ],
)
def test_known_names_in_any_case(name, side):
    assert input_size(name) == (side, side)


@pytest.mark.parametrize("name", ["vgg17", "", "clip", "vgg16.h5", "./vgg16"])
def test_an_unknown_name_is_an_input_error_that_lists_the_names(name):
    with pytest.raises(InputError) as error:
        input_size(name)
    assert repr(name) in str(error.value)
    for known in ("vgg16", "mobilenetv2", "efficientnetb7", ".keras"):
        assert known in str(error.value)


def test_every_name_is_found_as_it_is_listed():
    for name, side in APPLICATION_SIZES.items():
        assert input_size(name) == input_size(name.upper()) == (side, side)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [([None, 224, 224, 3], (224, 224)), ([None, 120, 160, 3], (120, 160)), ([8, 32, 32, 3], (32, 32))],
)
@pytest.mark.parametrize("kind", ["Functional", "Sequential"])
def test_a_saved_model_says_its_own_size(shape, expected, kind, tmp_path):
    path = saved_model(tmp_path, model_config(shape, kind=kind))
    assert input_size(str(path)) == expected
    assert input_size(f"file://{path}") == expected


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [[None, 4096]],
        [[None, 224, 224, 1]],
        [[None, 224, 224]],
        [[None, None, None, 3]],
        [[None, 3, 224, 224]],
        [[None, 224, 224, 3], [None, 34]],
        [[None, 224, 224, 3], [None, 224, 224, 3]],
        [None],
    ],
)
def test_a_saved_model_that_does_not_take_one_photo_is_a_weights_error(shapes, tmp_path):
    with pytest.raises(WeightsError, match=r"encoder\.keras"):
        input_size(str(saved_model(tmp_path, model_config(*shapes))))


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"config": []}',
        '{"config": {}}',
        '{"config": {"layers": null}}',
        '{"config": {"layers": [3]}}',
        '{"config": {"layers": [{"class_name": "InputLayer", "config": {}}]}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_configuration_that_is_none_is_a_weights_error(config, tmp_path):
    with pytest.raises(WeightsError, match=r"encoder\.keras is not a saved Keras model"):
        input_size(str(saved_model(tmp_path, config)))


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n old weights", b"PK\x03\x04 no more", bytes(1000)])
def test_what_is_no_archive_is_a_weights_error(content, tmp_path):
    (tmp_path / "encoder.keras").write_bytes(content)
    with pytest.raises(WeightsError, match=r"encoder\.keras is not a saved Keras model"):
        input_size(str(tmp_path / "encoder.keras"))


def test_a_damaged_archive_is_a_weights_error(tmp_path):
    path = saved_model(tmp_path, model_config([None, 224, 224, 3]))
    whole = path.read_bytes()
    for length in (10, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            input_size(str(path))
    with zipfile.ZipFile(saved_model(tmp_path, model_config([None, 224, 224, 3]))) as archive:
        place = archive.getinfo("config.json").header_offset + 30 + len("config.json")
    path.write_bytes(whole[:place] + b"\xff" * 20 + whole[place + 20 :])
    with pytest.raises(WeightsError):
        input_size(str(path))


def test_an_archive_without_a_configuration_is_a_weights_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "encoder.keras", "w") as archive:
        archive.writestr("photos/a.jpg", b"")
    with pytest.raises(WeightsError, match="not a saved Keras model"):
        input_size(str(tmp_path / "encoder.keras"))


def test_a_saved_model_in_a_store_whose_address_has_a_query():
    assert is_saved("s3://bucket/encoder/vgg16-finetuned.keras?endpoint_override=localhost:9000")
    assert not is_saved("vgg16")


def test_a_missing_saved_model_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"no saved model at .*nowhere\.keras"):
        input_size(str(tmp_path / "nowhere.keras"))
