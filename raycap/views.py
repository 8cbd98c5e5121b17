"""Further views of a photo, for decoders to learn from: mirrored, and cropped. Knows no encoder.

Reference:
    Krizhevsky, Sutskever and Hinton 2012, ImageNet classification with deep convolutional neural networks, section 4.1
    (mirrored and cropped photos against learning by heart).
"""

import hashlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIRRORED: Final = 1
"""Number of the view that is the photo mirrored."""

_LEAST_AREA, _GREATEST_AREA = 0.6, 0.95  # of a crop, as shares of the photo's


def view(pixels: NDArray[np.uint8], image_id: str, number: int) -> NDArray[np.uint8]:
    """Return a view of a photo, the same one wherever it is asked for.

    Args:
        pixels: `(height, width, 3)`.
        image_id: of the photo; with `number` it decides where a crop is.
        number: 0 is the photo itself, 1 is mirrored, and all others are crops of its size, of which half are mirrored.

    Returns:
        Of the shape of `pixels`.
    """
    if number == 0:
        return pixels
    if number == MIRRORED:
        return np.ascontiguousarray(pixels[:, ::-1])
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{number} {image_id}".encode()).digest()[:8]))
    share = math.sqrt(rng.uniform(_LEAST_AREA, _GREATEST_AREA))
    height, width = pixels.shape[:2]
    top, left = rng.uniform(0, (1 - share) * height), rng.uniform(0, (1 - share) * width)
    box = (left, top, left + share * width, top + share * height)
    cropped = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box))
    return np.ascontiguousarray(cropped[:, ::-1]) if rng.random() < 0.5 else cropped
