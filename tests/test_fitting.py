"""Training steps against slower ways to the same numbers, with TensorFlow in this process."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from raycap.cider import CiderD
from raycap.config import ModelConfig, TrainConfig
from raycap.fitting import Fitter
from raycap.schema import END_TOKEN, START_TOKEN
from raycap.sequences import PackedBatch, Photo, pack, packed_batches, prefix_pairs
from raycap.text import Tokenizer

VOCAB_SIZE, DIM = 11, 6
TUTORIAL = ModelConfig(units=8, embedding_dim=5)
TRANSFORMER = ModelConfig(decoder="transformer", units=8, embedding_dim=8, num_heads=2, num_layers=1)


def shape_for(model: ModelConfig) -> tuple[int, ...]:
    return (3, DIM) if model.needs_regions else (DIM,)


def photos(count: int = 6, *, model: ModelConfig = TUTORIAL) -> list[Photo]:
    rng = np.random.default_rng(0)
    return [
        Photo(
            f"{number}.jpg",
            rng.normal(size=shape_for(model)).astype(np.float32),
            [[1, *rng.integers(3, VOCAB_SIZE, rng.integers(1, 7)).tolist(), 2] for _ in range(rng.integers(1, 5))],
        )
        for number in range(count)
    ]


def fitter(
    *, model: ModelConfig = TUTORIAL, dropout: float = 0.0, steps_an_epoch: int = 0, **options: object
) -> Fitter:
    config = TrainConfig(
        prepared="",
        features="",
        out="",
        model=replace(model, dropout=dropout),
        learning_rate=0.01,
        **options,
    )
    return Fitter(config, vocab_size=VOCAB_SIZE, feature_shape=shape_for(model), steps_an_epoch=steps_an_epoch)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [each.numpy() for each in model.trainable_variables]


def gradients(optimizer: keras.optimizers.Adam) -> list[np.ndarray]:
    """What Adam's first step was taken with: its first moment is a tenth of the gradient.

    The step itself is nearly the gradient's sign, which says little where a gradient is nearly nothing.
    """
    assert int(optimizer.iterations) == 1
    return [10 * each.numpy() for each in optimizer._momentums]


def batches(model: ModelConfig = TUTORIAL) -> Iterator[PackedBatch]:
    return packed_batches(photos(model=model), global_batch_size=2)


def test_packed_loss_equals_prefix_loss() -> None:
    """One pass over whole captions predicts what the tutorial's expanded pairs do, for the same loss."""
    trained = fitter()
    total, count = 0.0, 0
    for photo in photos():
        pairs = prefix_pairs(photo, max_length=9, vocab_size=VOCAB_SIZE)
        logits = trained.model([pairs.features, pairs.prefixes]).numpy()[:, -1]
        losses = keras.losses.categorical_crossentropy(pairs.targets, logits, from_logits=True).numpy()
        total, count = total + float(losses.sum()), count + len(losses)
    loss = trained.evaluate(batches())
    assert loss.num_targets == count
    assert loss.total == pytest.approx(total, rel=1e-5)


