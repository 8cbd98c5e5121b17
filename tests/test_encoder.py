"""Encoders by name, by weights file and by saved model, with TensorFlow in this process."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from raycap import encoder as encoder_module
from raycap.encoder import hash_weights, load_encoder, load_trainable, reload_encoder
from raycap.errors import EncoderMismatchError, ImageShapeError, InputError, WeightsError
from raycap.images import decode_image
from raycap.input_sizes import APPLICATION_SIZES


@pytest.fixture(scope="module")
def vgg16() -> encoder_module.Encoder:
    return load_encoder("vgg16", weights="random", seed=7)


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3)).astype(np.uint8)


def test_vgg16_is_fc2_of_kerass_own(vgg16: encoder_module.Encoder, photos: np.ndarray) -> None:
    keras.utils.set_random_seed(7)
    whole = keras.applications.VGG16(weights=None)
    fc2 = keras.Model(whole.inputs, whole.get_layer("fc2").output)
    expected = fc2.predict(keras.applications.vgg16.preprocess_input(photos.astype(np.float32)), verbose=0)
    found = vgg16.encode(photos)
    assert found.shape == (2, 4096)
    assert found.min() >= 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert vgg16.card.layer == "fc2"
    assert (vgg16.card.dim, vgg16.card.weights, vgg16.card.seed) == (4096, "random", 7)
    assert vgg16.card.weights_hash == hash_weights(fc2)


def test_whole_path_equals_load_img(vgg16: encoder_module.Encoder, tmp_path: Path) -> None:
    """From a file: our decoding against keras.utils.load_img, to the feature."""
    pixels = np.random.default_rng(1).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path)
    reference = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(224, 224)), dtype="uint8")
    decoded = decode_image(path.read_bytes(), height_px=224, width_px=224).pixels
    np.testing.assert_array_equal(decoded, reference)


def test_same_seed_same_weights_and_reload(vgg16: encoder_module.Encoder) -> None:
    again = reload_encoder(vgg16.card)
    assert again.card == vgg16.card


def test_in_less_precision_features_are_nearly_the_same(vgg16: encoder_module.Encoder, photos: np.ndarray) -> None:
    half = load_encoder("vgg16", weights="random", seed=7, precision="bfloat16")
    check_less_precision(half, vgg16, photos)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_so_are_those_of_a_saved_model_with_a_model_inside(precision: str, tmp_path: Path) -> None:
    inside = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3), keras.layers.GlobalMaxPooling2D()])
    saved = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), inside])
    saved.save(tmp_path / "small.keras")
    photos = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3)).astype(np.uint8)
    whole, half = (load_encoder(str(tmp_path / "small.keras"), precision=each) for each in ("float32", precision))
    check_less_precision(half, whole, photos)
    np.testing.assert_array_equal(reload_encoder(half.card).encode(photos), half.encode(photos))


def check_less_precision(half: encoder_module.Encoder, whole: encoder_module.Encoder, photos: np.ndarray) -> None:
    exact, found = whole.encode(photos), half.encode(photos)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max(), "another arithmetic, and hardly worse"
    assert half.card == dataclasses.replace(whole.card, precision=half.card.precision)
    with pytest.raises(EncoderMismatchError, match="precision"):
        half.card.require_same(whole.card, mine="these", others="those")


def test_wrong_shapes_and_types(vgg16: encoder_module.Encoder, photos: np.ndarray) -> None:
    for wrong in (photos[0], photos[:, :100], photos.astype(np.float32)):
        with pytest.raises(ImageShapeError, match="vgg16 takes"):
            vgg16.encode(wrong)


@pytest.mark.parametrize(("name", "spatial"), [("vgg16", True), ("mobilenetv2", True), ("mobilenetv2", False)])
def test_one_model_with_all_that_is_done_to_pixels(
    name: str, spatial: bool, photos: np.ndarray, tmp_path: Path
) -> None:
    """What is trained further and saved gives the encoder's own features."""
    whole = load_encoder(name, weights="random", seed=7, spatial=spatial)
    load_trainable(name, weights="random", seed=7, spatial=spatial).save(tmp_path / "whole.keras")
    saved = load_encoder(str(tmp_path / "whole.keras"), spatial=spatial)
    assert saved.card.shape == whole.card.shape
    expected = whole.encode(photos)
    np.testing.assert_allclose(saved.encode(photos), expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_weights_from_a_file(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    options = {"include_top": False, "pooling": "avg", "input_shape": (224, 224, 3)}
    source = keras.applications.MobileNetV2(weights=None, **options)
    path = tmp_path / "mobilenet.weights.h5"
    source.save_weights(path)
    loaded = load_encoder("MobileNetV2", weights=str(path))
    assert loaded.card.weights_hash == hash_weights(source)
    assert (loaded.card.name, loaded.card.dim, loaded.card.layer) == ("mobilenetv2", 1280, "avg_pool")
    pixels = np.random.default_rng(2).integers(0, 255, (1, 224, 224, 3)).astype(np.uint8)
    expected = source.predict(keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32)), verbose=0)
    np.testing.assert_allclose(loaded.encode(pixels), expected, rtol=1e-4, atol=1e-6)

    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_encoder("resnet50", weights=str(path))
    moved = tmp_path / "elsewhere.weights.h5"
    path.rename(moved)
    with pytest.raises(WeightsError, match=r"is not at .*mobilenet.weights.h5 any more; .*--encoder-file"):
        reload_encoder(loaded.card)
    assert reload_encoder(loaded.card, file=str(moved)).card.weights_hash == loaded.card.weights_hash


