"""Decoders over whole captions against Keras' own way to the same numbers."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from raycap.config import ModelConfig
from raycap.decoders import build_model, decoder_of
from raycap.decoders.merge_forcing import MergeForcing
from raycap.decoders.packed_lstm import packed_lstm
from raycap.losses import negative_log_likelihood
from raycap.schema import PAD_ID

VOCAB_SIZE, DIM = 13, 6
RNG = np.random.default_rng(0)


def batch(lengths: list[int], shape: tuple[int, ...] = (DIM,)) -> tuple[np.ndarray, ...]:
    """Return features, photos, tokens and targets of captions of some lengths, two a photo."""
    tokens = np.full((len(lengths), max(max(lengths), 1)), PAD_ID, np.int32)
    targets = tokens.copy()
    for row, length in enumerate(lengths):
        tokens[row, :length] = RNG.integers(1, VOCAB_SIZE, length)
        targets[row, :length] = RNG.integers(1, VOCAB_SIZE, length)
    photos = np.arange(len(lengths), dtype=np.int32) // 2
    return RNG.normal(size=(photos[-1] + 1, *shape)).astype(np.float32), photos, tokens, targets


def losses(model: keras.Model, forcing: object, photos: tuple[np.ndarray, ...], *, training: bool) -> tf.Tensor:
    hidden, _, labels = forcing(*photos, training=training)
    layer = model.get_layer("next_word")
    kernel, bias = map(tf.convert_to_tensor, (layer.kernel, layer.bias))
    return tf.reduce_sum(negative_log_likelihood(hidden, kernel, bias, labels))


def keras_loss(model: keras.Model, features: np.ndarray, *captions: np.ndarray) -> tf.Tensor:
    photos, tokens, targets = captions
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    each = loss(np.maximum(targets, 0), model([features[photos], tokens]))
    return tf.reduce_sum(each * (targets != PAD_ID))


CONFIGS = {
    "tutorial": ModelConfig(units=8, embedding_dim=5, dropout=0.0),
    "concat": ModelConfig(units=4, embedding_dim=7, dropout=0.0, merge="concat", normalization="l2"),
    "attention": ModelConfig(decoder="attention", units=8, embedding_dim=5, num_heads=2, dropout=0.0),
    "transformer": ModelConfig(decoder="transformer", units=8, embedding_dim=8, num_heads=2, dropout=0.0),
    "one block": ModelConfig(
        decoder="transformer", units=5, embedding_dim=5, num_heads=1, num_layers=1, dropout=0.0, normalization="l2"
    ),
}


def shape_for(config: ModelConfig) -> tuple[int, ...]:
    return (3, DIM) if config.needs_regions else (DIM,)


@pytest.mark.parametrize(
    ("name", "on_gpu"), [*((name, False) for name in CONFIGS), ("tutorial", True), ("concat", True)]
)
@pytest.mark.parametrize("lengths", [[3, 7, 1, 7, 2], [4], [1, 1], [5, 0, 2]], ids=str)
def test_loss_and_gradients_are_those_of_the_keras_model(lengths, name, on_gpu):
    """What GPUs run is compared on the CPU."""
    config = CONFIGS[name]
    model = build_model(config, vocab_size=VOCAB_SIZE, feature_shape=shape_for(config))
    forcing = MergeForcing(model, on_gpu=True) if on_gpu else decoder_of(model).forcing(model)
    photos = batch(lengths, shape_for(config))
    with tf.GradientTape() as mine:
        total = losses(model, forcing, photos, training=True)
    with tf.GradientTape() as theirs:
        expected = keras_loss(model, *photos)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    pairs = zip(
        mine.gradient(total, model.trainable_variables),
        theirs.gradient(expected, model.trainable_variables),
        model.trainable_variables,
        strict=True,
    )
    for one, other, variable in pairs:
        np.testing.assert_allclose(*map(tf.convert_to_tensor, (one, other)), atol=2e-5, err_msg=variable.path)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_to_predict(name):
    """The part of a worker that a short last batch leaves without a photo."""
    config = CONFIGS[name]
    model = build_model(config, vocab_size=VOCAB_SIZE, feature_shape=shape_for(config))
    features, photos, tokens, targets = batch([3, 2], shape_for(config))
    nothing = (features, photos, tokens, np.full_like(targets, PAD_ID))
    with tf.GradientTape() as tape:
        total = losses(model, decoder_of(model).forcing(model), nothing, training=True)
    assert float(total) == 0
    for gradient in tape.gradient(total, model.trainable_variables):
        assert not np.any(tf.convert_to_tensor(gradient))


@pytest.mark.parametrize("name", CONFIGS)
def test_dropout_is_for_training_alone(name):
    config = dataclasses.replace(CONFIGS[name], dropout=0.5)
    model = build_model(config, vocab_size=VOCAB_SIZE, feature_shape=shape_for(config))
    forcing, photos = decoder_of(model).forcing(model), batch([4, 2, 6], shape_for(config))
    whole = float(losses(model, forcing, photos, training=False))
    assert whole == pytest.approx(float(keras_loss(model, *photos)), rel=1e-5)
    assert len({float(losses(model, forcing, photos, training=True)) for _ in range(3)}) == 3


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