def test_a_step_is_adams_on_the_mean_loss_over_words() -> None:
    """Against Keras' own optimizer and loss on the prefix form of the same photos."""
    trained, slow = fitter(), fitter()
    for before, after in zip(weights(trained.model), weights(slow.model), strict=True):
        np.testing.assert_array_equal(before, after)
    trained.train_epoch(1, iter([pack(photos())]))
    pairs = [prefix_pairs(photo, max_length=9, vocab_size=VOCAB_SIZE) for photo in photos()]
    features, prefixes, targets = (np.concatenate(each) for each in zip(*pairs, strict=True))
    last = keras.Model(slow.model.inputs, slow.model.output[:, -1])
    last.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
    last.train_on_batch([features, prefixes], targets)
    for mine, theirs in zip(gradients(trained._optimizer), gradients(last.optimizer), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_label_smoothing_is_keras_own() -> None:
    smooth, slow = fitter(label_smoothing=0.2), fitter()
    batch = pack(photos())
    smooth.train_epoch(1, iter([batch]))
    present = batch.targets.reshape(-1) != 0
    one_hot = np.eye(VOCAB_SIZE, dtype=np.float32)[batch.targets.reshape(-1)[present]]
    flat = keras.ops.reshape(slow.model.output, (-1, VOCAB_SIZE))
    flat_model = keras.Model(slow.model.inputs, flat)
    import tensorflow as tf

    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    optimizer = keras.optimizers.Adam(0.01)
    with tf.GradientTape() as tape:
        value = loss(
            one_hot, tf.boolean_mask(flat_model([batch.features[batch.photos], batch.tokens], training=True), present)
        )
    variables = slow.model.trainable_variables
    optimizer.apply(tape.gradient(value, variables), variables)
    for mine, theirs in zip(gradients(smooth._optimizer), gradients(optimizer), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_training_learns_and_reports_captions() -> None:
    trained = fitter()
    first = trained.evaluate(batches()).mean
    seen: list[int] = []
    losses: list[float] = []
    for epoch in range(1, 9):
        loss = trained.train_epoch(
            epoch, batches(), on_step=lambda captions, so_far: (seen.append(captions), losses.append(so_far.mean))
        )
        assert losses[-1] == loss.mean
    assert sum(seen) == 8 * sum(len(photo.sequences) for photo in photos())
    assert trained.evaluate(batches()).mean < 0.9 * first


def test_going_on_from_a_checkpoint_equals_never_stopping(tmp_path: Path) -> None:
    undisturbed, stopped, resumed = (fitter(dropout=0.5) for _ in range(3))
    for epoch in (1, 2, 3):
        undisturbed.train_epoch(epoch, batches())
    for epoch in (1, 2):
        stopped.train_epoch(epoch, batches())
    stopped.save_state(tmp_path, {"history": [1, 2]})
    assert resumed.load_progress(tmp_path) == {"history": [1, 2]}
    resumed.load_state(tmp_path)
    resumed.train_epoch(3, batches())
    for mine, theirs in zip(weights(resumed.model), weights(undisturbed.model), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "model", [TUTORIAL, pytest.param(TRANSFORMER, marks=pytest.mark.slow)], ids=["tutorial", "transformer"]
)
def test_going_on_while_captions_are_compared_equals_never_stopping(tmp_path: Path, model: ModelConfig) -> None:
    """With the average of the weights that both keep."""
    tokenizer = Tokenizer(words=(START_TOKEN, END_TOKEN, *"abcdefgh"), max_length=9)
    reward = CiderD([sequence[1:] for sequence in photo.sequences] for photo in photos(model=model))
    undisturbed, stopped, resumed = (fitter(model=model, dropout=0.5, weight_average=0.9) for _ in range(3))
    for each, epochs in ((undisturbed, (2, 3)), (stopped, (2,))):
        each.train_epoch(1, batches(model))
        each.begin_tuning()
        for epoch in epochs:
            each.tune_epoch(epoch, batches(model), reward, tokenizer)
    stopped.save_state(tmp_path, {})
    resumed.begin_tuning()
    resumed.load_state(tmp_path)
    resumed.tune_epoch(3, batches(model), reward, tokenizer)
    for mine, theirs in zip(weights(resumed.model), weights(undisturbed.model), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert resumed.evaluate(batches(model)) == undisturbed.evaluate(batches(model))


@pytest.mark.parametrize("model", [TUTORIAL, TRANSFORMER], ids=["tutorial", "transformer"])
def test_captions_that_are_compared_get_better(model: ModelConfig) -> None:
    tokenizer = Tokenizer(words=(START_TOKEN, END_TOKEN, *"abcdefgh"), max_length=9)
    reward = CiderD([sequence[1:] for sequence in photo.sequences] for photo in photos(model=model))
    trained = fitter(model=model, select_by="cider_d", cider_epochs=9, cider_learning_rate=0.01)
    for epoch in range(1, 4):
        trained.train_epoch(epoch, batches(model))
    trained.begin_tuning()
    rewards = [trained.tune_epoch(epoch, batches(model), reward, tokenizer) for epoch in range(4, 16)]
    assert np.mean(rewards[-3:]) > 1.2 * rewards[0]


def test_the_learning_rate_rises_and_falls() -> None:
    trained = fitter(schedule="cosine", warmup_steps=2, epochs=2, steps_an_epoch=6)
    schedule = trained._optimizer._learning_rate
    rates = [float(schedule(step)) for step in range(13)]
    assert rates[:3] == pytest.approx([0.0, 0.005, 0.01])
    assert all(before > after for before, after in itertools.pairwise(rates[2:]))
    assert rates[-1] == pytest.approx(0.0005)


def test_dropout_differs_from_epoch_to_epoch() -> None:
    one, other = fitter(dropout=0.5), fitter(dropout=0.5)
    assert one.train_epoch(1, batches()).total != other.train_epoch(2, batches()).total
