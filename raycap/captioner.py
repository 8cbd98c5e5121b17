"""A bundle at work: photos, or their features, to captions; knows no Ray, and nothing of how features are stored."""

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Literal, NamedTuple, Self, cast, overload

import numpy as np
from numpy.typing import NDArray

from raycap.batching import BatchSizer
from raycap.config import DecodingConfig, LimitsConfig
from raycap.consensus import by_consensus
from raycap.decoders import decoder_of
from raycap.decoding import Hypothesis, sample, search
from raycap.devices import configure
from raycap.encoder import Encoder, reload_encoder
from raycap.errors import ImageError, ImageFeatureError, InputError
from raycap.features import are_numbers
from raycap.given_photos import Photo, contents, is_photo, name_of
from raycap.images import DecodedImage
from raycap.locations import absolute
from raycap.model import Bundle
from raycap.neighbors import Tokens, photo_vectors
from raycap.photo_decoder import PhotoDecoder
from raycap.schema import PAD_ID
from raycap.text import ARTICLES, ATTRIBUTES, FUNCTION_WORDS, OPEN_WORDS
from raycap.views import MIRRORED, view


class GeneratedCaption(NamedTuple):
    """A model's caption of one photo.

    Attributes:
        caption: its words, joined by spaces.
        log_prob: natural log of its probability, the end token's included.
        num_tokens: words.
    """

    caption: str
    log_prob: float
    num_tokens: int


class PhotoCaption(NamedTuple):
    """What a model says of one photo.

    Attributes:
        caption: the best caption's words, joined by spaces.
        log_prob: natural log of its probability, the end token's included.
        num_tokens: words.
        alternatives: the captions after it, best first, where more than one was asked for.
    """

    caption: str
    log_prob: float
    num_tokens: int
    alternatives: tuple[GeneratedCaption, ...] = ()


