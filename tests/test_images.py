import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from raycap.errors import ImageDecodeError, ImageEmptyError, ImageError, ImageTooLargeError
from raycap.images import decode_image

HEIGHT, WIDTH = 24, 20  # what is asked for, unlike either photo's aspect
ORIENTATION = 0x0112


def picture(mode="RGB", width=37, height=29, seed=0):
    """A photo of a smooth colour field with some noise in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    field = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=-1)
    image = Image.fromarray(np.clip(field + rng.normal(0, 20, field.shape), 0, 255).astype(np.uint8))
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray((255 * x / width).astype(np.uint8)))
        return image.convert(mode)
    if mode == "P":
        return image.quantize(64)
    if mode == "I;16":
        return Image.fromarray(np.linspace(0, 65535, width * height).reshape(height, width).astype(np.uint16))
    return image.convert(mode)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind):
    first, *others = (picture(seed=seed) for seed in range(3))
    return encode(first, kind, save_all=True, append_images=[each.rotate(180) for each in others], duration=100)


PHOTOS = {
    "rgb.png": encode(picture(), "PNG"),
    "rgb.jpg": encode(picture(), "JPEG"),
    "progressive.jpg": encode(picture(), "JPEG", progressive=True),
    "grey.png": encode(picture("L"), "PNG"),
    "grey.jpg": encode(picture("L"), "JPEG"),
    "palette.png": encode(picture("P"), "PNG"),
    "palette-transparent.png": encode(picture("P"), "PNG", transparency=3),
    "palette-alpha.png": encode(picture("P"), "PNG", transparency=bytes(range(0, 256, 4))),
    "grey-transparent.png": encode(picture("L"), "PNG", transparency=100),
    "rgba.png": encode(picture("RGBA"), "PNG"),
    "la.png": encode(picture("LA"), "PNG"),
    "cmyk.jpg": encode(picture("CMYK"), "JPEG"),
    "one-bit.png": encode(picture("1"), "PNG"),
    "still.gif": encode(picture("P"), "GIF"),
    "animated.gif": frames("GIF"),
    "still.webp": encode(picture(), "WEBP"),
    "rgba.webp": encode(picture("RGBA"), "WEBP", lossless=True),
    "animated.webp": frames("WEBP"),
    "rgb.bmp": encode(picture(), "BMP"),
    "palette.bmp": encode(picture("P"), "BMP"),
    "rgb.tiff": encode(picture(), "TIFF"),
    "lzw.tiff": encode(picture(), "TIFF", compression="tiff_lzw"),
    "cmyk.tiff": encode(picture("CMYK"), "TIFF"),
    "ycbcr.jpg": encode(picture("YCbCr"), "JPEG"),
}


def decode(content, *, height_px=HEIGHT, width_px=WIDTH, **options):
    return decode_image(content, height_px=height_px, width_px=width_px, **options)


def reference(content):
    """What keras.utils.load_img gives, in the words of its documentation."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # of the reference
@pytest.mark.parametrize("name", PHOTOS)
def test_every_kind_of_photo_is_decoded_as_keras_does(name):
    decoded = decode(PHOTOS[name])
    assert decoded.pixels.shape == (HEIGHT, WIDTH, 3)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width_px, decoded.height_px) == (37, 29)
    np.testing.assert_array_equal(decoded.pixels, reference(PHOTOS[name]))
    assert decoded.pixels.std() > 10  # a picture, not a plane


def test_keras_itself_agrees(tmp_path):
    for name, content in PHOTOS.items():
        (tmp_path / name).write_bytes(content)
    script = (
        "import sys, pathlib, numpy, keras\n"
        "names = sys.argv[2:]\n"
        f"load = lambda name: keras.utils.load_img(pathlib.Path(sys.argv[1], name), target_size=({HEIGHT}, {WIDTH}))\n"
        "numpy.savez(pathlib.Path(sys.argv[1], 'out.npz'), **{name: numpy.asarray(load(name)) for name in names})\n"
    )
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path), *PHOTOS], env=environment, check=True)
    with np.load(tmp_path / "out.npz") as loaded:
        for name, content in PHOTOS.items():
            np.testing.assert_array_equal(decode(content).pixels, loaded[name], err_msg=name)


def test_a_photo_of_the_right_size_is_left_as_it_is():
    content = encode(picture(width=WIDTH, height=HEIGHT), "PNG")
    np.testing.assert_array_equal(decode(content).pixels, np.asarray(picture(width=WIDTH, height=HEIGHT)))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (1000, 700)])
