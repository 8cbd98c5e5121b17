"""Bytes to an RGB array, or a named failure; knows neither files, Ray nor TensorFlow."""

import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from raycap.errors import ImageDecodeError, ImageEmptyError, ImageError, ImageTooLargeError

try:
    import pillow_heif
except ImportError:
    pass
else:
    pillow_heif.register_heif_opener()

RESIZE, FAST_RESIZE = "nearest", "dct scaling, nearest"

# fmt: off
PHOTO_EXTENSIONS: Final = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs", ".heic", ".heif", ".hif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".psd", ".qoi", ".sgi", ".rgb", ".rgba", ".bw", ".dds",
    ".ico",
)
# fmt: on
"""A file whose name ends in one of these, in either case, is a photo."""

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

_BITS_PER_SAMPLE = 258


class DecodedImage(NamedTuple):
    """A photo, ready for an encoder.

    Attributes:
        pixels: `(height, width, 3)` uint8, RGB, 0 to 255.
        width_px: of the photo as it was.
        height_px: likewise.
    """

    pixels: NDArray[np.uint8]
    width_px: int
    height_px: int


def decode_image(
    content: bytes | Image.Image,
    *,
    height_px: int,
    width_px: int,
    exif_orientation: bool = False,
    fast: bool = False,
    max_pixels: int | None = None,
) -> DecodedImage:
    """Decode a photo and resize it as `keras.utils.load_img` does: to RGB first, then nearest, regardless of aspect.

    Of an animation the first frame is taken; transparency is dropped; 16 bits a channel are scaled to 8.

    Args:
        content: the file; or a photo that Pillow holds, which is neither closed nor, with `fast`, scaled as it is
            decoded.
        height_px: wanted.
        width_px: wanted.
        exif_orientation: turn the photo as its EXIF orientation says.
        fast: decode a JPEG at the least of 1/8, 1/4 or 1/2 of its size at which neither side is shorter than the longer
            one wanted, by leaving out frequencies; the photo is then resized from there.
        max_pixels: refuse larger photos before they are decoded.

    Raises:
        ImageEmptyError: if there are no bytes.
        ImageDecodeError: if they are not a whole image.
        ImageTooLargeError: if the photo has more than `max_pixels`.
    """
    with _opened(content, max_pixels) as image:
        width, height = image.size
        if fast and image is not content:
            _draft(image, max(width_px, height_px))
        rgb = _upright_rgb(image, exif_orientation)
        if rgb.size != (width_px, height_px):
            rgb = rgb.resize((width_px, height_px), Image.Resampling.NEAREST)
        return DecodedImage(np.asarray(rgb, np.uint8), width, height)


def decode_thumbnail(content: bytes, *, longest_px: int, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Decode a photo for people to look at: upright, smooth, in its proportions.

    Args:
        content: the file.
        longest_px: the longer side at most; a smaller photo stays as it is.
        max_pixels: refuse larger photos before they are decoded.

    Returns:
        `(height, width, 3)` uint8, RGB.

    Raises:
        ImageError: as `decode_image` does.
    """
    with _opened(content, max_pixels) as image:
        _draft(image, longest_px)
        rgb = _upright_rgb(image, exif_orientation=True)
        scale = min(1.0, longest_px / max(rgb.size))
        if scale < 1:
            rgb = rgb.resize((max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))), reducing_gap=3.0)
        return np.asarray(rgb, np.uint8)


@contextmanager
def _opened(content: bytes | Image.Image, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open a photo, or take one that is; what goes wrong with it while it is open is an `ImageError`."""
    if content == b"":
        raise ImageEmptyError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what max_pixels decides, and of EXIF it can do without
            with _image(content) as image:
                _check_size(image, max_pixels)
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        if _is_heif(content) and "HEIF" not in Image.OPEN:
            raise ImageDecodeError("HEIC, which needs pillow-heif: pip install raycap[heif]") from None
        raise ImageDecodeError("not an image, or of a kind that Pillow does not know") from None
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(str(error)) from None
    except MemoryError:
        raise ImageTooLargeError("the photo does not fit in memory") from None
    except Exception as error:  # decoders raise all sorts on damaged files; none may end the run
        raise ImageDecodeError(f"{type(error).__name__}: {error}") from None


def _draft(image: Image.Image, side_px: int) -> None:
    """Have a JPEG decoded at the least fraction at which neither side is shorter than `side_px`."""
    if isinstance(image, JpegImageFile):
        image.draft(None, (side_px, side_px))


def _image(content: bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    return nullcontext(content) if isinstance(content, Image.Image) else Image.open(io.BytesIO(content))


def _is_heif(content: bytes | Image.Image) -> bool:
    return isinstance(content, bytes) and content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS


def _check_size(image: Image.Image, max_pixels: int | None) -> None:
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLargeError(f"{width} x {height} pixels; at most {max_pixels} are allowed")


def _upright_rgb(image: Image.Image, exif_orientation: bool) -> Image.Image:
    if image.format == "EPS":  # Pillow would run Ghostscript, which is no thing to do with strangers' files
        raise ImageDecodeError("EPS is a program, not a photo")
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    upright: Image.Image = ImageOps.exif_transpose(image) if exif_orientation else image
    return _to_rgb(upright, bits)


def _to_rgb(image: Image.Image, bits: int) -> Image.Image:
    if image.mode[0] not in "IF":
        return image if image.mode == "RGB" else image.convert("RGB")
    values = np.asarray(image)  # deeper than 8 bits, which Pillow's own conversion clips
    if image.mode == "F":
        values = np.nan_to_num(values)
        grey = values * (255 if values.max() <= 1 else 1)
    else:
        values = values.astype(np.int64)
        if bits == 32:
            values &= 0xFFFFFFFF  # Pillow has no unsigned 32 bits
        grey = values >> max(0, (bits if bits != 32 or values.max() >= 2**16 else 16) - 8)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
