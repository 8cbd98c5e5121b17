"""Fine-tunes an encoder: its last layers learn to predict the words of photos' captions. Knows neither Ray nor files.

References:
    Fang et al. 2015, arXiv:1411.4952 (detectors of captions' words).
    Wu, Shen, Liu, Dick and van den Hengel 2016, arXiv:1506.01144 (an encoder fine-tuned to them makes better captions).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.averaging import assign
from raycap.config import TuningConfig
from raycap.errors import InputError
from raycap.schedules import cosine

_DROPOUT = 0.5  # of features, before words are predicted
_WORDS_LEARNING_RATE = 1e-3  # of the layer that predicts them, which starts from nothing
_FEWEST_PHOTOS = 0.5  # odds are taken as if a word was said of this much of a photo more, and not said likewise


class TuningBatch(NamedTuple):
    """Some photos, and what is said of them.

    Attributes:
        images: `(photos, height, width, 3)` uint8, RGB.
        shares: `(photos, words)` float32, the share of each photo's captions that say each word.
    """

    images: NDArray[np.uint8]
    shares: NDArray[np.float32]


class EncoderTuner:
    """An encoder, a layer that predicts words from its features, and their training step."""

    def __init__(
        self, encoder: Any, config: TuningConfig, *, mean_shares: NDArray[np.floating], num_photos: int, seed: int
    ) -> None:
        """Build and compile.

        Normalisations inside the encoder keep the statistics that they have: so few photos would have others.

        Args:
            encoder: see `raycap.encoder.load_trainable`; it is changed.
            config: what learns, and how fast.
            mean_shares: `(words,)`, over the training photos, from which predictions start.
            num_photos: of an epoch.
            seed: of dropout.

        Raises:
            InputError: if the encoder has nothing to learn.
        """
        keras.utils.set_random_seed(seed)
        self.encoder = encoder
        encoder.trainable = True  # with all that is in it, as it may have been saved frozen
        layers = [layer for layer in _leaves(encoder) if layer.trainable_weights]
        if not layers:
            raise InputError(f"the encoder {encoder.name} has no layer that can learn: there is nothing to fine-tune")
        num_learning = max(1, round(config.finetune_share * len(layers)))
        for number, layer in enumerate(layers):
            layer.trainable = number >= len(layers) - num_learning
        odds = (num_photos * mean_shares + _FEWEST_PHOTOS) / (num_photos * (1 - mean_shares) + _FEWEST_PHOTOS)
        features = keras.Input(encoder.output_shape[1:])
        scaled = keras.layers.LayerNormalization(center=False, scale=False)(features)
        dropped = keras.layers.Dropout(_DROPOUT, seed=seed)(scaled)
        predict = keras.layers.Dense(len(mean_shares), kernel_initializer="zeros")
        self._words = keras.Model(features, predict(dropped))
        predict.bias.assign(np.log(odds))
        steps_an_epoch = -(-num_photos // config.finetune_batch_size)
        num_steps = config.finetune_epochs * steps_an_epoch
        schedules = [
            (encoder, cosine(config.finetune_learning_rate, num_steps, warmup=steps_an_epoch)),
            (self._words, cosine(_WORDS_LEARNING_RATE, num_steps, warmup=0)),
        ]
        self._parts = [(part, keras.optimizers.Adam(schedule)) for part, schedule in schedules]
        for part, optimizer in self._parts:
            optimizer.build(part.trainable_variables)
        images = tf.TensorSpec([None, *encoder.input_shape[1:]], tf.uint8)
        shares = tf.TensorSpec([None, len(mean_shares)], tf.float32)
        self._step = tf.function(self._take, input_signature=[images, shares])
        self._loss = tf.function(lambda *batch: self._total(*batch, training=False), input_signature=[images, shares])

    def train_epoch(
        self, batches: Iterable[TuningBatch], *, on_step: Callable[[int, float], None] | None = None
    ) -> float:
        """Take a step for each batch.

        Args:
            batches: of the training photos.
            on_step: called with the photos of the batch, and its loss.

        Returns:
            The mean loss, with dropout: nats a photo, over all words.
        """
        return _mean(self._step, batches, on_step)

    def evaluate(self, batches: Iterable[TuningBatch]) -> float:
        """Return the mean loss, without dropout, nats a photo."""
        return _mean(self._loss, batches, None)

    def encoder_weights(self) -> list[NDArray[Any]]:
        """Return those of the encoder's weights that learn."""
        return [np.asarray(each).copy() for each in self.encoder.trainable_variables]

    def set_encoder_weights(self, weights: Iterable[NDArray[Any]]) -> None:
        """Give the encoder what `encoder_weights` returned."""
        assign(self.encoder.trainable_variables, weights)

    def save_encoder(self, path: Path) -> None:
        """Write the encoder as a saved Keras model."""
        for layer in _leaves(self.encoder):
            layer.trainable = True  # as it is in other saved encoders
        self.encoder.save(path)

    def state(self) -> list[NDArray[Any]]:
        """Return all that learning needs to go on."""
        return [np.asarray(each) for each in self._variables()]

    def set_state(self, state: Iterable[NDArray[Any]]) -> None:
        """Go on from what `state` returned."""
        assign(self._variables(), state)

    def _variables(self) -> list[Any]:
        own = [*self.encoder.trainable_variables, *self._words.variables]
        return own + [each for _, optimizer in self._parts for each in optimizer.variables]

    def _total(self, images: Any, shares: Any, *, training: bool) -> Any:
        """Return the summed cross-entropy between the words that are said and those that are predicted."""
        features = self.encoder(tf.cast(images, tf.float32), training=False)
        logits = self._words(features, training=training)
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(shares, logits))

    def _take(self, images: Any, shares: Any) -> Any:
        with tf.GradientTape() as tape:
            total = self._total(images, shares, training=True)
            mean = total / tf.cast(tf.shape(images)[0], tf.float32)
        gradients = tape.gradient(mean, [part.trainable_variables for part, _ in self._parts])
        for (part, optimizer), each in zip(self._parts, gradients, strict=True):
            optimizer.apply(each, part.trainable_variables)
        return total


def _leaves(model: Any) -> Iterator[Any]:
    """Yield a model's layers in order, of models among them their layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _mean(
    total: Callable[..., Any], batches: Iterable[TuningBatch], on_step: Callable[[int, float], None] | None
) -> float:
    """Return the mean over photos of what a function sums over a batch's."""
    summed, num_photos = 0.0, 0
    for batch in batches:
        loss = float(total(*batch))
        summed += loss
        num_photos += len(batch.images)
        if on_step is not None:
            on_step(len(batch.images), loss / len(batch.images))
    return summed / max(num_photos, 1)