def test_a_changed_file_is_not_the_same_encoder(encoder_file: Path, tmp_path: Path) -> None:
    card = load_encoder(str(encoder_file)).card
    photo = keras.Input((32, 32, 3))
    other = keras.Model(photo, keras.layers.GlobalAveragePooling2D()(photo))
    other.save(tmp_path / "grid.keras")
    with pytest.raises(EncoderMismatchError, match="dim 3 against 48"):
        reload_encoder(card, file=str(tmp_path / "grid.keras"))


# ---- spatial features


def test_vgg16s_regions_are_block5_pool_of_kerass_own(vgg16: encoder_module.Encoder, photos: np.ndarray) -> None:
    encoder = load_encoder("vgg16", weights="random", seed=7, spatial=True)
    keras.utils.set_random_seed(7)
    whole = keras.applications.VGG16(weights=None)
    pool = keras.Model(whole.inputs, whole.get_layer("block5_pool").output)
    expected = pool.predict(keras.applications.vgg16.preprocess_input(photos.astype(np.float32)), verbose=0)
    found = encoder.encode(photos)
    assert (found.shape, found.dtype) == ((2, 49, 512), np.float32)
    for row, column in ((0, 0), (0, 6), (3, 2), (6, 6)):  # rows from the top left
        np.testing.assert_allclose(
            found[:, 7 * row + column], expected[:, row, column], rtol=1e-4, atol=1e-4 * expected.max()
        )
    assert (encoder.card.layer, encoder.card.num_regions, encoder.card.dim) == ("block5_pool", 49, 512)
    assert encoder.card.weights_hash == hash_weights(pool)
    assert reload_encoder(encoder.card).card == encoder.card
    with pytest.raises(EncoderMismatchError, match=r"layer 'fc2' against 'block5_pool'.*num_regions 1 against 49"):
        vgg16.card.require_same(encoder.card, mine="a", others="b")


def test_the_mean_over_regions_is_the_pooled_feature() -> None:
    options = {"weights": "random", "seed": 5}
    pooled, spatial = load_encoder("resnet50", **options), load_encoder("ResNet50", spatial=True, **options)
    pixels = np.random.default_rng(2).integers(0, 255, (2, 224, 224, 3)).astype(np.uint8)
    regions, expected = spatial.encode(pixels), pooled.encode(pixels)
    assert regions.shape == (2, 49, 2048)
    assert np.ptp(regions, axis=1).max() > 0.1 * expected.max() > 0
    np.testing.assert_allclose(regions.mean(axis=1), expected, rtol=1e-5, atol=1e-5 * expected.max())
    assert spatial.card.layer == "feature_map"
    assert reload_encoder(spatial.card).card == spatial.card


