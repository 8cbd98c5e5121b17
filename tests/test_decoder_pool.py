"""The processes in which the server decodes: what they lose, and what goes on."""

import asyncio
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from ray import cloudpickle

from raycap.config import LimitsConfig
from raycap.decoder_pool import DecoderPool
from raycap.errors import ImageDecodeError, ImageError, ImageTimeoutError
from raycap.images import DecodedImage
from raycap.photo_decoder import PhotoDecoder

pytestmark = pytest.mark.usefixtures("ray_cluster")

CRASH = b"takes its process down"


class Fragile(PhotoDecoder):
    """Stands for a library that a damaged photo brings to crash."""

    def decode_one(self, content: bytes | Image.Image | ImageError) -> DecodedImage | ImageError:
        if content == CRASH:
            os._exit(1)
        return super().decode_one(content)


@pytest.fixture(autouse=True)
def known_to_workers() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def decoder(kind: type[PhotoDecoder] = PhotoDecoder, *, photo_timeout_s: float = 60.0) -> PhotoDecoder:
    limits = LimitsConfig(photo_timeout_s=photo_timeout_s)
    return kind(height_px=32, width_px=32, exif_orientation=False, limits=limits)


def photos(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())[:6]]


def test_pixels_are_the_decoders(photo_folder: Path) -> None:
    pool = DecoderPool(decoder(), 2)

    async def ask() -> list[DecodedImage]:
        return await asyncio.gather(*map(pool.decode, photos(photo_folder)))

    for image, expected in zip(asyncio.run(ask()), decoder().decode(photos(photo_folder)), strict=True):
        assert isinstance(expected, DecodedImage)
        assert image[1:] == expected[1:]
        np.testing.assert_array_equal(image.pixels, expected.pixels)


def test_a_photo_that_takes_its_process_down_is_one_error(photo_folder: Path) -> None:
    pool = DecoderPool(decoder(Fragile), 1)

    async def ask() -> None:
        for photo in photos(photo_folder)[:2]:
            with pytest.raises(ImageDecodeError, match="the process that decoded it died of it"):
                await pool.decode(CRASH)
            assert (await pool.decode(photo)).pixels.shape == (32, 32, 3)

    asyncio.run(ask())


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
def test_a_photo_that_takes_for_ever_is_ended_and_nobody_else_waits(photo_folder: Path) -> None:
    """Pillow decodes JPEG 2000 without letting other threads run; noise is slowest."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG2000")
    pool = DecoderPool(decoder(photo_timeout_s=0.5), 2)

    async def ask() -> None:
        for process in [pool._idle.get_nowait() for _ in range(2)]:  # their start is not what is looked at
            await process.__ray_ready__.remote()
            pool._idle.put_nowait(process)
        slow = asyncio.create_task(pool.decode(stream.getvalue()))
        await asyncio.sleep(0)  # so that it comes first
        assert (await pool.decode(photos(photo_folder)[0])).pixels.shape == (32, 32, 3)
        assert not slow.done()
        with pytest.raises(ImageTimeoutError):
            await slow
        assert (await pool.decode(photos(photo_folder)[1])).pixels.shape == (32, 32, 3)

    asyncio.run(ask())


def test_those_who_go_away_take_no_process_with_them(photo_folder: Path) -> None:
    pool = DecoderPool(decoder(), 2)
    photo = photos(photo_folder)[0]

    async def ask() -> None:
        waiting = [asyncio.create_task(pool.decode(photo)) for _ in range(10)]
        await asyncio.sleep(0)
        for each in waiting[1:]:
            each.cancel()
        assert (await waiting[0]).pixels.shape == (32, 32, 3)
        if pool._under_way:  # that of the second, which is done although nobody waits for it
            await asyncio.wait(pool._under_way, timeout=60)
        assert pool._idle.qsize() == 2
        for _ in range(4):
            await pool.decode(photo)

    asyncio.run(ask())
