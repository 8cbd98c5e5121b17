"""The places of whole captions that have a word to predict, and what training asks of a decoder there.

Only such places are worked on: all captions' first words, then the second words of those that have one, and so on, the
way of PyTorch's packed sequences. Knows no decoder.
"""

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from raycap.schema import PAD_ID


class Places(NamedTuple):
    """What a decoder makes of every word to predict of a batch, in any order.

    Attributes:
        hidden: `(words, units)` float32, what the layer over the vocabulary sees.
        captions: `(words,)`, the row of the word's caption.
        labels: `(words,)` int32, the word.
    """

    hidden: Any
    captions: Any
    labels: Any


class Forcing(Protocol):
    """A decoder's layers, run over captions that are known; training them trains the model that they are of."""

    def __call__(self, features: Any, photos: Any, tokens: Any, targets: Any, *, training: bool) -> Places:
        """Return the words to predict.

        Args:
            features: `(photos, dim)` or `(photos, num_regions, dim)` float32.
            photos: `(captions,)` int32, the row of each caption's photo.
            tokens: `(captions, length)` int32, padded on the right.
            targets: `(captions, length)` int32, the words to predict; `PAD_ID` where there is none.
            training: with dropout.
        """


class Packed(NamedTuple):
    """Captions' words in the order of their place, and at each place in the same order of captions, the longest first.

    Attributes:
        tokens: `(words,)` int32.
        labels: `(words,)` int32, what comes next.
        captions: `(words,)` int32, the row of the caption.
        places: `(words,)` int32, from 0.
        counts: `(length,)` int32, captions that have a word at each place; not increasing.
    """

    tokens: Any
    labels: Any
    captions: Any
    places: Any
    counts: Any

    def pad(self, values: Any, tokens: Any) -> Any:
        """Return `(words, ...)` as `(captions, length, ...)`, 0 where there is no word to predict."""
        return tf.scatter_nd(self._where(), values, tf.concat([tf.shape(tokens), tf.shape(values)[1:]], axis=0))

    def take(self, padded: Any) -> Any:
        """Return `(captions, length, ...)` at the words to predict, `(words, ...)`."""
        return tf.gather_nd(padded, self._where())

    def _where(self) -> Any:
        return tf.stack([self.captions, self.places], axis=1)


def pack(tokens: Any, targets: Any) -> Packed:
    """Return the words of captions packed, from `(captions, length)` tokens and targets."""
    lengths = tf.reduce_sum(tf.cast(tf.not_equal(targets, PAD_ID), tf.int32), axis=1)
    longest_first = tf.argsort(lengths, direction="DESCENDING", stable=True)
    tokens, targets = (tf.transpose(tf.gather(each, longest_first)) for each in (tokens, targets))
    present = tf.not_equal(targets, PAD_ID)
    where = tf.where(present)
    return Packed(
        tokens=tf.gather_nd(tokens, where),
        labels=tf.gather_nd(targets, where),
        captions=tf.gather(longest_first, where[:, 1]),
        places=tf.cast(where[:, 0], tf.int32),
        counts=tf.reduce_sum(tf.cast(present, tf.int32), axis=1),
    )
