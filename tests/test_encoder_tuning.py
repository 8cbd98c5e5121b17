"""Fine-tuning in this process: what learns, what it starts from, and going on from a state."""

from pathlib import Path

import keras
import numpy as np
import pytest

from raycap.config import TuningConfig
from raycap.encoder import load_trainable
from raycap.encoder_tuning import EncoderTuner, TuningBatch
from raycap.errors import InputError

CONFIG = TuningConfig(finetune_epochs=2, finetune_share=0.5, finetune_learning_rate=1e-2, finetune_batch_size=8)
MEANS = np.array([0.5, 0.1, 0.0])


def tuner(untrained_file: Path, **options: float) -> EncoderTuner:
    config = TuningConfig(**{**vars(CONFIG), **options})
    return EncoderTuner(load_trainable(str(untrained_file)), config, mean_shares=MEANS, num_photos=24, seed=1)


@pytest.fixture(scope="module")
def batches() -> list[TuningBatch]:
    """Photos of which the first word says whether they are bright."""
    rng = np.random.default_rng(0)
    bright = rng.random((3, 8)) < 0.5
    images = rng.integers(0, 60, (3, 8, 32, 32, 3)) + 150 * bright[..., None, None, None]
    shares = np.stack([bright, rng.random((3, 8)) * 0.2, np.zeros((3, 8))], axis=-1)
    return [TuningBatch(*each) for each in zip(images.astype(np.uint8), shares.astype(np.float32), strict=True)]


def test_it_begins_with_how_often_words_are_said(untrained_file: Path, batches: list[TuningBatch]) -> None:
    shares = np.concatenate([batch.shares for batch in batches])
    said = (24 * MEANS + 0.5) / 25
    expected = -(shares * np.log(said) + (1 - shares) * np.log(1 - said)).sum(axis=1).mean()
    assert tuner(untrained_file).evaluate(batches) == pytest.approx(expected, rel=1e-5)


def test_it_learns_and_the_loss_is_a_mean_over_photos(untrained_file: Path, batches: list[TuningBatch]) -> None:
    learner = tuner(untrained_file, finetune_epochs=40)
    before = learner.evaluate(batches)
    seen: list[tuple[int, float]] = []
    losses = [learner.train_epoch(batches, on_step=lambda *step: seen.append(step)) for _ in range(40)]
    assert losses[-1] < losses[0]
    assert learner.evaluate(batches) < before - 0.2
    assert [photos for photos, _ in seen] == [8] * 120
    assert np.mean([loss for _, loss in seen[-3:]]) == pytest.approx(losses[-1])


def test_going_on_from_a_state_is_as_if_nothing_had_happened(untrained_file: Path, batches: list[TuningBatch]) -> None:
    whole, first, second = (tuner(untrained_file) for _ in range(3))
    for learner in (whole, first):
        learner.train_epoch(batches)
    second.set_state(first.state())
    for learner in (whole, second):
        learner.train_epoch(batches)
    for one, other in zip(whole.encoder_weights(), second.encoder_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("share", "learning"), [(0.01, ["second"]), (0.5, ["second"]), (1.0, ["first", "second"])])
def test_the_last_layers_learn(untrained_file: Path, share: float, learning: list[str]) -> None:
    learner = tuner(untrained_file, finetune_share=share)
    assert [layer.name for layer in learner.encoder.layers if layer.trainable_variables] == learning


def test_models_inside_are_looked_into_and_normalisations_keep_their_statistics(batches: list[TuningBatch]) -> None:
    inside = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, name="deep"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    encoder = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), inside])
    learner = EncoderTuner(encoder, CONFIG, mean_shares=MEANS, num_photos=24, seed=1)
    [mean, variance] = inside.layers[1].non_trainable_variables
    learner.train_epoch(batches)
    assert np.array_equal(mean, np.zeros(4))
    assert np.array_equal(variance, np.ones(4))
    assert not inside.get_layer("deep").trainable  # the normalisation alone is half of the layers


def test_an_encoder_that_was_saved_frozen_learns(tmp_path: Path, batches: list[TuningBatch]) -> None:
    photo = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(photo)))
    frozen = keras.Model(photo, pooled)
    frozen.trainable = False
    frozen.save(tmp_path / "frozen.keras")
    learner = tuner(tmp_path / "frozen.keras")
    before = learner.encoder_weights()
    assert len(before) == 2
    learner.train_epoch(batches)
    assert not np.allclose(before[0], learner.encoder_weights()[0])


def test_a_layer_that_cannot_learn_is_not_counted(batches: list[TuningBatch]) -> None:
    pooled = [keras.layers.Conv2D(4, 3, name="conv"), keras.layers.GlobalAveragePooling2D()]
    scaled = keras.layers.Normalization(mean=np.zeros(4), variance=np.ones(4))
    adapted = keras.layers.Normalization(name="adapted")
    adapted.adapt(np.eye(4))
    encoder = keras.Sequential([keras.Input((32, 32, 3)), *pooled, scaled, adapted])
    learner = EncoderTuner(encoder, CONFIG, mean_shares=MEANS, num_photos=24, seed=1)
    assert len(learner.encoder_weights()) == 2
    assert learner.encoder.get_layer("conv").trainable


def test_an_encoder_that_cannot_learn_is_refused(map_file: Path) -> None:
    with pytest.raises(InputError, match="has no layer that can learn"):
        tuner(map_file)