def test_any_size_is_brought_to_the_one_asked_for(size):
    content = encode(picture(width=size[0], height=size[1]), "PNG")
    decoded = decode(content)
    assert (decoded.width_px, decoded.height_px) == size
    np.testing.assert_array_equal(decoded.pixels, reference(content))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(kind):
    image = picture("I;16")
    pixels = decode(encode(image, kind), height_px=29, width_px=37).pixels
    expected = (np.asarray(image) >> 8).astype(np.uint8)
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, np.newaxis], 3, axis=2))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert 120 < pixels.mean() < 135  # clipped, it would be all but white


def test_16_bits_of_either_byte_order():
    values = np.linspace(0, 65535, 29 * 37).reshape(29, 37).astype(">u2")
    content = encode(Image.frombytes("I;16B", (37, 29), values.tobytes()), "TIFF")
    pixels = decode(content, height_px=29, width_px=37).pixels
    np.testing.assert_array_equal(pixels[:, :, 0], (values >> 8).astype(np.uint8))


def png(width, height, *, bit_depth=8, colour=2, rows=b""):
    """A PNG written by hand, so that its header may say anything."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits_a_channel_in_colour_are_scaled():
    values = np.linspace(0, 65535, 4 * 5 * 3).reshape(4, 5, 3).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    pixels = decode(png(5, 4, bit_depth=16, rows=rows), height_px=4, width_px=5).pixels
    np.testing.assert_allclose(pixels, values / 257, atol=1.01)


def test_an_animations_first_frame_is_taken():
    first = np.asarray(picture(), int)
    pixels = decode(frames("GIF"), height_px=29, width_px=37).pixels
    assert np.abs(pixels - first).mean() < 20
    assert np.abs(pixels - first[::-1, ::-1]).mean() > 40  # the others are upside down


@pytest.mark.parametrize("orientation", [None, *range(10)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, kind):
    upright = picture(width=40, height=16)
    turns = Image.Transpose
    undo = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = encode(stored, kind, exif=exif, **options)
    tolerance = 12 if kind == "JPEG" else 0
    if kind == "TIFF":  # Pillow turns these upright itself, for keras.utils.load_img as well
        stored = upright
    turned = decode(content, height_px=16, width_px=40, exif_orientation=True)
    assert np.abs(turned.pixels.astype(int) - np.asarray(upright)).mean() <= tolerance
    plain = decode(content, height_px=stored.height, width_px=stored.width)
    assert np.abs(plain.pixels.astype(int) - np.asarray(stored)).mean() <= tolerance
    assert (plain.width_px, plain.height_px) == stored.size


@pytest.mark.parametrize(
    ("size", "scale"), [((79, 63), 1), ((80, 64), 2), ((160, 131), 4), ((321, 256), 8), ((1500, 900), 8)]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_decoding_is_of_a_smaller_photo(size, scale, orientation):
    """Nearly the means of 8, 4 or 2 pixels a side, and never fewer pixels than are wanted, turned or not."""
    photo = picture(width=size[0], height=size[1])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encode(photo, "JPEG", exif=exif, quality=95, subsampling=0)
    wanted = {"height_px": 30, "width_px": 32, "exif_orientation": True}
    fast = decode(content, fast=True, **wanted)
    assert (fast.width_px, fast.height_px) == size
    small = Image.open(io.BytesIO(content)).convert("RGB").reduce(scale)
    assert min(small.size) >= 32
    upright = small.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else small
    expected = np.asarray(upright.resize((32, 30), Image.Resampling.NEAREST), int)
    assert np.abs(fast.pixels - expected).mean() < 4
    if scale == 1:
        np.testing.assert_array_equal(fast.pixels, decode(content, **wanted).pixels)
    else:
        assert (fast.pixels != decode(content, **wanted).pixels).any()


@pytest.mark.parametrize("name", [name for name in PHOTOS if not name.endswith((".jpg", ".mpo"))])
def test_fast_decoding_of_what_is_no_jpeg_is_as_ever(name):
    np.testing.assert_array_equal(decode(PHOTOS[name], fast=True).pixels, decode(PHOTOS[name]).pixels)


def test_fast_decoding_refuses_by_the_size_of_the_whole_photo():
    content = encode(picture(width=1500, height=900), "JPEG")
    with pytest.raises(ImageTooLargeError, match="1500 x 900"):
        decode(content, fast=True, max_pixels=1500 * 900 - 1)


def test_damaged_exif_does_not_cost_the_photo():
    content = encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 20)
    pixels = decode(content, exif_orientation=True).pixels
    np.testing.assert_array_equal(pixels, decode(PHOTOS["rgb.jpg"]).pixels)


NOT_PHOTOS = {
    "text": b"this is not a photo",
    "html": b"<!DOCTYPE html><title>404</title>",
    "zeros": bytes(5000),
    "jpeg marker only": b"\xff\xd8\xff",
    "png signature only": b"\x89PNG\r\n\x1a\n",
    "gif header only": b"GIF89a",
    "pdf": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    "parquet": b"PAR1" + bytes(100) + b"PAR1",
}


@pytest.mark.parametrize("name", NOT_PHOTOS)
def test_what_is_no_photo_is_a_decode_error(name):
    with pytest.raises(ImageDecodeError):
        decode(NOT_PHOTOS[name])


def test_an_empty_file_is_named():
    with pytest.raises(ImageEmptyError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.filterwarnings("error")
def test_a_truncated_photo_never_ends_the_run(name):
    content = PHOTOS[name]
    for length in sorted({*range(1, 60), *range(60, len(content), max(1, len(content) // 60)), len(content) - 1}):
        try:
            decoded = decode(content[:length], exif_orientation=bool(length % 2))
        except ImageDecodeError:
            continue
        assert decoded.pixels.shape == (HEIGHT, WIDTH, 3)  # the first frame, or all but the trailer, was whole


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb.bmp", "still.webp", "rgb.tiff"])
def test_half_a_photo_is_a_decode_error(name):
    with pytest.raises(ImageDecodeError):
        decode(PHOTOS[name][: len(PHOTOS[name]) // 2])


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.filterwarnings("error")
def test_a_damaged_photo_never_ends_the_run(name):
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(PHOTOS[name])
        for position in rng.integers(0, len(damaged), 3):
            damaged[position] = rng.integers(256)
        with contextlib.suppress(ImageError):
            assert decode(bytes(damaged), exif_orientation=True, max_pixels=10**7).pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("max_pixels", "fits"), [(37 * 29, True), (37 * 29 - 1, False), (1, False), (None, True)])
def test_max_pixels(max_pixels, fits):
    if fits:
        assert decode(PHOTOS["rgb.jpg"], max_pixels=max_pixels).width_px == 37
        return
    with pytest.raises(ImageTooLargeError, match=f"37 x 29 pixels; at most {max_pixels} are allowed"):
        decode(PHOTOS["rgb.jpg"], max_pixels=max_pixels)


HUGE = {
    "png": png(12_000, 12_000),
    "bmp": PHOTOS["rgb.bmp"][:18] + struct.pack("<ii", 12_000, 12_000) + PHOTOS["rgb.bmp"][26:],
    "gif": PHOTOS["still.gif"][:6] + struct.pack("<HH", 12_000, 12_000) + PHOTOS["still.gif"][10:],
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_small_file_that_claims_to_be_huge_fails_before_it_is_decoded(kind, monkeypatch):
    def decoded(*_, **__):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(Image.Image, "load", decoded)
    with pytest.raises(ImageTooLargeError, match="12000 x 12000 pixels; at most 1000000"):
        decode(HUGE[kind], max_pixels=10**6)


@pytest.mark.parametrize("max_pixels", [None, 10**6, 10**12])
@pytest.mark.filterwarnings("error")
def test_a_decompression_bomb_is_too_large_whatever_is_allowed(max_pixels):
    with pytest.raises(ImageTooLargeError):
        decode(png(100_000, 100_000), max_pixels=max_pixels)


@pytest.mark.filterwarnings("error")
def test_pillows_warning_below_its_limit_is_not_shown(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 29 - 1)
    assert decode(PHOTOS["rgb.png"], max_pixels=10**6).width_px == 37


def test_no_memory_is_too_large(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(ImageTooLargeError, match="memory"):
        decode(PHOTOS["rgb.png"])


def test_extensions_play_no_part_and_pixels_may_be_kept():
    first = decode(PHOTOS["rgb.png"]).pixels
    kept = first.copy()
    decode(PHOTOS["grey.jpg"])
    np.testing.assert_array_equal(first, kept)  # no buffer is shared between calls


def test_eps_is_refused_unread() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="EPS")
    with pytest.raises(ImageDecodeError, match="EPS"):
        decode_image(buffer.getvalue(), height_px=8, width_px=8)


def test_a_photo_that_pillow_holds_is_decoded_as_its_file_is_and_stays_as_it_was():
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[274] = 6  # turn by a quarter
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (30, 20, 3)).astype(np.uint8)).save(buffer, "JPEG", exif=exif)
    for options in ({}, {"exif_orientation": True}):
        with Image.open(buffer) as held:
            found = decode_image(held, height_px=9, width_px=7, **options)
            assert held.size == (20, 30)
            assert held.getpixel((0, 0))  # still open
        expected = decode_image(buffer.getvalue(), height_px=9, width_px=7, **options)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert found[1:] == expected[1:]
    with Image.open(io.BytesIO(buffer.getvalue()[:-200])) as cut_short, pytest.raises(ImageDecodeError):
        decode_image(cut_short, height_px=9, width_px=7)
    with pytest.raises(ImageTooLargeError):
        decode_image(Image.new("RGB", (3, 3)), height_px=9, width_px=7, max_pixels=8)
