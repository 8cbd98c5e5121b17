"""How well a caption matches a photo, by what photos and people's captions have in common; knows no decoder.

Photos' vectors and captions' words are both projected to where training photos and their own captions correlate most
(canonical correlation analysis); a caption matches a photo as the cosine between the two. A decoder says what is
probable of a photo; this says what tells it from other photos.

References:
    Hodosh, Young and Hockenmaier 2013, Framing image description as a ranking task (Flickr8k; photos and captions by
    canonical correlation).
    Gong, Wang, Hodosh, Hockenmaier and Lazebnik 2014, Improving image-sentence embeddings using large weakly annotated
    photo collections (regularised, each dimension weighed by its correlation).
"""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from raycap.errors import FormatError
from raycap.neighbors import Neighbors, Tokens, of_length_one
from raycap.storage import atomic_output, open_input
from raycap.word_shares import word_shares

MATCHING_FILE: Final = "matching.npz"
"""What it is called in a bundle."""

_DIMENSIONS = 128  # of the common space; these three by recall on Flickr8k's dev split, see docs/quality.md
_PHOTO_RIDGE, _WORD_RIDGE = 1.0, 3.0  # added to each covariance, in parts of its mean variance
_LEAST_CORRELATION = 1e-3
_PHOTOS_AT_ONCE = 2048


def fitting_bytes(dim: int, vocab_size: int) -> int:
    """Return what `Matching.fit` takes: three squares in float64 (3 GB for the tutorial's 4,096 and 7,579)."""
    return 3 * 8 * (dim + vocab_size) ** 2


@dataclass(frozen=True)
class Matching:
    """Projections of photos and of captions into one space of `k` dimensions; all float32.

    Attributes:
        mean_photo: `(dim,)`, of the training photos' vectors.
        photos: `(dim, k)`, projects a vector's difference from it.
        word_weights: `(vocab_size,)`, more for rarer words; 0 for tokens of no caption.
        words: `(vocab_size, k)`, projects a caption's words.
        mean_caption: `(k,)`, of the training captions, once projected.
    """

    mean_photo: NDArray[np.float32]
    photos: NDArray[np.float32]
    word_weights: NDArray[np.float32]
    words: NDArray[np.float32]
    mean_caption: NDArray[np.float32]

    @classmethod
    def fit(cls, known: Neighbors, *, vocab_size: int) -> Self:
        """Find what photos and captions have in common.

        Takes `fitting_bytes` of memory, however many photos there are.

        Args:
            known: training photos with their captions.
            vocab_size: words, start, end and padding.
        """
        weights = _rarity(known.captions, vocab_size)
        dim = known.vectors.shape[1]
        total = np.zeros((dim + vocab_size, dim + vocab_size))
        sums = np.zeros(dim + vocab_size)
        for both in _vectors_and_words(known, weights):
            total += both.T @ both
            sums += both.sum(axis=0)
        means = sums / len(known.image_ids)
        total /= len(known.image_ids)
        total -= np.outer(means, means)
        photos, words = _correlate(total, dim)
        arrays = (means[:dim], photos, weights, words, means[dim:] @ words)
        return cls(*(each.astype(np.float32) for each in arrays))

    def scores(self, vectors: NDArray[np.float32], captions: Sequence[Sequence[Tokens]]) -> list[NDArray[np.float32]]:
        """Return how well each caption of each photo matches it, -1 to 1.

        Args:
            vectors: `(photos, dim)`, of `photo_vectors`, from the same encoder.
            captions: of each photo, as token ids, without start and end.
        """
        seen = of_length_one((vectors - self.mean_photo) @ self.photos)
        found = []
        for place, each in zip(seen, captions, strict=True):
            said = _weighed(word_shares([[caption] for caption in each], len(self.words)), self.word_weights)
            found.append(of_length_one(said @ self.words - self.mean_caption) @ place)
        return found

    def save(self, location: str) -> None:
        """Write it as numpy's `.npz`, an array an attribute."""
        with atomic_output(location) as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, location: str, *, dim: int, vocab_size: int) -> Self:
        """Read what `save` wrote.

        Args:
            location: of the file.
            dim: numbers of the bundle's encoder's features.
            vocab_size: of its tokenizer.

        Raises:
            FormatError: if it is damaged, or another bundle's.
        """
        try:
            with open_input(location) as file, np.load(file, allow_pickle=False) as arrays:
                found = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(f"{location} cannot be read: {error}") from error
        k = found.photos.shape[-1]
        shapes = [(dim,), (dim, k), (vocab_size,), (vocab_size, k), (k,)]
        if [getattr(found, field.name).shape for field in fields(cls)] != shapes:
            raise FormatError(f"{location} does not match features of {dim} numbers and {vocab_size} words")
        return found


def _rarity(captions: Sequence[Sequence[Tokens]], vocab_size: int) -> NDArray[np.float64]:
    """Return the log of how many photos there are for one whose captions have the token; 0 where none has."""
    counts = np.zeros(vocab_size)
    for each in captions:
        counts[list({token for caption in each for token in caption})] += 1
    return np.where(counts > 0, np.log(len(captions) / np.maximum(counts, 1)), 0.0)


def _vectors_and_words(known: Neighbors, weights: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield vectors and weighed words of the photos, some at a time, `(photos, dim + vocab_size)`."""
    for start in range(0, len(known.image_ids), _PHOTOS_AT_ONCE):
        rows = slice(start, start + _PHOTOS_AT_ONCE)
        words = _weighed(word_shares(known.captions[rows], len(weights)), weights)
        yield np.concatenate([known.vectors[rows], words], axis=1)


def _weighed(shares: NDArray[np.float64], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return what words say, at a length of 1: rarer ones more, and those that all say not much more than one's."""
    return of_length_one(np.sqrt(shares) * weights)


def _correlate(covariance: NDArray[np.float64], dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the projections of photos and of words that correlate most, each weighed by its correlation.

    Args:
        covariance: of photos' numbers, which come first, and words.
        dim: how many numbers are photos'.
    """
    photo_root = _root(covariance[:dim, :dim], _PHOTO_RIDGE)
    word_root = _root(covariance[dim:, dim:], _WORD_RIDGE)
    whitened = np.linalg.solve(word_root, np.linalg.solve(photo_root, covariance[:dim, dim:]).T).T
    squares, left = np.linalg.eigh(whitened @ whitened.T)  # of squared correlations; faster than all singular vectors
    best = [place for place in np.argsort(-squares)[:_DIMENSIONS] if squares[place] > _LEAST_CORRELATION**2]
    left = left[:, best]
    photos = np.linalg.solve(photo_root.T, left * np.sqrt(squares[best]))
    # a right singular vector is `whitened.T @ left` by the correlation, which the weight takes away again
    return photos, np.linalg.solve(word_root.T, whitened.T @ left)


def _root(covariance: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Return the Cholesky root of a covariance with a ridge, so that what few photos show counts less."""
    added = ridge * covariance.diagonal().mean() + 1e-12  # a little, even where nothing varies
    return np.linalg.cholesky(covariance + added * np.eye(len(covariance)))
