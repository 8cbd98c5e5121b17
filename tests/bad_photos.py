"""A folder of bad, odd and good photos, made on the spot; each says what must become of it.

`build` makes the folder. A kind is known by its path in it, and says what it may end in: `CAPTIONED`, the name of an
error, or nothing, where it must not be taken for a photo. `shows` is what a photo that is decoded must look like, so
that no garbage goes through.
"""

import contextlib
import gzip
import io
import os
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

from raycap.config import LimitsConfig

CAPTIONED = "captioned"
MISSING, EMPTY, DECODE = "ImageMissingError", "ImageEmptyError", "ImageDecodeError"
TOO_LARGE, TIMEOUT = "ImageTooLargeError", "ImageTimeoutError"

LIMITS = LimitsConfig(max_pixels=4_000_000, max_bytes=16 * 2**20, photo_timeout_s=10)
"""What the folder is made for; only the slow JPEG takes seconds."""

SLOW = "a hundred thousand scans.jpg"
WIDTH, HEIGHT = 64, 48

Make = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of photo.

    Attributes:
        content: the file's, or what makes something else at a path.
        ends_in: what may become of it; empty where it is not listed.
        why: it may end in more than one.
        shows: what is to be seen on it, if it is decoded.
    """

    content: bytes | Make
    ends_in: tuple[str, ...]
    why: str = ""
    shows: Image.Image | None = None


Kinds = Iterator[tuple[str, Kind]]


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth field of colours, another in each corner."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)).convert(mode)


PICTURE = picture()
GREY = picture("L").convert("RGB")


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def good(content: bytes | Make, shows: Image.Image | None = PICTURE) -> Kind:
    return Kind(content=content, ends_in=(CAPTIONED,), shows=shows)


def bad(content: bytes | Make, error: str = DECODE) -> Kind:
    return Kind(content=content, ends_in=(error,))


def either(content: bytes | Make, why: str, *, shows: Image.Image | None = None) -> Kind:
    return Kind(content=content, ends_in=(CAPTIONED, DECODE), why=why, shows=shows)


def unlisted(content: bytes | Make) -> Kind:
    return Kind(content=content, ends_in=())


JPEG = encode(PICTURE, "JPEG", quality=95, subsampling=0)
PNG = encode(PICTURE, "PNG")
GIF = encode(PICTURE.quantize(128), "GIF")


def build(folder: Path) -> dict[str, Kind]:
    """Make the folder; return the kinds in it by path. A name that the filesystem does not take is left out."""
    kinds: dict[str, Kind] = {}
    for group in _GROUPS:
        for name, kind in group():
            if name in kinds:
                raise ValueError(f"{name!r} is there twice")
            path = os.path.join(os.fsencode(folder), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if callable(kind.content):
                kind.content(path)
            elif not _write(path, kind.content):
                continue
            kinds[name] = kind
    blocked = os.fsencode(folder / "no permission.jpg")
    if not os.access(blocked, os.R_OK):  # what it ends in is known after all
        kinds["no permission.jpg"] = replace(kinds["no permission.jpg"], ends_in=(MISSING,))
    return kinds


def _write(path: bytes, content: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(content)
    except OSError as error:
        if isinstance(error, FileExistsError) or os.fsdecode(path).isascii():
            raise
        return False  # macOS takes no name that is not UTF-8
    return True


# JPEG


def jpeg_segments(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of each segment of a baseline JPEG, the scan's data left out."""
    names = {0xD8: "SOI", 0xE0: "APP0", 0xDB: "DQT", 0xC0: "SOF", 0xC4: "DHT", 0xDA: "SOS"}
    yield names[content[1]], 0, 2
    position = 2
    while position < len(content):
        marker, length = content[position + 1], struct.unpack_from(">H", content, position + 2)[0]
        yield names[marker], position, position + 2 + length
        if marker == 0xDA:
            return
        position += 2 + length


