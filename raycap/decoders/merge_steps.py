"""The merge model a word at a time: the step function that decoding searches with; knows neither Ray nor photos."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.decoders.steps import Advance, Steps
from raycap.decoders.vocabulary import vocabulary
from raycap.decoding import State
from raycap.threads import Threads

_PHOTOS_A_CALL = 256


class MergeSteps(Steps):
    """A merge model, with all that does not depend on the words before folded into its weights.

    The model's LSTM never sees the photo, so hypotheses with equal words share its state; embedding and input kernel
    are one table; the layer that merges is linear before its activation, so its photo's part is worked out once a
    photo and its words' part once a prefix. What remains for each word of each hypothesis is the layer over the
    vocabulary.

    On a CPU that is `TopWords`; on a GPU, TensorFlow.

    Attributes:
        inputs: `(vocab_size, 4 * units)` float32, what a word adds to the LSTM's gates.
        recurrent: `(units, 4 * units)` float32, of the LSTM.
        words_part: `(units, units)` float32, what the merging layer does to the LSTM's output.
        threads: do the work on a CPU.
    """

    def __init__(self, model: Any, *, num_threads: int | None = None) -> None:
        """Take the layers of a merge model.

        Args:
            model: what `build` returned, or a bundle held.
            num_threads: for the work; None for as many as there are cores.
        """
        self._layer = model.get_layer
        self.threads = Threads(num_threads)
        before = keras.Model(model.inputs[0], model.get_layer("photo_dropout").input)
        self._photo_side = tf.function(
            lambda features, photo_part: tf.matmul(self._layer("photo_dense")(before(features)), photo_part),
            input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.float32), tf.TensorSpec([None, None], tf.float32)],
        )
        self.refresh()

    def refresh(self) -> None:
        """Take the weights anew, after they have changed."""
        layer = self._layer
        kernel, self.recurrent, bias = layer("lstm").get_weights()
        self.inputs: NDArray[np.float32] = layer("embedding").get_weights()[0] @ kernel + bias
        merged, self._merged_bias = layer("merged_dense").get_weights()
        units = len(self.recurrent)
        concatenates = len(merged) == 2 * units
        self._photo_part, self.words_part = (merged[:units], merged[units:]) if concatenates else (merged, merged)
        self.top = vocabulary(*layer("next_word").get_weights(), threads=self.threads)

    def begin(self, features: NDArray[np.float32]) -> tuple[Advance, State]:
        """Return what takes one search a word further, and its state before the first word; see `Steps`."""
        starts = range(0, len(features), _PHOTOS_A_CALL)
        photos = np.concatenate(
            [self._photo_side(features[i : i + _PHOTOS_A_CALL], self._photo_part).numpy() for i in starts]
        )
        search = _Search(self, photos + self._merged_bias)
        return search, (np.arange(len(features)), np.zeros(len(features), np.int64))


class _Search:
    """One search, a word further at each call.

    Its state is which photo a hypothesis is of, and which of the prefixes of the last call it continues; what belongs
    to the prefixes is kept here.
    """

    def __init__(self, weights: MergeSteps, photos: NDArray[np.float32]) -> None:
        self._weights, self._photos = weights, photos
        self._hidden = self._carry = np.zeros((1, len(weights.recurrent)), np.float32)

    def __call__(self, tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State]:
        weights = self._weights
        photos, prefixes = state
        vocab_size = len(weights.inputs)
        distinct, prefixes = np.unique(prefixes * vocab_size + tokens, return_inverse=True)
        parents, words = np.divmod(distinct, vocab_size)

        def advance(rows: slice) -> tuple[NDArray[np.float32], ...]:
            gates = self._hidden[parents[rows]] @ weights.recurrent
            gates += weights.inputs[words[rows]]
            hidden, carry = _lstm(gates, self._carry[parents[rows]])
            return hidden, carry, hidden @ weights.words_part

        self._hidden, self._carry, words_side = weights.threads.rows(advance, len(distinct))

        def merge(rows: slice) -> tuple[NDArray[np.float32], ...]:
            merged = self._photos[photos[rows]]
            merged += words_side[prefixes[rows]]
            return (np.maximum(merged, 0.0, out=merged),)

        (merged,) = weights.threads.rows(merge, len(photos))
        return merged, (photos, prefixes)


def _lstm(gates: NDArray[np.float32], carry: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return hidden and carry of an LSTM, `(rows, units)`, from the sums of its gates in Keras' order."""
    enter, forget, update, leave = np.split(gates, 4, axis=1)
    carry = _sigmoid(forget) * carry + _sigmoid(enter) * np.tanh(update)
    return _sigmoid(leave) * np.tanh(carry), carry


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    halved: NDArray[np.float32] = np.tanh(0.5 * values)
    return 0.5 * halved + np.float32(0.5)
