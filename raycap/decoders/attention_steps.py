"""The attention decoder a word at a time, as decoding runs it; knows neither Ray nor photos."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.decoders.attention import photo_side
from raycap.decoders.packed_lstm import lstm_cell
from raycap.decoders.regions import in_parts, look
from raycap.decoders.steps import Advance, Steps
from raycap.decoders.vocabulary import vocabulary
from raycap.decoding import State
from raycap.threads import Threads


class AttentionSteps(Steps):
    """An attention model's layers, with what a photo adds to the LSTM's gates, and to what is merged, worked out once.

    So is what each word of the vocabulary adds to the gates.
    """

    def __init__(self, model: Any, *, num_threads: int | None = None) -> None:
        """Take the layers of an attention model.

        Args:
            model: what `build` returned, or a bundle held.
            num_threads: for the layer over the vocabulary; None for as many as there are cores.
        """
        self._layer = model.get_layer
        self._threads = Threads(num_threads)
        self._units = self._layer("lstm").units
        self._regions = photo_side(model)
        self._photo_side = tf.function(self._see, input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.float32)])
        self.advance = tf.function(self._advance, reduce_retracing=True)
        self.refresh()

    def refresh(self) -> None:
        """Take the weights anew, after they have changed."""
        self.top = vocabulary(*self._layer("next_word").get_weights(), threads=self._threads)
        cell = self._layer("lstm").cell
        self.inputs = tf.matmul(self._layer("embedding").embeddings, cell.kernel[: -self._units])

    def begin(self, features: NDArray[np.float32]) -> tuple[Advance, State]:
        """Return what takes one search a word further, and its state before the first word; see `Steps`."""
        photos = in_parts(self._photo_side, features)
        nothing = np.zeros((len(features), self._units), np.float32)
        return _Search(self, photos), (np.arange(len(features)), nothing, nothing)

    def _see(self, features: Any) -> tuple[Any, ...]:
        """Return keys, values, and what the photo adds to the gates and to what is merged."""
        photo, keys, values = self._regions(features)
        cell, merged = self._layer("lstm").cell, self._layer("merged_dense")
        to_gates = tf.matmul(photo, cell.kernel[-self._units :]) + cell.bias
        to_merged = tf.matmul(photo, merged.kernel[-self._units :]) + merged.bias
        return keys, values, to_gates, to_merged

    def _advance(
        self, inputs: Any, tokens: Any, rows: Any, hidden: Any, carry: Any, *photos: Any
    ) -> tuple[Any, Any, Any]:
        """Return what the layer over the vocabulary sees, and the LSTM's new state.

        Args:
            inputs: `(vocab_size, 4 * units)`, what a word adds to the LSTM's gates.
            tokens: `(rows,)`, the newest token of each hypothesis.
            rows: `(rows,)`, its photo.
            hidden: `(rows, units)`.
            carry: `(rows, units)`.
            photos: what `_see` returned.
        """
        keys, values, to_gates, to_merged = photos
        cell, merged = self._layer("lstm").cell, self._layer("merged_dense")
        gates = tf.gather(inputs, tokens) + tf.gather(to_gates, rows) + tf.matmul(hidden, cell.recurrent_kernel)
        hidden, carry = lstm_cell(gates, carry)
        query = self._layer("attention_query")(hidden[:, tf.newaxis])[:, 0]
        seen = tf.reshape(look(query, keys, values, rows), tf.shape(hidden))
        words = tf.concat([hidden, seen], axis=1)
        told = tf.tanh(tf.matmul(words, merged.kernel[: -self._units]) + tf.gather(to_merged, rows))
        return self._layer("merged_norm")(told), hidden, carry


class _Search:
    """One search, a word further at each call: its state is each hypothesis' photo, hidden and carry."""

    def __init__(self, steps: AttentionSteps, photos: tuple[Any, ...]) -> None:
        self._steps, self._photos = steps, photos

    def __call__(self, tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State]:
        rows, *memory = state
        merged, hidden, carry = self._steps.advance(self._steps.inputs, tokens, rows, *memory, *self._photos)
        return merged.numpy(), (rows, hidden.numpy(), carry.numpy())