class Captioner:
    """Captions photos, or their features, with one bundle; the encoder is loaded when the first photo comes.

    Example:
        captioner = raycap.Captioner.load("work/model")
        captioner.caption("holiday/beach.jpg").caption
        captioner.caption(["a.jpg", "b.jpg"], beam_width=5, num_captions=3)
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        encoder_file: str | None = None,
        limits: LimitsConfig | None = None,
        num_threads: int | None = None,
        batch_size: int = 16,
    ) -> None:
        """Take a bundle that is in memory.

        Args:
            bundle: the model.
            encoder_file: where the encoder's saved model or weights file is now, if not where it was at extract.
            limits: what a photo may cost.
            num_threads: that captioning may take; None for one a core.
            batch_size: photos a model call; halved where memory runs out.
        """
        self.bundle = bundle
        self.decoder = PhotoDecoder.of(bundle.card.encoder, limits or LimitsConfig())
        self._encoder_file = encoder_file
        self._batch_size = batch_size
        self._batches = BatchSizer(batch_size)
        self._steps = decoder_of(bundle.model).steps(bundle.model, num_threads=num_threads)

    @classmethod
    def load(
        cls,
        location: str | os.PathLike[str],
        *,
        encoder_file: str | None = None,
        limits: LimitsConfig | None = None,
        num_threads: int | None = None,
        batch_size: int = 16,
    ) -> Self:
        """Load a bundle: its location, or train's `--out`; for the rest see the constructor, for errors `Bundle.load`.

        The first call in a process sets TensorFlow's threads.
        """
        configure(num_threads)
        encoder_file = encoder_file and absolute(encoder_file)
        bundle = Bundle.load(absolute(os.fspath(location)))
        return cls(bundle, encoder_file=encoder_file, limits=limits, num_threads=num_threads, batch_size=batch_size)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that the bundle was trained with; for the errors of loading it see `reload_encoder`."""
        return reload_encoder(self.bundle.card.encoder, file=self._encoder_file)

    @cached_property
    def _meaningful(self) -> tuple[int, ...]:
        """Tokens that carry meaning."""
        return tuple(number for word, number in self.bundle.tokenizer.ids.items() if word not in FUNCTION_WORDS)

    def _tokens(self, words: Collection[str]) -> tuple[int, ...]:
        return tuple(number for word, number in self.bundle.tokenizer.ids.items() if word in words)

    @cached_property
    def _whole_sentences(self) -> dict[str, Any]:
        """What to tell a search that is to finish its sentences."""
        pairs = (self._tokens(ARTICLES), self._tokens(ATTRIBUTES))
        return {"not_last": self._tokens(OPEN_WORDS), "not_last_two": pairs}

    # fmt: off
    @overload
    def caption(self, photos: Photo, *, errors: Literal["raise"] = ..., **options: Any) -> PhotoCaption: ...
    @overload
    def caption(self, photos: Photo, *, errors: Literal["return"], **options: Any) -> PhotoCaption | ImageError: ...
    @overload
    def caption(
        self, photos: Iterable[Photo], *, errors: Literal["raise"] = ..., **options: Any
    ) -> list[PhotoCaption]: ...
    @overload
    def caption(
        self, photos: Iterable[Photo], *, errors: Literal["return"], **options: Any
    ) -> list[PhotoCaption | ImageError]: ...
    # fmt: on
    def caption(
        self, photos: Photo | Iterable[Photo], *, errors: Literal["raise", "return"] = "raise", **options: Any
    ) -> Any:
        """Caption a photo, or several; the captions are those of `raycap caption`.

        Args:
            photos: one photo, or any number of them, of any of the kinds of `Photo`.
            errors: what becomes of a photo that cannot be used: its error is raised, which ends the call, or returned
                in its place.
            options: fields of `DecodingConfig`, such as `beam_width=5` or `num_captions=3`.

        Returns:
            For one photo its caption; for several a list, in their order.

        Raises:
            ImageError: of a photo that cannot be used, if `errors` is `raise`.
            ImageShapeError: if an array is no photo.
            TypeError: if something else is none.
            InputError: if an option has no such value.
            WeightsError: if the encoder's weights cannot be had.
            EncoderMismatchError: if they are not those that the bundle was trained with.
        """
        decoding = DecodingConfig(**options)
        if is_photo(photos):
            return self._caption([photos], decoding, raises=errors == "raise")[0]
        return self._caption(list(cast(Iterable[Photo], photos)), decoding, raises=errors == "raise")

    def _caption(
        self, photos: Sequence[Photo], decoding: DecodingConfig, *, raises: bool
    ) -> list[PhotoCaption | ImageError]:
        names = [name_of(photo) for photo in photos]
        labels = [name or f"photo {number}" for number, name in enumerate(names)]
        decoded = self.decoder.decode(contents(photos, self.decoder.limits))
        results: list[PhotoCaption | ImageError] = []
        while images := list(islice(decoded, self._batch_size)):
            batch = slice(len(results), len(results) + len(images))
            if raises:
                _raise_first(images, labels[batch])  # before the others are captioned in vain
            good = [
                (image.pixels, name)
                for image, name in zip(images, names[batch], strict=True)
                if isinstance(image, DecodedImage)
            ]
            pixels, image_ids = [each for each, _ in good], [name for _, name in good]
            captions = iter(self.caption_pixels(pixels, decoding, image_ids=image_ids))
            found = [image if isinstance(image, ImageError) else next(captions) for image in images]
            if raises:
                _raise_first(found, labels[batch])
            results += found
        return results

    def caption_pixels(
        self, pixels: Sequence[NDArray[np.uint8]], decoding: DecodingConfig, *, image_ids: Sequence[str | None]
    ) -> list[PhotoCaption | ImageError]:
        """Return the captions of photos that were decoded for the bundle's encoder, or why one has none.

        Args:
            pixels: `(height, width, 3)` uint8 each, RGB, of the encoder's size.
            decoding: how to search or draw.
            image_ids: of the photos; with the seed they decide what is drawn. For None that is a hash of the pixels.
        """
        names = [
            name or hashlib.sha256(each.tobytes()).hexdigest() for name, each in zip(image_ids, pixels, strict=True)
        ]
        results: list[PhotoCaption | ImageError] = []

        def speak(rows: NDArray[np.intp]) -> list[list[GeneratedCaption]]:
            images = np.stack([pixels[row] for row in rows])
            views = [self.encoder.encode(images)]
            if decoding.mirrored:
                views.append(self.encoder.encode(np.stack([view(each, "", MIRRORED) for each in images])))
            usable = np.all([are_numbers(each) for each in views], axis=0)
            features, *mirrored = (each[usable] for each in views)
            ids = [names[row] for row in rows[usable]]
            found = iter(self.caption_features(features, decoding, image_ids=ids, mirrored=next(iter(mirrored), None)))
            return [next(found) if each else [] for each in usable]

        for _, found in self._batches.run(speak, np.arange(len(pixels))):
            for captions in found:
                if captions:
                    results.append(PhotoCaption(*captions[0], tuple(captions[1:])))
                else:
                    results.append(ImageFeatureError("its feature holds what is no number"))
        return results

    def caption_features(
        self,
        features: NDArray[np.float32],
        decoding: DecodingConfig,
        *,
        image_ids: Sequence[str],
        mirrored: NDArray[np.float32] | None = None,
    ) -> list[list[GeneratedCaption]]:
        """Return the captions of each photo, best first; `decoding.num_captions` of them, where there are so many.

        Args:
            features: `(photos, *card.shape)` float32, from the encoder of the bundle's card.
            decoding: how to search or draw.
            image_ids: of the photos; with the seed they decide what is drawn.
            mirrored: features of the same photos mirrored, which `decoding.mirrored` asks for.

        Raises:
            InputError: if it does, and there are none; or if it asks for what the bundle does not hold.
        """
        self.bundle.card.require_kept(decoding)
        if decoding.mirrored and mirrored is None:
            raise InputError("--mirrored needs features of the photos mirrored too: `view_1` of extract --num-views 2")
        if not len(features):
            return []
        tokenizer = self.bundle.tokenizer
        max_length = decoding.max_length or max(tokenizer.max_length, decoding.min_length)
        options: dict[str, Any] = {
            "start_id": tokenizer.start_id,
            "end_id": tokenizer.end_id,
            "max_length": max_length,
            "min_words": decoding.min_length - 2,
            "no_repeat_ngram": decoding.no_repeat_ngram,
            "once": self._meaningful if decoding.no_repeat_words else (),
            "forbidden": (PAD_ID,),
            **(self._whole_sentences if decoding.whole_sentences else {}),
        }
        views = [features, *([mirrored] if decoding.mirrored and mirrored is not None else [])]
        step, state = self._steps.start(*views)
        if decoding.sample:
            found = sample(
                step,
                state,
                uniforms=_uniforms(image_ids, decoding.sample_seed, (decoding.num_captions, max_length)),
                temperature=decoding.temperature,
                top_k=decoding.top_k,
                top_p=decoding.top_p,
                **options,
            )
        else:
            beam_width, penalty = decoding.beam_width, decoding.length_penalty
            found = search(step, state, beam_width=beam_width, length_penalty=penalty, **options)
            if decoding.consensus:
                found = self._by_consensus(found, views, decoding, image_ids)
        return [
            [
                GeneratedCaption(tokenizer.decode(each.tokens), each.log_prob, len(each.tokens))
                for each in hypotheses[: decoding.num_captions]
            ]
            for hypotheses in found
        ]

    def _by_consensus(
        self,
        found: Sequence[Sequence[Hypothesis]],
        views: Sequence[NDArray[np.float32]],
        decoding: DecodingConfig,
        image_ids: Sequence[str],
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of each photo, best first, by all that the options have count."""
        vectors = photo_vectors(views)
        near: Sequence[Sequence[Tokens]] = [()] * len(found)
        more: Sequence[NDArray[np.float32] | float] = [0.0] * len(found)
        if decoding.num_neighbors and self.bundle.neighbors is not None:
            near = self.bundle.neighbors.captions_near(vectors, decoding.num_neighbors, image_ids=image_ids)
        if decoding.matching and self.bundle.matching is not None:
            scores = self.bundle.matching.scores(
                vectors, [[each.tokens for each in hypotheses] for hypotheses in found]
            )
            more = [decoding.matching * each for each in scores]
        return [
            by_consensus(each, decoding.consensus, others, plus)
            for each, others, plus in zip(found, near, more, strict=True)
        ]


def _raise_first(found: Iterable[Any], labels: Iterable[str]) -> None:
    """Raise the first error among some photos' results, with the photo's label before it."""
    for each, label in zip(found, labels, strict=True):
        if isinstance(each, ImageError):
            raise type(each)(f"{label}: {each}")


def _uniforms(image_ids: Sequence[str], seed: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return random numbers, `(photos, *shape)`, that are the same for a photo wherever and with whatever it is run."""
    digests = (hashlib.sha256(image_id.encode()).digest()[:8] for image_id in image_ids)
    generators = (np.random.default_rng([seed, int.from_bytes(digest)]) for digest in digests)
    return np.stack([generator.random(shape) for generator in generators])
