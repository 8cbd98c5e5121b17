"""What training minimises, over the words to predict of a batch; knows no decoder.

The array of words times vocabulary is the largest of a training step, and is gone over as few times as can be.
"""

from typing import Any

import tensorflow as tf

_FEW, _MANY = 1e-20, 1e20  # sums of exponentials between them have lost nothing, nor have their inverses


def uniform_penalty(hidden: Any, kernel: Any, bias: Any, labels: Any) -> Any:
    """Return what label smoothing adds to each word's negative log-likelihood, `(words,)`, for a whole share of 1.

    Cross-entropy against the uniform distribution is log-sum-exp less the mean logit.

    Args:
        hidden: `(words, units)` float32.
        kernel: `(units, vocab_size)` float32.
        bias: `(vocab_size,)` float32.
        labels: `(words,)` int32.
    """
    said = tf.reduce_sum(hidden * tf.gather(tf.transpose(kernel), labels), axis=1) + tf.gather(bias, labels)
    mean = tf.linalg.matvec(hidden, tf.reduce_mean(kernel, axis=1)) + tf.reduce_mean(bias)
    return said - mean


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
