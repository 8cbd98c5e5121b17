"""How well a caption matches a photo, by what photos and captions have in common."""

from pathlib import Path

import numpy as np
import pytest

from raycap.errors import FormatError
from raycap.matching import Matching
from raycap.neighbors import Neighbors, of_length_one, photo_vectors

ON, DOG, CAT, RUNS, SLEEPS, RED, BLUE = range(3, 10)
VOCAB_SIZE = 11  # the last is in no caption
DIM = 12
SAID = {"dog": DOG, "cat": CAT, "runs": RUNS, "sleeps": SLEEPS, "red": RED, "blue": BLUE}


def photos(count: int, *, seed: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Photos of what is said of them, each thing a number of the vector, with noise; and a caption of each."""
    rng = np.random.default_rng(seed)
    things = list(SAID)
    chosen = rng.integers(0, 2, (count, 3))
    vectors = rng.normal(0, 0.1, (count, DIM)) + 1.0
    captions = []
    for row, choice in enumerate(chosen):
        names = [things[2 * pair + which] for pair, which in enumerate(choice)]
        for name in names:
            vectors[row, 2 * things.index(name)] += 1.0
        captions.append((SAID[names[2]], SAID[names[0]], SAID[names[1]], ON))
    return vectors.astype(np.float32), captions


def scores_of(matching: Matching, views: list[np.ndarray], captions: list[list[tuple[int, ...]]]) -> list[np.ndarray]:
    return matching.scores(photo_vectors(views), captions)


@pytest.fixture(scope="module")
def matching() -> Matching:
    vectors, captions = photos(300, seed=0)
    known = Neighbors(tuple(map(str, range(300))), of_length_one(vectors), tuple((caption,) for caption in captions))
    return Matching.fit(known, vocab_size=VOCAB_SIZE)


def test_a_photo_matches_its_own_caption_best(matching: Matching) -> None:
    vectors, captions = photos(50, seed=1)
    every = sorted(set(captions))
    assert len(every) == 8
    scores = scores_of(matching, [vectors], [every] * 50)
    assert [every[int(np.argmax(each))] for each in scores] == captions
    assert all(np.abs(each).max() <= 1.0001 for each in scores)
    own = [each[every.index(caption)] for each, caption in zip(scores, captions, strict=True)]
    assert min(own) > 0.8
    # the more it says of the photo, the better it matches
    red_dog, red_cat, blue_cat = (RED, DOG, RUNS), (RED, CAT, RUNS), (BLUE, CAT, RUNS)
    [row] = scores_of(matching, [vectors[captions.index((RED, DOG, RUNS, ON))][None]], [[red_dog, red_cat, blue_cat]])
    assert row[0] > row[1] > row[2]


def test_what_every_caption_says_and_what_none_says_count_nothing(matching: Matching) -> None:
    vectors, captions = photos(3, seed=2)
    without = [[caption[:-1]] for caption in captions]
    unknown = [[(*caption, VOCAB_SIZE - 1)] for caption in captions]
    repeated = [[caption + caption] for caption in captions]
    expected = np.concatenate(scores_of(matching, [vectors], [[caption] for caption in captions]))
    for others in (without, unknown, repeated):
        np.testing.assert_allclose(np.concatenate(scores_of(matching, [vectors], others)), expected, atol=1e-6)


def test_views_count_by_their_mean_and_regions_by_theirs(matching: Matching) -> None:
    vectors, captions = photos(4, seed=3)
    every = [captions] * 4
    regions = np.stack([vectors - 0.5, vectors + 0.5], axis=1)
    for views in ([regions], [vectors, vectors]):
        np.testing.assert_allclose(scores_of(matching, views, every), scores_of(matching, [vectors], every), atol=1e-5)
    # of two views both count
    both = np.array(scores_of(matching, [vectors[:1], vectors[1:2]], [captions]))
    each = [np.array(scores_of(matching, [vectors[row : row + 1]], [captions])) for row in (0, 1)]
    assert not np.allclose(both, each[0])
    assert np.abs(both - each[0]).max() < np.abs(each[1] - each[0]).max()


def test_nothing_in_common_is_no_error() -> None:
    """One photo, or captions that all say the same."""
    for count in (1, 5):
        vectors, captions = photos(count, seed=4)
        ids = tuple(map(str, range(count)))
        known = Neighbors(ids, of_length_one(vectors), (((DOG, RUNS),),) * count)
        matching = Matching.fit(known, vocab_size=VOCAB_SIZE)
        assert np.array_equal(scores_of(matching, [vectors], [captions[:2]] * count), np.zeros((count, min(count, 2))))
    assert [len(each) for each in scores_of(matching, [vectors[:2]], [[], [(DOG,), ()]])] == [0, 2]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path, matching: Matching) -> None:
    location = str(tmp_path / "matching.npz")
    matching.save(location)
    again = Matching.load(location, dim=DIM, vocab_size=VOCAB_SIZE)
    vectors, captions = photos(3, seed=5)
    assert np.array_equal(scores_of(again, [vectors], [captions] * 3), scores_of(matching, [vectors], [captions] * 3))


def test_a_damaged_file_is_named(tmp_path: Path, matching: Matching) -> None:
    file = tmp_path / "matching.npz"
    matching.save(str(file))
    size = {"dim": DIM, "vocab_size": VOCAB_SIZE}
    for wrong in ({"dim": 4}, {"vocab_size": 9}):
        with pytest.raises(FormatError, match=r"matching.npz does not match features of \d+ numbers and \d+ words"):
            Matching.load(str(file), **(size | wrong))
    whole = file.read_bytes()
    for damaged in (b"", b"no numpy", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"matching.npz cannot be read"):
            Matching.load(str(file), **size)
    np.savez(file, mean_photo=np.zeros(DIM))
    with pytest.raises(FormatError, match=r"matching.npz cannot be read"):
        Matching.load(str(file), **size)
    file.unlink()
    with pytest.raises(FormatError, match=r"matching.npz cannot be read: .*No such file"):
        Matching.load(str(file), **size)
