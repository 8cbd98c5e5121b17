"""A bundle at work: features to captions; knows neither Ray nor where features come from."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from raycap.config import DecodingConfig
from raycap.decoding import search
from raycap.model import Bundle, NextWord
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

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle that is in memory."""
        self.bundle = bundle
        self._next_word = NextWord(bundle.model)

    @classmethod
    def load(cls, location: str) -> Self:
        """Load the bundle at `location`; for errors see `Bundle.load`."""
        return cls(Bundle.load(location))

    def caption_features(self, features: NDArray[np.float32], decoding: DecodingConfig) -> list[GeneratedCaption]:
        """Return the best caption of each photo.

        Args:
            features: `(photos, dim)` float32, from the encoder of the bundle's card.
            decoding: how to search.
        """
        if not len(features):
            return []
        tokenizer = self.bundle.tokenizer
        found = search(
            self._next_word,
            self._next_word.start(features),
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            max_length=decoding.max_length or tokenizer.max_length,
            beam_width=decoding.beam_width,
            length_penalty=decoding.length_penalty,
            forbidden=(PAD_ID,),
        )
        best = [hypotheses[0] for hypotheses in found]
        return [GeneratedCaption(tokenizer.decode(each.tokens), each.log_prob, len(each.tokens)) for each in best]
