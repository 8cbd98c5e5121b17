"""The merge model over whole captions, as training runs it; knows neither Ray nor where captions come from.

Only places that have a word are worked on: all captions' first words, then the second words of those that have one, and
so on, the way of PyTorch's packed sequences.
"""

from typing import Any

import keras
import tensorflow as tf

from raycap.schema import PAD_ID

_FEW, _MANY = 1e-20, 1e20  # sums of exponentials between them have lost nothing, nor have their inverses


class TeacherForcing:
    """A merge model's layers, run over captions that are known: one pass of the LSTM predicts every next word."""

    def __init__(self, model: Any, *, on_gpu: bool | None = None) -> None:
        """Take the layers of a merge model, which stay its own: training one trains the other.

        Args:
            model: what `build_model` returned.
            on_gpu: run Keras' LSTM over padded captions, for which GPUs have a kernel; None looks whether there is one.
        """
        layer = model.get_layer
        self._photo = keras.Model(model.inputs[0], layer("photo_dense").output)
        self._embedding, self._dropout, self._lstm = layer("embedding"), layer("word_dropout"), layer("lstm")
        self._merged_dense, self._next_word = layer("merged_dense"), layer("next_word")
        self._concatenates = isinstance(layer("merge"), keras.layers.Concatenate)
        self._on_gpu = bool(tf.config.list_logical_devices("GPU")) if on_gpu is None else on_gpu

    def __call__(
        self, features: Any, tokens: Any, targets: Any, *, training: bool, label_smoothing: float = 0.0
    ) -> tuple[Any, Any]:
        """Return the sum over the words to predict of their negative log-likelihood, and of the objective, in nats.

        Args:
            features: `(captions, dim)` float32.
            tokens: `(captions, length)` int32, padded on the right.
            targets: `(captions, length)` int32, the words to predict; `PAD_ID` where there is none.
            training: with dropout.
            label_smoothing: share of the target that the objective spreads evenly over the vocabulary.
        """
        words, captions, labels = (self._padded if self._on_gpu else self._packed)(tokens, targets, training)
        photos = tf.gather(self._photo(features, training=training), captions)
        hidden = self._merged_dense(tf.concat([photos, words], axis=1) if self._concatenates else photos + words)
        kernel, bias = map(tf.convert_to_tensor, (self._next_word.kernel, self._next_word.bias))
        total = tf.reduce_sum(negative_log_likelihood(hidden, kernel, bias, labels))
        if not label_smoothing:
            return total, total
        # cross-entropy against the uniform distribution is log-sum-exp less the mean logit
        said = tf.reduce_sum(hidden * tf.gather(tf.transpose(kernel), labels), axis=1) + tf.gather(bias, labels)
        mean = tf.linalg.matvec(hidden, tf.reduce_mean(kernel, axis=1)) + tf.reduce_mean(bias)
        return total, total + label_smoothing * tf.reduce_sum(said - mean)

    def _packed(self, tokens: Any, targets: Any, training: bool) -> tuple[Any, Any, Any]:
        """Return the LSTM's output, the row of the caption and the target of each place that has one."""
        lengths = tf.reduce_sum(tf.cast(tf.not_equal(targets, PAD_ID), tf.int32), axis=1)
        longest_first = tf.argsort(lengths, direction="DESCENDING", stable=True)
        tokens, targets = (tf.transpose(tf.gather(each, longest_first)) for each in (tokens, targets))
        present = tf.not_equal(targets, PAD_ID)
        places = tf.where(present)
        embedded = self._dropout(self._embedding(tf.gather_nd(tokens, places)), training=training)
        cell = self._lstm.cell
        gates = tf.matmul(embedded, cell.kernel) + cell.bias
        counts = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)
        words = packed_lstm(gates, tf.convert_to_tensor(cell.recurrent_kernel), counts)
        return words, tf.gather(longest_first, places[:, 1]), tf.gather_nd(targets, places)

    def _padded(self, tokens: Any, targets: Any, training: bool) -> tuple[Any, Any, Any]:
        """Return what `_packed` does, in another order."""
        embedded = self._embedding(tokens)
        words = self._lstm(self._dropout(embedded, training=training), mask=self._embedding.compute_mask(tokens))
        places = tf.where(tf.not_equal(targets, PAD_ID))
        return tf.gather_nd(words, places), places[:, 0], tf.gather_nd(targets, places)


