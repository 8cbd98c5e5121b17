import numpy as np
import pytest

from raycap.views import view

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
# brightness says from which column a pixel comes
SLOPE = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[np.newaxis, :, np.newaxis], 60, axis=0).repeat(3, axis=2)


def test_the_first_is_the_photo_and_the_second_mirrored() -> None:
    assert view(PIXELS, "a.jpg", 0) is PIXELS
    np.testing.assert_array_equal(view(PIXELS, "a.jpg", 1), PIXELS[:, ::-1])


@pytest.mark.parametrize("number", [2, 3, 7])
def test_a_crop_is_the_same_whenever_it_is_asked_for_and_another_for_each_photo(number: int) -> None:
    found = view(PIXELS, "a.jpg", number)
    assert found.shape == PIXELS.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, view(PIXELS, "a.jpg", number))
    assert not np.array_equal(found, view(PIXELS, "b.jpg", number))
    assert not np.array_equal(found, view(PIXELS, "a.jpg", number + 1))


def test_crops_have_most_of_the_photo_and_half_of_them_are_mirrored() -> None:
    shares, mirrored = [], []
    for number in range(2, 202):
        row = view(SLOPE, "a.jpg", number)[30, :, 0].astype(int)
        shares.append((abs(row[-2] - row[1]) / (len(row) - 3)) / 4)  # of the slope of the whole photo
        mirrored.append(row[-1] < row[0])
    assert 0.73 < min(shares) < 0.82  # the root of 0.6
    assert 0.93 < max(shares) < 1.0  # of 0.95
    assert 0.35 < np.mean(mirrored) < 0.65