def jpegs() -> Kinds:
    yield "good.jpg", good(JPEG)
    for number, (name, start, end) in enumerate(jpeg_segments(JPEG)):
        yield f"jpeg/ends at marker {number:02d} {name}.jpg", bad(JPEG[: start + 2])
        yield f"jpeg/ends in segment {number:02d} {name}.jpg", bad(JPEG[: (start + 2 + end) // 2])
        yield f"jpeg/ends after segment {number:02d} {name}.jpg", bad(JPEG[:end])
    scan = end
    for share in (10, 50, 90):
        yield f"jpeg/ends after {share} percent of the scan.jpg", bad(JPEG[: scan + (len(JPEG) - scan) * share // 100])
    no_end = either(JPEG[:-2], "every pixel is there; whether more is waited for depends on the libjpeg", shows=PICTURE)
    yield "jpeg/no EOI.jpg", no_end
    yield "jpeg/half an EOI.jpg", replace(no_end, content=JPEG[:-1])
    yield "jpeg/text after EOI.jpg", good(JPEG + b"trailing text " * 1000)
    yield "jpeg/zeros after EOI.jpg", good(JPEG + bytes(100_000))
    yield (
        "jpeg/end is zeros.jpg",
        either(
            JPEG[: -len(JPEG) // 4] + bytes(len(JPEG) // 4),
            "zeros are valid Huffman codes: no decoder can tell, except by where the scan ends",
        ),
    )
    yield "jpeg/two photos.jpg", good(JPEG + encode(PICTURE.rotate(180), "JPEG"))
    progressive = encode(PICTURE, "JPEG", progressive=True, quality=95)
    yield "jpeg/progressive.jpg", good(progressive)
    second_scan = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 2)
    yield "jpeg/progressive ends after one scan.jpg", bad(progressive[:second_scan])
    yield "jpeg/restart markers.jpg", good(encode(PICTURE, "JPEG", restart_marker_blocks=4, quality=95))
    no_tables = b"".join(JPEG[start:end] for name, start, end in jpeg_segments(JPEG) if name != "DHT") + JPEG[scan:]
    yield (
        "jpeg/no Huffman tables.jpg",
        either(no_tables, "a libjpeg may fall back on the standard tables, as for Motion JPEG"),
    )
    unquantized = b"".join(JPEG[start:end] for name, start, end in jpeg_segments(JPEG) if name != "DQT") + JPEG[scan:]
    yield "jpeg/no quantization tables.jpg", bad(unquantized)
    frame = JPEG.index(b"\xff\xc0")
    yield (
        "jpeg/arithmetic header.jpg",
        either(
            JPEG[: frame + 1] + b"\xc9" + JPEG[frame + 2 :],
            "arithmetic decoding, which not all libjpegs have, takes any bits",
        ),
    )
    yield "jpeg/lossless header.jpg", bad(JPEG[: frame + 1] + b"\xc3" + JPEG[frame + 2 :])
    yield "jpeg/no rows.jpg", bad(_jpeg_of_size(WIDTH, 0))
    yield "jpeg/no columns.jpg", bad(_jpeg_of_size(0, HEIGHT))
    yield (
        SLOW,
        Kind(content=many_scans(100_000), ends_in=(TIMEOUT, CAPTIONED), why="a far faster machine decodes it in time"),
    )


def _jpeg_of_size(width: int, height: int) -> bytes:
    frame = JPEG.index(b"\xff\xc0")
    return JPEG[: frame + 5] + struct.pack(">HH", height, width) + JPEG[frame + 9 :]


def many_scans(count: int) -> bytes:
    """A progressive JPEG, grey, of 2000 x 2000, whose every scan says in 4 bytes that it changes no block."""
    side = 2000
    blocks = (side // 8) ** 2

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    def bits(text: str) -> bytes:
        text += "1" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")

    def table(number: int, symbol: int) -> bytes:  # one symbol, of one bit: 0
        return segment(0xC4, bytes([number, 1, *[0] * 15, symbol]))

    first = segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0])) + bits("0" * blocks)
    runs, left = "", blocks
    while left:
        run = min(left, 32767)
        if run < 16384:
            raise ValueError("the last run needs another symbol")
        runs, left = runs + "0" + f"{run - 16384:014b}", left - run
    other = segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0])) + bits(runs)
    start = b"\xff\xd8" + segment(0xDB, bytes([0, *[1] * 64]))
    start += segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
    return start + table(0x00, 0) + table(0x10, 0xE0) + first + other * count + b"\xff\xd9"


# PNG


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    rows: bytes | None,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    depth: int = 8,
    colour: int = 2,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG written by hand, so that it may say anything; `rows` has a filter's byte before each."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + after + chunk(b"IEND", b"")


def png_rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


RGB_ROWS = png_rows(np.asarray(PICTURE))


