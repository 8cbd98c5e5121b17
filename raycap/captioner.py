"""A bundle at work: features to captions; knows neither Ray nor where features come from."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from raycap.config import DecodingConfig
from raycap.decoding import sample, search
from raycap.model import Bundle
from raycap.next_word import NextWord
from raycap.schema import PAD_ID


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


class Captioner:
    """Captions photos by their features."""

    def __init__(self, bundle: Bundle, *, num_threads: int | None = None) -> None:
        """Take a bundle that is in memory.

        Args:
            bundle: the model.
            num_threads: that captioning may take; None for one a core.
        """
        self.bundle = bundle
        self._next_word = NextWord(bundle.model, num_threads=num_threads)

    @classmethod
    def load(cls, location: str, *, num_threads: int | None = None) -> Self:
        """Load the bundle at `location`; for errors see `Bundle.load`."""
        return cls(Bundle.load(location), num_threads=num_threads)

    def caption_features(
        self, features: NDArray[np.float32], decoding: DecodingConfig, *, image_ids: Sequence[str]
    ) -> list[list[GeneratedCaption]]:
        """Return the captions of each photo, best first; `decoding.num_captions` of them, where there are so many.

        Args:
            features: `(photos, dim)` float32, from the encoder of the bundle's card.
            decoding: how to search or draw.
            image_ids: of the photos; with the seed they decide what is drawn.
        """
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
            "forbidden": (PAD_ID,),
        }
        step, state = self._next_word.start(features)
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
        return [
            [
                GeneratedCaption(tokenizer.decode(each.tokens), each.log_prob, len(each.tokens))
                for each in hypotheses[: decoding.num_captions]
            ]
            for hypotheses in found
        ]


def _uniforms(image_ids: Sequence[str], seed: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return random numbers, `(photos, *shape)`, that are the same for a photo wherever and with whatever it is run."""
    digests = (hashlib.sha256(image_id.encode()).digest()[:8] for image_id in image_ids)
    generators = (np.random.default_rng([seed, int.from_bytes(digest)]) for digest in digests)
    return np.stack([generator.random(shape) for generator in generators])