def _backbone(kind: str) -> keras.Model:
    """A small encoder of 32 x 32 photos, with 7 x 5 places before its pooling, which lies elsewhere for each kind."""
    layers = keras.layers
    convolutions = [layers.Conv2D(6, (5, 13), strides=(4, 4), activation="relu"), layers.BatchNormalization()]
    pool = layers.GlobalAveragePooling2D(name="pool")
    photo = keras.Input((32, 32, 3))
    scaled = layers.Rescaling(1 / 255)(photo)
    if kind == "sequential":
        return keras.Sequential([photo, *convolutions, pool])
    if kind == "in sequentials":
        return keras.Sequential(
            [photo, keras.Sequential([layers.Rescaling(1 / 255), keras.Sequential([*convolutions, pool])])]
        )
    if kind == "in a backbone":
        pixels = keras.Input((32, 32, 3))
        x = convolutions[1](convolutions[0](pixels))
        return keras.Model(photo, keras.Model(pixels, pool(x), name="backbone")(scaled))
    if kind == "in a backbone in a backbone":
        inner, outer = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
        inside = keras.Model(inner, pool(convolutions[1](convolutions[0](inner))), name="inside")
        backbone = keras.Model(outer, inside(layers.Rescaling(2.0)(outer)), name="backbone")
        return keras.Model(photo, backbone(layers.ReLU()(scaled)))
    if kind == "after a backbone":
        return keras.Model(photo, pool(keras.Sequential(convolutions)(scaled)))
    x = convolutions[1](convolutions[0](scaled))
    if kind == "after another pooling":  # as in squeeze-and-excitation
        gate = layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D(name="squeeze")(x))
        x = layers.Multiply()([x, layers.Reshape((1, 1, 6))(gate)])
    if kind == "keeping dimensions":
        kept = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
        return keras.Model(photo, layers.Flatten()(layers.Activation("linear")(kept)))
    return keras.Model(photo, pool(x))


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("plain", "input of pool"),
        ("sequential", "input of pool"),
        ("after a backbone", "input of pool"),
        ("after another pooling", "input of pool"),
        ("keeping dimensions", "input of pool"),
        ("in a backbone", "input of backbone/pool"),
        ("in a backbone in a backbone", "input of backbone/inside/pool"),
        ("in sequentials", r"input of sequential\w*/sequential\w*/pool"),
    ],
)
def test_the_regions_of_a_saved_model(kind: str, layer: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    path = str(tmp_path / "model.keras")
    model = _backbone(kind)
    for weights in model.weights:  # so that places differ by far more than rounding does
        weights.assign(np.random.default_rng(len(weights.shape)).uniform(0.1, 1, weights.shape))
    model.save(path)
    pixels = np.random.default_rng(6).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    spatial = load_encoder(path, spatial=True)
    regions, expected = spatial.encode(pixels), load_encoder(path).encode(pixels)
    assert (regions.shape, regions.dtype) == ((3, 35, 6), np.float32)
    assert spatial.card.shape == (35, 6)
    assert np.ptp(regions, axis=1).max() > 0.01 * expected.max() > 0
    np.testing.assert_allclose(regions.mean(axis=1), expected, rtol=1e-5)
    assert re.fullmatch(layer, spatial.card.layer)
    again = reload_encoder(spatial.card)
    assert again.card == spatial.card
    np.testing.assert_array_equal(again.encode(pixels), regions)
    model.set_weights([weights + 1 for weights in model.get_weights()])
    model.save(path)
    with pytest.raises(EncoderMismatchError, match="weights_hash"):
        reload_encoder(spatial.card)


@pytest.mark.parametrize("kind", ["flat", "only another pooling", "one place", "channels first"])
def test_a_saved_model_without_a_feature_map_is_named(kind: str, tmp_path: Path) -> None:
    layers = keras.layers
    photo = keras.Input((32, 32, 3))
    x = layers.AveragePooling2D(32 if kind == "one place" else 4)(photo)
    if kind == "flat":
        x = layers.Flatten()(x)
    elif kind == "only another pooling":
        gate = layers.Reshape((1, 1, 3))(layers.GlobalAveragePooling2D()(x))
        x = layers.Flatten()(layers.Multiply()([x, gate]))
    else:
        order = "channels_first" if kind == "channels first" else "channels_last"
        x = layers.GlobalAveragePooling2D(data_format=order)(x)
    keras.Model(photo, x).save(tmp_path / "model.keras")
    path = str(tmp_path / "model.keras")
    assert load_encoder(path).card.num_regions == 1
    with pytest.raises(WeightsError, match=r"model\.keras .*spatial features need .*GlobalAveragePooling2D"):
        load_encoder(path, spatial=True)


def test_a_download_that_fails_says_where_the_file_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The fault is injected: whether this machine has internet must not decide the test."""
    url = "https://example.invalid/models/vgg16_weights_tf_dim_ordering_tf_kernels.h5"

    def fail(*arguments: object, **options: object) -> None:
        raise Exception(f"URL fetch failure on {url}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr("keras.src.applications.vgg16.file_utils.get_file", fail)
    with pytest.raises(
        WeightsError, match=r"vgg16_weights_tf_dim_ordering_tf_kernels.h5.*put it in .*models.*--weights"
    ):
        load_encoder("vgg16")


@pytest.mark.parametrize(
    ("content", "says"), [(b"not a zip", "is not a saved Keras model"), (None, "there is no saved model")]
)
def test_saved_models_that_are_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "model.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        load_encoder(str(path))


def test_saved_model_that_is_no_encoder(tmp_path: Path) -> None:
    photo = keras.Input((32, 32, 3))
    keras.Model(photo, keras.layers.Conv2D(2, 3)(photo)).save(tmp_path / "map.keras")
    with pytest.raises(WeightsError, match="one row a photo"):
        load_encoder(str(tmp_path / "map.keras"))


def test_every_size_belongs_to_a_keras_application() -> None:
    for name in APPLICATION_SIZES:
        assert callable(encoder_module._find_application(name)[1])
    # the sizes themselves, where Keras tells them without building a large model
    for name in ("efficientnetb1", "nasnetmobile", "inceptionv3", "efficientnetv2b2"):
        build = encoder_module._find_application(name)[1]
        assert build(weights=None).input_shape[1] == APPLICATION_SIZES[name]
