"""The layer over the vocabulary in decoding, on either device: of all words, only the most probable are wanted."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.decoding import Continuations, Wanted
from raycap.threads import Threads
from raycap.top_words import TopWords

Top: TypeAlias = Callable[[NDArray[np.float32], Wanted], Continuations]
"""Returns the words wanted of each row of `(rows, units)` float32, and their log-probabilities."""


def vocabulary(kernel: NDArray[np.float32], bias: NDArray[np.float32], *, threads: Threads) -> Top:
    """Return the layer: on a CPU `TopWords`, on a GPU TensorFlow.

    Args:
        kernel: `(units, vocab_size)` float32.
        bias: `(vocab_size,)` float32.
        threads: do the work on a CPU.
    """
    if tf.config.list_logical_devices("GPU"):
        return GpuTopWords(kernel, bias)
    return TopWords(kernel, bias, threads=threads)


class GpuTopWords:
    """What `TopWords` does, on TensorFlow's device."""

    def __init__(self, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Take the layer: `(units, vocab_size)` and `(vocab_size,)` float32."""
        self._vocab_size = len(bias)
        weights, biases = tf.constant(kernel), tf.constant(bias)

        def top(hidden: Any, never: Any, banned: Any, count: Any) -> Any:
            logits = tf.matmul(hidden, weights) + biases
            totals = tf.reduce_logsumexp(logits, axis=1, keepdims=True)
            forbidden = tf.fill(tf.shape(banned)[:1], tf.constant(-np.inf, tf.float32))
            logits = tf.tensor_scatter_nd_update(logits + never, banned, forbidden)
            values, tokens = tf.math.top_k(logits, count)
            return tokens, values - totals

        rows = tf.TensorSpec([None, len(kernel)], tf.float32)
        words, pairs = tf.TensorSpec([self._vocab_size], tf.float32), tf.TensorSpec([None, 2], tf.int64)
        self._top = tf.function(top, input_signature=[rows, words, pairs, tf.TensorSpec([], tf.int32)])

    def __call__(self, hidden: NDArray[np.float32], wanted: Wanted) -> Continuations:
        """Return the words wanted of each row of `hidden`, `(rows, units)`, and their log-probabilities."""
        never = np.zeros(self._vocab_size, np.float32)
        never[list(wanted.never)] = -np.inf
        count = min(wanted.limit or self._vocab_size, self._vocab_size)
        tokens, log_probs = self._top(hidden, never, np.stack(wanted.banned, axis=1), count)
        return Continuations(tokens.numpy(), log_probs.numpy())
