"""The merge model over whole captions against Keras' own way to the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from raycap.config import ModelConfig
from raycap.model import build_model
from raycap.schema import PAD_ID
from raycap.teacher_forcing import TeacherForcing, negative_log_likelihood, packed_lstm

VOCAB_SIZE, DIM = 13, 6
RNG = np.random.default_rng(0)


def batch(lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.full((len(lengths), max(max(lengths), 1)), PAD_ID, np.int32)
    targets = tokens.copy()
    for row, length in enumerate(lengths):
        tokens[row, :length] = RNG.integers(1, VOCAB_SIZE, length)
        targets[row, :length] = RNG.integers(1, VOCAB_SIZE, length)
    return RNG.normal(size=(len(lengths), DIM)).astype(np.float32), tokens, targets


def keras_loss(model: keras.Model, features: np.ndarray, tokens: np.ndarray, targets: np.ndarray) -> tf.Tensor:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    each = loss(np.maximum(targets, 0), model([features, tokens]))
    return tf.reduce_sum(each * (targets != PAD_ID))


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(units=8, embedding_dim=5, dropout=0.0),
        ModelConfig(units=4, embedding_dim=7, dropout=0.0, merge="concat", normalization="l2"),
    ],
    ids=["tutorial", "concat"],
)
@pytest.mark.parametrize("lengths", [[3, 7, 1, 7, 2], [4], [1, 1], [5, 0, 2]], ids=str)
def test_loss_and_gradients_are_those_of_the_keras_model(lengths, config, on_gpu):
    """What GPUs run is compared on the CPU."""
    model = build_model(config, vocab_size=VOCAB_SIZE, feature_dim=DIM)
    forcing = TeacherForcing(model, on_gpu=on_gpu)
    photos = batch(lengths)
    with tf.GradientTape() as mine:
        total, objective = forcing(*photos, training=True)
    with tf.GradientTape() as theirs:
        expected = keras_loss(model, *photos)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert float(objective) == float(total)
    pairs = zip(
        mine.gradient(objective, model.trainable_variables),
        theirs.gradient(expected, model.trainable_variables),
        model.trainable_variables,
        strict=True,
    )
    for one, other, variable in pairs:
        np.testing.assert_allclose(*map(tf.convert_to_tensor, (one, other)), atol=2e-5, err_msg=variable.path)


def test_nothing_to_predict():
    """The part of a worker that a short last batch leaves without a photo."""
    model = build_model(ModelConfig(units=4, embedding_dim=3), vocab_size=VOCAB_SIZE, feature_dim=DIM)
    features, tokens, targets = batch([3, 2])
    with tf.GradientTape() as tape:
        total, objective = TeacherForcing(model)(features, tokens, np.full_like(targets, PAD_ID), training=True)
    assert float(total) == 0
    for gradient in tape.gradient(objective, model.trainable_variables):
        assert not np.any(tf.convert_to_tensor(gradient))


def test_dropout_is_for_training_alone():
    model = build_model(ModelConfig(units=8, embedding_dim=5), vocab_size=VOCAB_SIZE, feature_dim=DIM)
    forcing, photos = TeacherForcing(model), batch([4, 2, 6])
    assert float(forcing(*photos, training=False)[0]) == pytest.approx(float(keras_loss(model, *photos)), rel=1e-5)
    assert len({float(forcing(*photos, training=True)[0]) for _ in range(3)}) == 3


def test_packed_lstm_in_a_graph_whose_lengths_are_not_known():
    units, counts = 4, np.array([3, 2, 2, 1], np.int32)
    signature = [tf.TensorSpec([None, 4 * units]), tf.TensorSpec([units, 4 * units]), tf.TensorSpec([None], tf.int32)]
    gates, recurrent = (RNG.normal(size=(rows, 4 * units)).astype(np.float32) for rows in (counts.sum(), units))
    found = tf.function(packed_lstm, input_signature=signature)(gates, recurrent, counts).numpy()
    layer = keras.layers.LSTM(units, return_sequences=True)
    layer.build((None, None, 4 * units))
    layer.set_weights([np.eye(4 * units, dtype=np.float32), recurrent, np.zeros(4 * units, np.float32)])
    starts = np.cumsum(counts) - counts
    for sequence in range(counts[0]):
        rows = [start + sequence for start, count in zip(starts, counts, strict=True) if sequence < count]
        np.testing.assert_allclose(found[rows], layer(gates[rows][np.newaxis])[0], atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0, 3e4])
@pytest.mark.parametrize("shift", [0.0, 200.0, -200.0])
def test_negative_log_likelihood_where_exponentials_would_overflow(scale, shift):
    hidden = (scale * RNG.normal(size=(9, 4))).astype(np.float32)
    kernel = RNG.normal(size=(4, VOCAB_SIZE)).astype(np.float32)
    bias = (shift + RNG.normal(size=VOCAB_SIZE)).astype(np.float32)
    labels, weights = RNG.integers(0, VOCAB_SIZE, 9).astype(np.int32), RNG.uniform(size=9).astype(np.float32)
    inputs = [tf.constant(each) for each in (hidden, kernel, bias)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        mine = negative_log_likelihood(*inputs, labels)
        logits = tf.matmul(inputs[0], inputs[1]) + inputs[2]
        theirs = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        sums = tf.reduce_sum(mine * weights), tf.reduce_sum(theirs * weights)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4 + 1e-6 * abs(shift))
    for one, other in zip(tape.gradient(sums[0], inputs), tape.gradient(sums[1], inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(other).max()))