def packed_lstm(gates: Any, recurrent: Any, counts: Any) -> Any:
    """Return the output of an LSTM over packed sequences, `(words, units)` float32.

    Words are in order of their place, and at each place in the same order of sequences, the longest first: at place t
    the first `counts[t]` sequences have a word. What can be done for all words at once is: the gradient of the
    recurrent kernel is one matrix product, where automatic differentiation makes one a place.

    Args:
        gates: `(words, 4 * units)` float32, what the words add to the gates, bias included; in Keras' order.
        recurrent: `(units, 4 * units)` float32, the recurrent kernel.
        counts: `(places,)` int32, not increasing.

    Reference:
        Gers, Schmidhuber and Cummins 2000, doi:10.1162/089976600300015015 (the LSTM with forget gates).
    """
    units = recurrent.shape[0]
    num_places, first = tf.shape(counts)[0], counts[0]
    starts = tf.cumsum(counts, exclusive=True)

    def array(width: int) -> Any:
        return tf.TensorArray(tf.float32, size=num_places, infer_shape=False, element_shape=[None, width])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(gates: Any, recurrent: Any) -> tuple[Any, Any]:
        def advance(place: Any, hidden: Any, carry: Any, *kept: Any) -> tuple[Any, ...]:
            count, start = counts[place], starts[place]
            sums = gates[start : start + count] + tf.matmul(hidden[:count], recurrent)
            enter, forget, update, leave = tf.split(sums, 4, axis=1)
            carry = tf.sigmoid(forget) * carry[:count] + tf.sigmoid(enter) * tf.tanh(update)
            hidden = tf.sigmoid(leave) * tf.tanh(carry)
            written = (each.write(place, value) for each, value in zip(kept, (sums, hidden, carry), strict=True))
            return place + 1, hidden, carry, *written

        nothing = tf.zeros([first, units])
        *_, all_sums, all_hidden, all_carry = tf.while_loop(
            lambda place, *_: place < num_places,
            advance,
            (0, nothing, nothing, array(4 * units), array(units), array(units)),
        )
        sums, hidden, carry = all_sums.concat(), all_hidden.concat(), all_carry.concat()

        def gradient(upstream: Any) -> tuple[Any, Any]:
            place = tf.repeat(tf.range(num_places), counts)[first:]
            before = tf.range(first, tf.shape(hidden)[0]) - tf.gather(counts, place - 1)  # rows of the places before
            carry_before = tf.concat([tf.zeros([first, units]), tf.gather(carry, before)], axis=0)
            enter, forget, update, leave = tf.split(sums, 4, axis=1)
            enter, forget, update, leave = tf.sigmoid(enter), tf.sigmoid(forget), tf.tanh(update), tf.sigmoid(leave)
            told = tf.tanh(carry)
            by_carry = (
                update * enter * (1 - enter),
                carry_before * forget * (1 - forget),
                enter * (1 - update * update),
            )
            slopes = tf.concat([*by_carry, told * leave * (1 - leave)], axis=1)
            from_hidden = leave * (1 - told * told)
            transposed = tf.transpose(recurrent)

            def retreat(place: Any, to_hidden: Any, to_carry: Any, kept: Any) -> tuple[Any, ...]:
                count, start = counts[place], starts[place]
                rows = slice(start, start + count)
                longer = [[0, count - tf.shape(to_hidden)[0]], [0, 0]]
                to_hidden = tf.pad(to_hidden, longer) + upstream[rows]
                to_carry = tf.pad(to_carry, longer) + to_hidden * from_hidden[rows]
                to_sums = tf.concat([to_carry, to_carry, to_carry, to_hidden], axis=1) * slopes[rows]
                return place - 1, tf.matmul(to_sums, transposed), to_carry * forget[rows], kept.write(place, to_sums)

            nothing = tf.zeros([0 * first, units])
            *_, all_to_sums = tf.while_loop(
                lambda place, *_: place >= 0, retreat, (num_places - 1, nothing, nothing, array(4 * units))
            )
            to_sums = all_to_sums.concat()
            return to_sums, tf.matmul(tf.gather(hidden, before), to_sums[first:], transpose_a=True)

        return hidden, gradient

    return run(gates, recurrent)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def negative_log_likelihood(hidden: Any, kernel: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    """Return the negative log-likelihood of each label, `(rows,)` float32, under the softmax of a dense layer.

    As `tf.nn.sparse_softmax_cross_entropy_with_logits`, but the array of `rows` times `vocab_size` is gone over as few
    times as can be, since that is all it costs beyond its matrix products: exponentials are taken without a shift
    where none is needed, and not divided by their sums; what they are multiplied with is.

    Args:
        hidden: `(rows, units)` float32.
        kernel: `(units, vocab_size)` float32.
        bias: `(vocab_size,)` float32.
        labels: `(rows,)` int32.
    """
    logits = tf.nn.bias_add(tf.matmul(hidden, kernel), bias)
    at_labels = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
    said = tf.gather_nd(logits, at_labels)
    weights = tf.exp(logits)
    totals = tf.reduce_sum(weights, axis=1)
    lost = tf.logical_not(tf.reduce_all((totals > _FEW) & (totals < _MANY)))

    def shifted() -> tuple[Any, Any, Any]:
        shift = tf.reduce_max(logits, axis=1)
        weights = tf.exp(logits - shift[:, tf.newaxis])
        return weights, tf.reduce_sum(weights, axis=1), shift

    weights, totals, shift = tf.cond(lost, shifted, lambda: (weights, totals, tf.zeros_like(totals)))

    def gradient(upstream: Any) -> tuple[Any, Any, Any, None]:
        less_label = tf.tensor_scatter_nd_sub(weights, at_labels, totals)
        scale = (upstream / totals)[:, tf.newaxis]
        return (
            scale * tf.matmul(less_label, kernel, transpose_b=True),
            tf.matmul(hidden * scale, less_label, transpose_a=True),
            tf.matmul(scale, less_label, transpose_a=True)[0],
            None,
        )

    return tf.math.log(totals) + shift - said, gradient
