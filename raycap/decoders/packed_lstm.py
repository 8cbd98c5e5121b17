"""An LSTM's cell, and the LSTM over packed sequences, with its gradient; knows no model."""

from typing import Any

import tensorflow as tf


def lstm_cell(sums: Any, carry: Any) -> tuple[Any, Any]:
    """Return the hidden state and the carry of an LSTM one place later, `(rows, units)` each.

    Args:
        sums: `(rows, 4 * units)`, of all that goes into the gates, in Keras' order.
        carry: `(rows, units)`, of the place before.
    """
    enter, forget, update, leave = tf.split(sums, 4, axis=1)
    carry = tf.sigmoid(forget) * carry + tf.sigmoid(enter) * tf.tanh(update)
    return tf.sigmoid(leave) * tf.tanh(carry), carry


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
            hidden, carry = lstm_cell(sums, carry[:count])
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
