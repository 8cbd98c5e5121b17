"""Photos' bytes to pixels for an encoder, each within its limits; knows no files, neither Ray nor TensorFlow."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from PIL import Image

from raycap.config import ExtractConfig, FinetuneConfig, LimitsConfig
from raycap.encoder_card import EncoderCard
from raycap.errors import ImageError
from raycap.images import FAST_RESIZE, DecodedImage, decode_image
from raycap.photo_reader import too_late
from raycap.time_limit import map_ahead


@dataclass(frozen=True, kw_only=True)
class PhotoDecoder:
    """Decodes photos as an encoder sees them.

    Attributes:
        height_px: of the photo that the encoder sees.
        width_px: likewise.
        exif_orientation: turn photos as their EXIF orientation says.
        fast: decode JPEG photos at a fraction of their size.
        limits: what a photo may cost.
    """

    height_px: int
    width_px: int
    exif_orientation: bool
    fast: bool = False
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @classmethod
    def of(cls, card: EncoderCard, limits: LimitsConfig, *, fast: bool = False) -> Self:
        """Return the decoder of photos for an encoder; `fast` even if its features were not made so."""
        return cls(
            height_px=card.height_px,
            width_px=card.width_px,
            exif_orientation=card.exif_orientation,
            fast=fast or card.resize == FAST_RESIZE,
            limits=limits,
        )

    @classmethod
    def asked_for(cls, config: ExtractConfig | FinetuneConfig, size: tuple[int, int]) -> Self:
        """Return the decoder of photos that a stage is asked for, of a height and width."""
        return cls(
            height_px=size[0],
            width_px=size[1],
            exif_orientation=config.exif_orientation,
            fast=config.fast_decode,
            limits=config.limits,
        )

    def decode(self, contents: Iterable[bytes | Image.Image | ImageError]) -> Iterator[DecodedImage | ImageError]:
        """Yield each photo's pixels, in order, or why there are none; an error in `contents` is passed on."""
        late = partial(too_late, self.limits)
        return map_ahead(self.decode_one, contents, ahead=1, limit_s=self.limits.photo_timeout_s, late=late)

    def decode_one(self, content: bytes | Image.Image | ImageError) -> DecodedImage | ImageError:
        """Return one photo's pixels, or why there are none, however long it takes."""
        if isinstance(content, ImageError):
            return content
        try:
            return decode_image(
                content,
                height_px=self.height_px,
                width_px=self.width_px,
                exif_orientation=self.exif_orientation,
                fast=self.fast,
                max_pixels=self.limits.max_pixels,
            )
        except ImageError as error:
            return error
