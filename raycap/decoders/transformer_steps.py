"""The Transformer decoder a word at a time, as decoding runs it; knows neither Ray nor photos."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.decoders.regions import in_parts, look
from raycap.decoders.steps import Advance, Steps
from raycap.decoders.transformer import decode, embed, photo_side
from raycap.decoders.vocabulary import vocabulary
from raycap.decoding import State
from raycap.threads import Threads


class TransformerSteps(Steps):
    """A Transformer model's layers; keys and values of regions, and of the words before, are worked out once."""

    def __init__(self, model: Any, *, num_threads: int | None = None) -> None:
        """Take the layers of a Transformer model.

        Args:
            model: what `build` returned, or a bundle held.
            num_threads: for the layer over the vocabulary; None for as many as there are cores.
        """
        self._layer = model.get_layer
        self._threads = Threads(num_threads)
        side = photo_side(model)
        self._photo_side = tf.function(side, input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.float32)])
        photo = [tf.TensorSpec(each.shape, tf.float32) for each in side.outputs]
        memory = [tf.TensorSpec([None, *each.shape[2:]], tf.float32) for each in side.outputs]
        words = [tf.TensorSpec(shape, tf.int64) for shape in ([None], [None, None])]
        self.advance = tf.function(
            self._advance, input_signature=[tf.TensorSpec([None], tf.int32), *words, memory, photo]
        )
        self.refresh()

    def refresh(self) -> None:
        """Take the weights anew, after they have changed."""
        self.top = vocabulary(*self._layer("next_word").get_weights(), threads=self._threads)

    def begin(self, features: NDArray[np.float32]) -> tuple[Advance, State]:
        """Return what takes one search a word further, and its state before the first word; see `Steps`."""
        search = _Search(self, in_parts(self._photo_side, features))
        return search, (np.arange(len(features)), np.zeros((len(features), 0), np.int64))

    def _advance(self, tokens: Any, rows: Any, past: Any, memory: Any, photo: Any) -> tuple[Any, Any, Any]:
        """Return what the layer over the vocabulary sees, and the new `past` and `memory`.

        Args:
            tokens: `(rows,)`, the newest token of each hypothesis.
            rows: `(rows,)`, its photo.
            past: `(rows, words)`, where in `memory` the words before lie.
            memory: keys and values of words for each block, `(remembered, num_heads, depth)` each.
            photo: keys and values of regions for each block, `(photos, num_regions, num_heads, depth)` each.
        """
        num_words = tf.shape(past)[1]
        own = tf.shape(memory[0], past.dtype)[0] + tf.range(tf.shape(tokens, past.dtype)[0])
        past = tf.concat([past, own[:, tf.newaxis]], axis=1)
        grown: list[Any] = []

        # queries are `(1, rows, num_heads, depth)`
        def recall(index: int, query: Any, *new: Any) -> Any:
            both = [tf.concat([memory[2 * index + i], each[0]], axis=0) for i, each in enumerate(new)]
            grown.extend(both)
            query = tf.transpose(query, [1, 0, 2, 3])
            found = keras.ops.dot_product_attention(query, *(tf.gather(each, past) for each in both))
            return tf.transpose(found, [1, 0, 2, 3])

        def see(query: Any, keys: Any, values: Any) -> Any:
            return look(query[0], keys, values, rows)[tf.newaxis]

        words = embed(self._layer, tokens, tf.fill(tf.shape(tokens), num_words))[tf.newaxis]
        return decode(self._layer, words, photo, recall=recall, look=see)[0], past, grown


class _Search:
    """One search, a word further at each call.

    Its state is which photo a hypothesis is of, and which rows its words have in the memory that is kept here: a search
    that drops, doubles and reorders hypotheses then moves a number a word, not keys and values.
    """

    def __init__(self, steps: TransformerSteps, photo: tuple[Any, ...]) -> None:
        self._steps, self._photo = steps, list(photo)
        self._memory = [tf.zeros([0, *each.shape[2:]]) for each in photo]

    def __call__(self, tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State]:
        rows, past = state
        hidden, past, self._memory = self._steps.advance(tokens, rows, past, self._memory, self._photo)
        return hidden.numpy(), (rows, past.numpy())