def pngs() -> Kinds:
    yield "good.png", good(PNG)
    data = PNG.index(b"IDAT")
    yield "png/signature only.png", bad(PNG[:8])
    yield "png/ends in IHDR.png", bad(PNG[:20])
    yield "png/ends after IHDR.png", bad(PNG[:33])
    yield "png/ends at IDAT.png", bad(PNG[: data + 4])
    yield "png/ends in IDAT.png", bad(PNG[: (data + len(PNG)) // 2])
    interlaced = _adam7()
    yield "png/interlaced.png", good(interlaced)
    yield "png/interlaced ends in IDAT.png", bad(interlaced[: len(interlaced) * 2 // 3])
    yield "png/no IEND.png", good(PNG[:-12])
    yield "png/no IDAT.png", bad(png(None))
    yield "png/bad CRC of IHDR.png", bad(PNG[:29] + b"\0\0\0\0" + PNG[33:])
    whole = png(RGB_ROWS)
    yield (
        "png/bad CRC of IDAT.png",
        either(
            whole[:-16] + b"\0\0\0\0" + whole[-12:],
            "the data is right, its checksum is not: Pillow does not look, libpng does",
            shows=PICTURE,
        ),
    )
    middle = (data + len(PNG)) // 2
    yield "png/zeros in IDAT.png", bad(PNG[:middle] + bytes(200) + PNG[middle + 200 :])
    yield (
        "png/too few rows.png",
        either(
            png(RGB_ROWS[: len(RGB_ROWS) // 2]),
            "a whole zlib stream, of half the rows: libpng refuses it, Pillow does not",
        ),
    )
    yield "png/too many rows.png", good(png(RGB_ROWS * 3))
    yield "png/filter of no kind.png", bad(png(b"\x09" + RGB_ROWS[1:]))
    yield "png/no pixels.png", bad(png(b"", width=0, height=0))
    yield "png/depth of 3 bits.png", bad(png(RGB_ROWS, depth=3))
    yield (
        "png/palette missing.png",
        either(
            png(png_rows(np.asarray(PICTURE.quantize(128))), colour=3),
            "libpng refuses it, Pillow takes the numbers for grey",
        ),
    )
    yield (
        "png/palette too short.png",
        good(png(png_rows(np.asarray(PICTURE.quantize(128))), colour=3, before=chunk(b"PLTE", b"\1\2\3")), None),
    )
    yield (
        "png/unknown critical chunk.png",
        either(
            png(RGB_ROWS, before=chunk(b"ABCD", b"?")), "a decoder has to refuse it; Pillow does not", shows=PICTURE
        ),
    )
    yield "png/chunk of 4 GB.png", bad(PNG[:33] + b"\xff\xff\xff\xffabCd" + PNG[33:])
    text = b"Comment\0\0" + zlib.compress(bytes(64 * 2**20))
    for name, place in (("before", "before"), ("after", "after")):
        yield (
            f"png/64 MB of zTXt {name} the pixels.png",
            either(
                png(RGB_ROWS, **{place: chunk(b"zTXt", text)}),
                "the pixels are fine, and Pillow's limit on text is Pillow's",
                shows=PICTURE,
            ),
        )
    yield (
        "png/64 MB of profile.png",
        either(
            png(RGB_ROWS, before=chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(64 * 2**20)))),
            "as for text",
            shows=PICTURE,
        ),
    )
    yield "png/100 000 chunks.png", good(png(RGB_ROWS, before=chunk(b"tEXt", b"a\0b") * 100_000))
    yield "png/64 MB after the last row.png", good(png(RGB_ROWS + bytes(64 * 2**20)))
    yield (
        "png/broken profile.png",
        good(png(RGB_ROWS, before=chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"not a profile")))),
    )
    yield (
        "png/profile that is not zlib.png",
        either(
            png(RGB_ROWS, before=chunk(b"iCCP", b"icc\0\0not zlib")),
            "the pixels are fine; Pillow may give up",
            shows=PICTURE,
        ),
    )
    yield "png/broken eXIf.png", good(png(RGB_ROWS, before=chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")))


def _adam7() -> bytes:
    values = np.asarray(PICTURE)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(png_rows(np.ascontiguousarray(values[y::down, x::right])) for y, x, down, right in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# the other formats, whole and cut


def tiff(
    data: bytes, *, width: int = WIDTH, height: int = HEIGHT, following: int = 0, **tags: tuple[int, ...]
) -> bytes:
    """A TIFF of one strip written by hand, its directory before its data."""
    fields: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: tags.get("bits", (8, 8, 8)),
        259: tags.get("compression", (1,)),
        262: tags.get("photometric", (2,)),
        273: (0,),
        277: (len(tags.get("bits", (8, 8, 8))),),
        278: (height,),
        279: tags.get("num_bytes", (len(data),)),
    }
    if "sample_format" in tags:
        fields[339] = tags["sample_format"]
    start = 8 + 2 + 12 * len(fields) + 4
    extra = b""
    entries = b""
    bits = fields[258]
    offset = start + (2 * len(bits) if len(bits) > 2 else 0)
    fields[273] = (offset,)
    for tag, values in sorted(fields.items()):
        kind, code = (3, "H") if tag in {258, 259, 262, 277, 339} else (4, "I")
        packed = struct.pack(f"<{len(values)}{code}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", start), packed
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", following) + extra + data


def psd(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    planes = np.moveaxis(np.asarray(PICTURE), 2, 0).tobytes()
    return b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, height, width, 8, 3) + bytes(12) + b"\0\0" + planes


def formats() -> dict[str, tuple[bytes, Image.Image | None]]:
    """Whole photos by extension, and what they show."""
    raw = PICTURE.tobytes()
    found: dict[str, tuple[bytes, Image.Image | None]] = {
        "webp": (encode(PICTURE, "WEBP", quality=95), PICTURE),
        "lossless.webp": (encode(PICTURE, "WEBP", lossless=True), PICTURE),
        "gif": (GIF, PICTURE),
        "bmp": (encode(PICTURE, "BMP"), PICTURE),
        "dib": (encode(PICTURE, "DIB"), PICTURE),
        "tiff": (encode(PICTURE, "TIFF"), PICTURE),
        "strip.tiff": (tiff(raw), PICTURE),
        "lzw.tiff": (encode(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE),
        "jpeg.tiff": (encode(PICTURE, "TIFF", compression="jpeg", quality=95), PICTURE),
        "deflate.tiff": (tiff(zlib.compress(raw), compression=(8,)), PICTURE),
        "packbits.tiff": (tiff(_packbits(raw), compression=(32773,)), PICTURE),
        "ppm": (encode(PICTURE, "PPM"), PICTURE),
        "plain.ppm": (b"P3 %d %d 255\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % value for value in raw), PICTURE),
        "pgm": (encode(PICTURE.convert("L"), "PPM"), GREY),
        "tga": (encode(PICTURE, "TGA"), PICTURE),
        "rle.tga": (encode(PICTURE, "TGA", compression="tga_rle"), PICTURE),
        "pcx": (encode(PICTURE, "PCX"), PICTURE),
        "sgi": (encode(PICTURE, "SGI"), PICTURE),
        "dds": (encode(PICTURE, "DDS"), PICTURE),
        "ico": (encode(PICTURE.resize((48, 48)), "ICO", sizes=[(48, 48)]), PICTURE),
        "bitmap.ico": (encode(PICTURE.resize((48, 48)), "ICO", sizes=[(48, 48)], bitmap_format="bmp"), PICTURE),
        "psd": (psd(), PICTURE),
    }
    if features.check("jpg_2000"):
        found["jp2"] = (encode(PICTURE, "JPEG2000"), PICTURE)
        found["j2k"] = (encode(PICTURE, "JPEG2000", no_jp2=True, irreversible=True), PICTURE)
        found["tiles.jp2"] = (encode(PICTURE, "JPEG2000", tile_size=(16, 16)), PICTURE)
    if features.check("avif"):
        found["avif"] = (encode(PICTURE, "AVIF", quality=95), PICTURE)
    if "QOI" in Image.SAVE:
        found["qoi"] = (encode(PICTURE, "QOI"), PICTURE)
    with contextlib.suppress(ImportError, OSError, KeyError, RuntimeError):  # not installed, or no encoder in it
        import pillow_heif

        pillow_heif.register_heif_opener()
        found["heic"] = (encode(PICTURE, "HEIF", quality=95), PICTURE)
    return found


def _packbits(raw: bytes) -> bytes:
    return b"".join(bytes([len(raw[at : at + 128]) - 1]) + raw[at : at + 128] for at in range(0, len(raw), 128))


def other_formats() -> Kinds:
    for extension, (content, shows) in formats().items():
        yield f"formats/good.{extension}", good(content, shows)
        for share in (2, 10, 50, 85):
            yield f"formats/{share} percent.{extension}", bad(content[: max(1, len(content) * share // 100)])


# what is no photo


def strangers() -> Kinds:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.jpg", JPEG)
    mp4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0\0\0\x08free" + bytes(500)
    rng = np.random.default_rng(0)
    fits = b"".join(card.ljust(80) for card in (b"SIMPLE  =                    T", b"END")).ljust(2880)
    yield "wrong/png.jpg", good(PNG)
    yield "wrong/webp.png", good(encode(PICTURE, "WEBP", lossless=True))
    yield "wrong/jpeg.gif", good(JPEG)
    yield "wrong/text.jpg", bad(b"this is not a photo\n")
    yield "wrong/html.jpg", bad(b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n")
    yield "wrong/json.jpg", bad(b'{"error": "access denied"}')
    yield "wrong/zip.jpg", bad(archive.getvalue())
    yield "wrong/pdf.jpg", bad(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<<>>endobj\n%%EOF")
    yield "wrong/pdf with a photo.jpg", bad(encode(PICTURE, "PDF"))
    yield "wrong/gzip of a jpeg.jpg", bad(gzip.compress(JPEG))
    yield "wrong/base64 of a jpeg.jpg", bad(b"data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ")
    yield "wrong/svg.jpg", bad(b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>')
    yield "wrong/mp4.jpg", bad(mp4)
    yield "wrong/mpeg.jpg", bad(b"\0\0\1\xb3\x16\0\xf0\x15" + bytes(500))
    yield "wrong/eps.jpg", bad(encode(PICTURE, "EPS"))
    yield (
        "wrong/eps with a DOS header.jpg",
        bad(b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 5000) + bytes(20) + encode(PICTURE, "EPS")),
    )
    yield "wrong/hdf5.jpg", bad(b"\x89HDF\r\n\x1a\n" + bytes(500))
    yield "wrong/fits.jpg", bad(fits)
    yield "wrong/wmf.jpg", bad(b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 10, 10, 96) + bytes(500))
    yield "wrong/git lfs pointer.jpg", bad(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    yield "wrong/resource fork.jpg", bad(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100))
    yield "wrong/no bytes.jpg", bad(b"", EMPTY)
    for extension in ("png", "webp", "tga", "heic", "ico"):
        yield f"wrong/no bytes.{extension}", bad(b"", EMPTY)
    yield "wrong/one byte.jpg", bad(b"\xff")
    yield "wrong/1 MB of zeros.jpg", bad(bytes(2**20))
    yield "wrong/1 MB of ones.jpg", bad(b"\xff" * 2**20)
    yield "wrong/random.jpg", bad(rng.bytes(100_000))
    yield "wrong/random after a jpeg's start.jpg", bad(JPEG[:20] + rng.bytes(10_000))
    yield "wrong/newline before a jpeg.jpg", bad(b"\n" + JPEG)
    yield "wrong/text mode.jpg", bad(JPEG.replace(b"\n", b"\r\n").replace(b"\xff\xd8", b"\xef\xbf\xbd\xef\xbf\xbd"))


# large ones


def large() -> Kinds:
    bmp = encode(PICTURE, "BMP")
    side = 2000
    yield "large/at max_pixels.png", good(png(bytes((side * 3 + 1) * side), width=side, height=side), None)
    yield (
        "large/just above max_pixels.png",
        bad(png(bytes((side * 3 + 4) * side), width=side + 1, height=side), TOO_LARGE),
    )
    yield "large/100000 x 100000.png", bad(png(RGB_ROWS, width=100_000, height=100_000), TOO_LARGE)
    yield "large/2147483647 x 2147483647.png", bad(png(RGB_ROWS, width=2**31 - 1, height=2**31 - 1), TOO_LARGE)
    yield (
        "large/zlib bomb.png",
        bad(png(bytes(1501 * 12_000), width=12_000, height=12_000, depth=1, colour=0), TOO_LARGE),
    )
    yield (
        "large/bomb in an icon.ico",
        bad(_icon(png(bytes(376 * 3000), width=3000, height=3000, depth=1, colour=0)), TOO_LARGE),
    )
    yield "large/12000 x 12000.bmp", bad(bmp[:18] + struct.pack("<ii", 12_000, 12_000) + bmp[26:], TOO_LARGE)
    yield (
        "large/upside down 12000 x -12000.bmp",
        bad(bmp[:18] + struct.pack("<ii", 12_000, -12_000) + bmp[26:], TOO_LARGE),
    )
    yield "large/65535 x 65535.gif", bad(GIF[:6] + struct.pack("<HH", 65_535, 65_535) + GIF[10:], TOO_LARGE)
    yield "large/65500 x 65500.jpg", bad(_jpeg_of_size(65_500, 65_500), TOO_LARGE)
    yield "large/50000 x 50000.tiff", bad(tiff(PICTURE.tobytes(), width=50_000, height=50_000), TOO_LARGE)
    yield "large/50000 x 50000.ppm", bad(b"P6 50000 50000 255\n" + bytes(100), TOO_LARGE)
    yield "large/30000 x 30000.psd", bad(psd(30_000, 30_000), TOO_LARGE)
    yield (
        "large/frame beyond the canvas.gif",
        bad(GIF.replace(b",\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT), b",\0\0\0\0\xff\xff\xff\xff", 1), TOO_LARGE),
    )
    webp = b"VP8X" + struct.pack("<IB3x", 10, 0) + (16_382).to_bytes(3, "little") * 2
    webp += encode(PICTURE, "WEBP")[12:]
    yield (
        "large/16383 x 16383.webp",
        Kind(
            content=b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
            ends_in=(TOO_LARGE, DECODE),
            why="libwebp may notice first that the frame does not fit the canvas",
        ),
    )
    if features.check("jpg_2000"):
        j2k = encode(PICTURE, "JPEG2000", no_jp2=True)
        yield (
            "large/60000 x 60000.j2k",
            bad(
                j2k[:8]
                + struct.pack(">II", 60_000, 60_000)
                + j2k[16:24]
                + struct.pack(">II", 60_000, 60_000)
                + j2k[32:],
                TOO_LARGE,
            ),
        )
    yield "large/more than max_bytes.jpg", bad(_sparse, TOO_LARGE)
    yield "large/1 x 5000.png", good(encode(PICTURE.resize((1, 5000)), "PNG"), None)
    yield "large/5000 x 1.jpg", good(encode(PICTURE.resize((5000, 1)), "JPEG"), None)
    yield "large/1 x 65500.jpg", good(encode(Image.new("L", (1, 65_500)), "JPEG"), None)
    for kind, extension in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
    ):
        yield (
            f"large/1 x 1.{extension}",
            good(encode(Image.new("RGB", (1, 1), "red"), kind), Image.new("RGB", (1, 1), "red")),
        )


def _icon(content: bytes) -> bytes:
    """An icon that says it is 16 x 16."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


def _sparse(path: bytes) -> None:
    with open(path, "xb") as file:
        file.write(JPEG)
        file.truncate(LIMITS.max_bytes + 1)


# EXIF and profiles


def exif_block(entries: bytes, *, order: bytes = b"MM\0*\0\0\0\x08") -> bytes:
    return b"Exif\0\0" + order + entries


def metadata() -> Kinds:
    def jpeg(exif: bytes) -> Kind:
        return good(encode(PICTURE, "JPEG", exif=exif, quality=95))

    def one(tag: int, kind: int, count: int, value: bytes, following: int = 0) -> bytes:
        return struct.pack(">HHHI", 1, tag, kind, count) + value.ljust(4, b"\0") + struct.pack(">I", following)

    orientation = 0x0112
    yield "metadata/EXIF is noise.jpg", jpeg(exif_block(b"\xff" * 40))
    yield "metadata/EXIF ends in its header.jpg", jpeg(b"Exif\0\0MM\0*")
    yield "metadata/EXIF of no byte order.jpg", jpeg(b"Exif\0\0XX\0*\0\0\0\x08")
    yield "metadata/EXIF directory outside.jpg", jpeg(exif_block(b"", order=b"MM\0*\x7f\xff\xff\xff"))
    yield "metadata/EXIF value outside.jpg", jpeg(exif_block(one(0x010F, 2, 4000, b"\x7f\xff\xff\xff")))
    yield "metadata/EXIF orientation outside.jpg", jpeg(exif_block(one(orientation, 3, 9, b"\x7f\xff\xff\xff")))
    yield "metadata/EXIF sub-directory outside.jpg", jpeg(exif_block(one(0x8769, 4, 1, b"\x7f\xff\xff\xff")))
    yield "metadata/EXIF of itself.jpg", jpeg(exif_block(one(0x8769, 4, 1, b"\0\0\0\x08", following=8)))
    yield "metadata/EXIF of 4 billion values.jpg", jpeg(exif_block(one(orientation, 3, 2**32 - 1, b"\0\0\0\x08")))
    yield "metadata/EXIF of no type.jpg", jpeg(exif_block(one(orientation, 99, 1, b"\0\1")))
    for value in (0, 9, 65535):
        yield (
            f"metadata/EXIF orientation {value}.jpg",
            jpeg(exif_block(one(orientation, 3, 1, struct.pack(">H", value)))),
        )
    yield "metadata/EXIF orientation in words.jpg", jpeg(exif_block(one(orientation, 2, 4, b"top\0")))
    yield (
        "metadata/EXIF orientation 1 divided by 0.jpg",
        jpeg(exif_block(one(orientation, 5, 1, b"\0\0\0\x1a") + struct.pack(">II", 1, 0))),
    )
    webp = encode(PICTURE, "WEBP", lossless=True, exif=b"MM\0*\xff\xff\xff\xff")
    yield "metadata/EXIF is noise.webp", good(webp)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "metadata/profile.jpg", good(encode(PICTURE, "JPEG", icc_profile=profile, quality=95))
    yield "metadata/broken profile.jpg", good(encode(PICTURE, "JPEG", icc_profile=b"\xff" * 100, quality=95))
    yield "metadata/half a profile.jpg", good(encode(PICTURE, "JPEG", icc_profile=profile[:90], quality=95))
    missing_part = encode(PICTURE, "JPEG", quality=95, extra=_segment(0xE2, b"ICC_PROFILE\0\7\1" + profile))
    yield "metadata/part 7 of 1 of a profile.jpg", good(missing_part)
    noise = _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:RDF tiff:Orientation=")
    yield "metadata/XMP is broken.jpg", good(encode(PICTURE, "JPEG", quality=95, extra=noise))
    photoshop = _segment(0xED, b"Photoshop 3.0\0008BIM\x04\x04\0\0\xff\xff\xff\xff")
    yield "metadata/Photoshop block is broken.jpg", good(encode(PICTURE, "JPEG", quality=95, extra=photoshop))
    multi = _segment(0xE2, b"MPF\0MM\0*\x7f\xff\xff\xff")
    yield "metadata/index of more photos is broken.jpg", good(encode(PICTURE, "JPEG", quality=95, extra=multi))
    comments = _segment(0xFE, b"c" * 60_000) * 100
    yield "metadata/6 MB of comments.jpg", good(encode(PICTURE, "JPEG", quality=95, extra=comments))


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


# colours


def colours() -> Kinds:
    cmyk = picture("CMYK")
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"CMYK"
    yield "colours/CMYK.jpg", good(encode(cmyk, "JPEG", quality=95))  # inverted, with Adobe's marker, as Photoshop does
    yield "colours/CMYK with a profile.jpg", good(encode(cmyk, "JPEG", quality=95, icc_profile=bytes(profile)))
    plain = encode(Image.eval(cmyk, lambda value: 255 - value), "JPEG", quality=95)
    adobe = plain.index(b"\xff\xee")
    length = struct.unpack_from(">H", plain, adobe + 2)[0]
    yield (
        "colours/CMYK not inverted, no Adobe marker.jpg",
        either(
            plain[:adobe] + plain[adobe + 2 + length :],
            "decoders disagree on whether it is inverted; Pillow says it is",
        ),
    )
    yield "colours/YCCK.jpg", good(_ycck(cmyk))
    yield "colours/CMYK.tiff", good(encode(cmyk, "TIFF"))
    rgb_marked = encode(PICTURE, "JPEG", quality=95, keep_rgb=True)
    yield "colours/RGB, not YCbCr.jpg", good(rgb_marked)
    yield "colours/grey.jpg", good(encode(picture("L"), "JPEG", quality=95), GREY)
    yield "colours/1 bit.png", good(encode(_one_bit(), "PNG"), _one_bit().convert("RGB"))
    yield "colours/1 bit fax.tiff", good(encode(_one_bit(), "TIFF", compression="group4"), _one_bit().convert("RGB"))
    yield "colours/1 bit.pbm", good(encode(_one_bit(), "PPM"), _one_bit().convert("RGB"))
    alpha = Image.fromarray(np.linspace(255, 0, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8))
    for mode, shows in (("LA", GREY), ("RGBA", PICTURE)):
        image = picture(mode)
        image.putalpha(alpha)
        yield f"colours/{mode}.png", good(encode(image, "PNG"), shows)
        if mode == "RGBA":
            yield "colours/RGBA.webp", good(encode(image, "WEBP", lossless=True, exact=True), shows)
            yield "colours/RGBA.tiff", good(encode(image, "TIFF"), shows)
    palette = PICTURE.quantize(128)
    yield "colours/palette.png", good(encode(palette, "PNG"))
    yield "colours/palette, one transparent.png", good(encode(palette, "PNG", transparency=3))
    yield "colours/palette, all half transparent.png", good(encode(palette, "PNG", transparency=bytes([128] * 128)))
    yield "colours/transparent.gif", good(encode(palette, "GIF", transparency=3), None)
    yield (
        "colours/no colour table.gif",
        either(
            GIF[:10] + b"\0" + GIF[11:13] + GIF[13 + 3 * 2 ** ((GIF[10] & 7) + 1) :],
            "the standard leaves the colours to the decoder",
        ),
    )
    deep = np.asarray(picture("L")).astype(np.uint16) * 257
    deep_rgb = np.asarray(PICTURE).astype(np.uint16) * 257
    yield "colours/16 bits grey.png", good(encode(Image.fromarray(deep), "PNG"), GREY)
    yield (
        "colours/16 bits grey with alpha.png",
        good(
            png(png_rows(np.stack([deep, np.full_like(deep, 65535)], axis=-1).astype(">u2")), depth=16, colour=4), GREY
        ),
    )
    yield (
        "colours/16 bits grey, one transparent.png",
        good(png(png_rows(deep.astype(">u2")), depth=16, colour=0, before=chunk(b"tRNS", b"\0\0")), GREY),
    )
    yield "colours/16 bits RGB.png", good(png(png_rows(deep_rgb.astype(">u2")), depth=16))
    yield "colours/16 bits grey.tiff", good(encode(Image.fromarray(deep), "TIFF"), GREY)
    yield "colours/16 bits grey.pgm", good(b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes(), GREY)
    yield (
        "colours/12 bits grey.pgm",
        good(b"P5 %d %d 4095\n" % (WIDTH, HEIGHT) + (deep >> 4).astype(">u2").tobytes(), GREY),
    )
    yield "colours/16 bits RGB.tiff", good(tiff(deep_rgb.astype("<u2").tobytes(), bits=(16, 16, 16)))
    unit = np.asarray(picture("L")).astype(np.float32) / 255
    unusual = "it may be refused; but if it is not, it must be seen as it is, and not black or white"
    yield "colours/float, 0 to 1.tiff", either(encode(Image.fromarray(unit), "TIFF"), unusual, shows=GREY)
    yield "colours/float, 0 to 255.tiff", either(encode(Image.fromarray(unit * 255), "TIFF"), unusual, shows=GREY)
    yield "colours/float, 0 to 1.pfm", either(encode(Image.fromarray(unit), "PPM"), unusual, shows=GREY)
    yield (
        "colours/32 bits grey.tiff",
        either(
            tiff((deep.astype(np.uint32) * 65537).astype("<u4").tobytes(), bits=(32,), photometric=(1,)),
            unusual,
            shows=GREY,
        ),
    )
    yield (
        "colours/12 bits grey.tiff",
        either(tiff(_twelve_bits(deep >> 4), bits=(12,), photometric=(1,)), unusual, shows=GREY),
    )
    yield "colours/LAB.tiff", either(encode(_lab(), "TIFF"), unusual, shows=PICTURE)
    yield (
        "colours/float, not numbers.tiff",
        either(encode(Image.fromarray(unit * np.nan), "TIFF"), "there is nothing to see either way"),
    )
    yield (
        "colours/signed 16 bits grey.tiff",
        either(
            tiff((deep >> 1).astype("<i2").tobytes(), bits=(16,), photometric=(1,), sample_format=(2,)),
            "how bright the largest number is nobody says",
        ),
    )
    yield (
        "colours/white is zero.tiff",
        good(tiff((255 - np.asarray(picture("L"))).tobytes(), bits=(8,), photometric=(0,)), GREY),
    )


def _one_bit() -> Image.Image:
    return picture("L").convert("1", dither=Image.Dither.NONE)


def _twelve_bits(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2).astype(np.uint32)
    both = pairs[:, 0] << 12 | pairs[:, 1]
    return b"".join(int(each).to_bytes(3, "big") for each in both)


def _lab() -> Image.Image:
    lab = ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(PICTURE, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")


def _ycck(cmyk: Image.Image) -> bytes:
    """As Photoshop writes CMYK: C, M, Y as if they were RGB turned to YCbCr, K inverted, and a marker that says so."""
    cyan, magenta, yellow, black = cmyk.split()
    channels = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    stored = [Image.eval(channel, lambda value: 255 - value) for channel in channels]  # Pillow inverts all it writes
    content = bytearray(encode(Image.merge("CMYK", (*stored, black)), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


# several photos in a file


def several() -> Kinds:
    def frames(kind: str, **options: object) -> bytes:
        others = [PICTURE.rotate(180), PICTURE.rotate(180)]  # new ones, as Pillow keeps a JPEG's options in an image
        return encode(PICTURE.copy(), kind, save_all=True, append_images=others, **options)

    gif = frames("GIF", duration=100)
    yield "several/animated.gif", good(gif)
    second = gif.index(b"!\xf9", gif.index(b"!\xf9") + 2)
    yield "several/animated ends after one frame.gif", good(gif[:second])
    yield "several/animated ends in frame two.gif", good(gif[: second + 40])
    webp = frames("WEBP", duration=100, lossless=True)
    yield "several/animated.webp", good(webp)
    yield (
        "several/animated ends in frame three.webp",
        either(webp[:-20], "frame one is whole, but libwebp wants all of them", shows=PICTURE),
    )
    apng = frames("PNG", duration=100)
    yield "several/animated.apng", good(apng)
    yield "several/animated ends in frame two.png", good(apng[: apng.index(b"fdAT") + 20])
    yield "several/animated, first frame not shown.png", good(frames("PNG", duration=100, default_image=True))
    mpo = frames("MPO", quality=95)
    yield "several/two views.mpo", good(mpo)
    yield "several/two views.jpg", good(mpo)
    yield "several/two views, one there.jpg", good(mpo[: mpo.index(b"\xff\xd9") + 2])
    yield "several/pages.tiff", good(frames("TIFF"))
    yield "several/page after page after itself.tiff", good(tiff(PICTURE.tobytes(), following=8))
    yield "several/next page outside.tiff", good(tiff(PICTURE.tobytes(), following=2**31))
    yield (
        "several/icons.ico",
        good(encode(PICTURE.resize((128, 128)), "ICO", sizes=[(16, 16), (48, 48), (128, 128)]), PICTURE),
    )
    yield "several/no icons.ico", bad(struct.pack("<HHH", 0, 1, 0))
    if features.check("avif"):
        yield "several/animated.avif", good(frames("AVIF", duration=100, quality=95))


# what is no plain file


def special_files() -> Kinds:
    yield "files/upper case.JPG", good(JPEG)
    yield "files/mixed case.JpEg", good(JPEG)
    yield "files/read only.jpg", good(_with_mode(0o400))
    yield (
        "no permission.jpg",
        Kind(
            content=_with_mode(0),
            ends_in=(CAPTIONED,),
            why="root may read everything",
            shows=PICTURE,
        ),
    )
    yield "files/folder.jpg/inside.jpg", good(JPEG)
    yield "files/empty folder.jpg", unlisted(os.mkdir)
    yield "files/dangling link.jpg", bad(_link_to(b"nowhere.jpg"), MISSING)
    yield "files/loop a.jpg", bad(_link_to(b"loop b.jpg"), MISSING)
    yield "files/loop b.jpg", bad(_link_to(b"loop a.jpg"), MISSING)
    yield "files/link to itself.jpg", bad(_link_to(b"link to itself.jpg"), MISSING)
    yield "files/link to a name too long.jpg", bad(_link_to(b"n" * 300 + b".jpg"), MISSING)
    yield "files/link into a file.jpg", bad(_link_to(b"upper case.JPG/photo.jpg"), MISSING)
    yield "files/link to a photo.jpg", good(_link_to(b"upper case.JPG"))
    yield "files/loop of folders", unlisted(_link_to(b"."))
    yield (
        "files/hard link.jpg",
        good(lambda path: os.link(os.path.join(os.path.dirname(path), b"upper case.JPG"), path)),
    )
    yield "files/pipe.jpg", bad(os.mkfifo, MISSING)
    yield "files/socket.jpg", bad(_socket, MISSING)
    yield "files/link to zeros.jpg", bad(_link_to(b"/dev/zero"), MISSING)
    yield "files/link to nothing.jpg", bad(_link_to(b"/dev/null"), MISSING)
    yield "files/process memory.jpg", bad(_link_to(b"/proc/self/mem"), MISSING)
    yield "files/notes.txt", unlisted(b"no photo")
    yield "files/photo.jpg.part", unlisted(JPEG)
    yield "files/photo", unlisted(JPEG)
    yield "files/.hidden.jpg", unlisted(JPEG)
    yield "files/.jpg", unlisted(JPEG)
    yield "files/.trash/photo.jpg", unlisted(JPEG)


def _with_mode(mode: int) -> Make:
    def make(path: bytes) -> None:
        _write(path, JPEG)
        os.chmod(path, mode)

    return make


def _link_to(target: bytes) -> Make:
    return lambda path: os.symlink(target, path)


def _socket(path: bytes) -> None:
    """A socket at a path that may be longer than an address of a socket."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(os.path.dirname(path))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.basename(path))
    finally:
        os.chdir(here)
        os.close(here)
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError("the socket is no socket")


# names

_NAMES = (
    "two\nlines",
    "carriage\rreturn",
    "a\ttab",
    "-leading dash",
    "--out",
    "-",
    " leading space",
    "trailing space ",
    "'single'",
    '"double"',
    "`back` $(quotes) $HOME ~ ; & | < >",
    "back\\slash",
    "\\xff",
    os.fsdecode(b"\xff"),
    os.fsdecode(b"latin-1 caf\xe9"),
    os.fsdecode(b"half a surrogate \xed\xa0\x80"),
    "emoji 📷👩‍👩‍👧",
    "caf\u00e9",
    "cafe\u0301",
    "right to left \u202egpj.",
    "byte-order mark \ufeff",
    "line \u2028 separator",
    "control \x01\x1b[31m\x7f",
    "100%",
    "a%2Fb",
    "%00",
    "%ff",
    "hash#1",
    "shard.tar#photo",
    "question?x=1",
    "*",
    "[a-z]",
    "{a,b}",
    "**",
    "a,b;c",
    "{0} {name} %s",
    "file:",
    "s3:",
    "con",
    "None",
    "nan",
)


def names() -> Kinds:
    for name in _NAMES:
        yield f"names/{name}.jpg", good(JPEG)
    yield "names/case.jpg", good(JPEG)
    yield "names/" + "n" * 251 + ".jpg", good(JPEG)
    yield "names/" + "\u00e9" * 125 + "e.jpg", good(JPEG)
    yield "names/s3:/bucket/photo.jpg", good(JPEG)
    yield "names/file:/tmp/photo.jpg", good(JPEG)
    yield "names/*/photo.jpg", good(JPEG)
    yield "names/folder.tar/photo.jpg", good(JPEG)
    yield "names/folder\nof two lines/photo.jpg", good(JPEG)
    yield os.fsdecode(b"names/folder \xfe/photo.jpg"), good(JPEG)
    yield "names/" + "/".join(["deep"] * 100) + "/photo.jpg", good(JPEG)
    for extension in ("jpg ", "jpg.", "jpg\n", "jpg?x=1"):
        yield f"names/extension and more.{extension}", unlisted(JPEG)


_GROUPS = (jpegs, pngs, other_formats, strangers, large, metadata, colours, several, special_files, names)
