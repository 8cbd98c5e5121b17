"""The training steps of a decoder on one worker, alone or with others; knows neither Ray nor files' layout."""

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.averaging import WeightAverage, assign, load_arrays, save_arrays
from raycap.cider import CiderD
from raycap.config import TrainConfig
from raycap.decoders import build_model, decoder_of
from raycap.decoders.normalization import Moments
from raycap.decoders.steps import Steps
from raycap.decoding import Hypothesis, search
from raycap.dev_loss import DevLoss, Loss, batch_signature
from raycap.errors import RaycapError
from raycap.losses import negative_log_likelihood, uniform_penalty
from raycap.schedules import cosine
from raycap.schema import PAD_ID
from raycap.self_critical import compare
from raycap.sequences import PackedBatch
from raycap.text import Tokenizer

_WEIGHTS = "model.weights.h5"
_BEST_WEIGHTS = "best.weights.h5"
_OPTIMIZER = "optimizer.npz"
_AVERAGE = "average.npz"
_PROGRESS = "progress.json"
_RANKS_APART = 1_000_003  # between the seeds of two workers' dropout
_LEAST_LEARNING_RATE = 0.05  # of the highest, at the end of the cosine


class Fitter:
    """Model, optimizer and compiled steps of one worker.

    With a strategy, every worker must call every method in the same order: gradients and losses are summed over all.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        vocab_size: int,
        feature_shape: tuple[int, ...],
        moments: Moments | None = None,
        strategy: Any = None,
        steps_an_epoch: int = 0,
        rank: int = 0,
    ) -> None:
        """Build and compile.

        Args:
            config: model and training options.
            vocab_size: words, start, end and padding.
            feature_shape: `(dim,)` or `(num_regions, dim)`.
            moments: mean and variance of the training features, for `standardize`.
            strategy: a `tf.distribute` strategy, where several workers train together.
            steps_an_epoch: for a learning rate that changes.
            rank: of this worker, whose dropout is its own.
        """
        keras.utils.set_random_seed(config.seed)
        self._config = config
        self._strategy = strategy
        self._rank = rank
        self.model = build_model(config.model, vocab_size=vocab_size, feature_shape=feature_shape, moments=moments)
        self._optimizer = self._make_optimizer(_learning_rate(config, steps_an_epoch))
        self._forcing = decoder_of(self.model).forcing(self.model)
        self._next_word = self.model.get_layer("next_word")
        self._average = WeightAverage(self.model.trainable_variables, config.weight_average)
        self._signature = batch_signature(feature_shape)
        self._dev_loss = DevLoss(self._forcing, self._vocabulary, feature_shape)
        self._train_step = self._compile(self._likelihood)

    def _make_optimizer(self, learning_rate: Any) -> Any:
        optimizer = keras.optimizers.Adam(learning_rate)
        optimizer.build(self.model.trainable_variables)
        return optimizer

    def _compile(self, objective: Callable[..., tuple[Any, Any]]) -> Any:
        """Return a step that lowers an objective, for the present optimizer.

        Args:
            objective: takes features, photos, tokens, targets and a number for each caption; returns a loss to tell,
                and what to lower, both summed over this worker's words.
        """
        optimizer, variables = self._optimizer, self.model.trainable_variables

        def apply(gradients: list[Any]) -> None:
            optimizer.apply(gradients, variables)

        # Adam is a dozen passes over memory, and one where XLA compiles them
        if not tf.config.list_logical_devices("GPU"):
            apply = tf.function(apply, jit_compile=True)

        def step(*inputs: Any) -> Any:
            """Apply the gradients of all workers; return this worker's summed loss.

            The loss is the local sum over the *global* number of words, as gradients are summed over workers.
            """
            *batch, num_targets = inputs
            with tf.GradientTape() as tape:
                total, lowered = objective(*batch)
                lowered = lowered / num_targets
            apply(self._summed([tf.convert_to_tensor(each) for each in tape.gradient(lowered, variables)]))
            return total

        return tf.function(
            step, input_signature=[*self._signature, tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)]
        )

    def _summed(self, gradients: list[Any]) -> list[Any]:
        """Return the sum of all workers' gradients, which each then applies to weights that are the same in all."""
        if self._strategy is None:
            return gradients

        def exchange(mine: list[Any]) -> Any:
            here = [tf.identity(each) for each in mine]  # on this replica's device, which the exchange goes by
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

        summed: list[Any] = self._strategy.run(exchange, args=(gradients,))
        return summed

    def train_epoch(
        self, epoch: int, batches: Iterable[PackedBatch], *, on_step: Callable[[int, Loss], None] | None = None
    ) -> Loss:
        """Take a step for each batch.

        Args:
            epoch: counted from 1; decides the dropout, so that an epoch that is run again is the same.
            batches: this worker's part of each global batch.
            on_step: called with the number of captions in this worker's part, and this worker's loss so far over the
                words of all.

        Returns:
            The loss over all workers, with dropout.
        """
        self._seed_dropout(epoch)
        total = 0.0
        num_targets = 0
        for batch in batches:
            alike = np.ones(len(batch.tokens), np.float32)
            total += self._take(batch.features, batch.photos, batch.tokens, batch.targets, alike, batch.num_targets)
            num_targets += batch.num_targets
            if on_step is not None:
                on_step(len(batch.tokens), Loss(total, num_targets))
        return Loss(self.sum_over_workers(total), num_targets)

    def begin_tuning(self) -> None:
        """Start over from the model's weights, with an optimizer for `tune_epoch`."""
        self._optimizer = self._make_optimizer(self._config.cider_learning_rate)
        self._train_step = self._compile(self._reinforced)
        self._average = WeightAverage(self.model.trainable_variables, self._config.weight_average)

    def tune_epoch(
        self,
        epoch: int,
        batches: Iterable[PackedBatch],
        reward: CiderD,
        tokenizer: Tokenizer,
        *,
        on_step: Callable[[int, float], None] | None = None,
    ) -> float:
        """Take a step for each batch that makes the better of the model's own captions more probable, the worse less.

        Better and worse are by CIDEr-D, against the mean of the captions that beam search finds of the same photo.

        Args:
            epoch: see `train_epoch`.
            batches: likewise; their captions are the references.
            reward: see `self_critical.compare`.
            tokenizer: the vocabulary.
            on_step: called with the number of captions in this worker's part, and the mean reward so far.

        Returns:
            The mean reward of this worker's captions.
        """
        self._seed_dropout(epoch)
        rewards: list[float] = []
        for batch in batches:
            found = self._search(batch.features, tokenizer, beam_width=self._config.cider_captions)
            if not all(found):
                raise RaycapError("the model's probabilities are no longer numbers; lower --cider-learning-rate")
            own = compare(found, batch, reward, tokenizer)
            self._take(batch.features, own.photos, own.tokens, own.targets, own.advantages, batch.num_targets)
            rewards.append(own.mean)
            if on_step is not None:
                on_step(len(batch.tokens), float(np.mean(rewards)))
        return float(np.mean(rewards))

    @cached_property
    def _steps(self) -> Steps:
        return decoder_of(self.model).steps(self.model)

    def _search(
        self, features: NDArray[np.float32], tokenizer: Tokenizer, *, beam_width: int
    ) -> list[list[Hypothesis]]:
        self._steps.refresh()
        step, state = self._steps.start(features)
        ids: dict[str, Any] = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id, "forbidden": (PAD_ID,)}
        return search(step, state, max_length=tokenizer.max_length, beam_width=beam_width, **ids)

    def caption(self, features: Iterable[NDArray[np.float32]], tokenizer: Tokenizer) -> list[str]:
        """Return the greedy caption of each photo.

        Args:
            features: arrays of some photos' each.
            tokenizer: the vocabulary.
        """
        with self._average.held():
            found = [each for part in features for each in self._search(part, tokenizer, beam_width=1)]
        return [tokenizer.decode(best.tokens) for best, *_ in found]

    def evaluate(self, batches: Iterable[PackedBatch]) -> Loss:
        """Return the exact loss over all workers, without dropout or label smoothing."""
        with self._average.held():
            mine = self._dev_loss(batches)
        return Loss(self.sum_over_workers(mine.total), mine.num_targets)

    def keep_best(self, folder: Path) -> None:
        """Write the weights as those of the best epoch."""
        with self._average.held():
            self.model.save_weights(folder / _BEST_WEIGHTS)

    def load_best(self, folder: Path) -> None:
        """Go back to the weights of the best epoch."""
        self.model.load_weights(self.best_weights(folder))

    @staticmethod
    def best_weights(folder: Path) -> Path:
        """Return the file that `keep_best` wrote."""
        return folder / _BEST_WEIGHTS

    def save_state(self, folder: Path, progress: dict[str, Any]) -> None:
        """Write all that training needs to go on: weights, their average, optimizer and `progress`."""
        self.model.save_weights(folder / _WEIGHTS)
        save_arrays(folder / _OPTIMIZER, self._optimizer.variables)
        save_arrays(folder / _AVERAGE, self._average.to_arrays())
        (folder / _PROGRESS).write_text(json.dumps(progress))

    @staticmethod
    def load_progress(folder: Path) -> dict[str, Any]:
        """Return the `progress` that `save_state` wrote."""
        progress: dict[str, Any] = json.loads((folder / _PROGRESS).read_text())
        return progress

    def load_state(self, folder: Path) -> None:
        """Go on from what `save_state` wrote; after `begin_tuning`, if it was."""
        self.model.load_weights(folder / _WEIGHTS)
        assign(self._optimizer.variables, load_arrays(folder / _OPTIMIZER))
        self._average.from_arrays(load_arrays(folder / _AVERAGE))

    def _take(self, *inputs: Any) -> float:
        """Take a step; return this worker's summed loss."""
        *batch, num_targets = inputs
        total = float(self._train_step(*batch, float(num_targets)))
        self._average.update()
        return total

    def _vocabulary(self) -> tuple[Any, Any]:
        return tf.convert_to_tensor(self._next_word.kernel), tf.convert_to_tensor(self._next_word.bias)

    def _likelihood(self, features: Any, photos: Any, tokens: Any, targets: Any, _: Any) -> tuple[Any, Any]:
        """Return the negative log-likelihood of the words, and the same with label smoothing, in nats."""
        hidden, _, labels = self._forcing(features, photos, tokens, targets, training=True)
        vocabulary, smoothing = self._vocabulary(), self._config.label_smoothing
        total = tf.reduce_sum(negative_log_likelihood(hidden, *vocabulary, labels))
        if not smoothing:
            return total, total
        return total, total + smoothing * tf.reduce_sum(uniform_penalty(hidden, *vocabulary, labels))

    def _reinforced(self, features: Any, photos: Any, tokens: Any, targets: Any, advantages: Any) -> tuple[Any, Any]:
        """Return the negative log-likelihood of each caption times how much better it is than others, twice."""
        hidden, captions, labels = self._forcing(features, photos, tokens, targets, training=True)
        losses = negative_log_likelihood(hidden, *self._vocabulary(), labels)
        total = tf.reduce_sum(losses * tf.gather(advantages, captions))
        return total, total

    def sum_over_workers(self, value: float) -> float:
        """Return the sum of what all workers give."""
        if self._strategy is None:
            return value

        everyone = self._strategy.run(lambda: tf.constant(value, tf.float64))
        return float(self._strategy.reduce(tf.distribute.ReduceOp.SUM, everyone, axis=None))

    def _seed_dropout(self, epoch: int) -> None:
        for number, layer in enumerate(self.model.layers):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                seed = (self._config.seed + number + self._rank * _RANKS_APART) % 2**32
                generator.state.assign(np.array([seed, epoch << 20], generator.state.dtype))


def _learning_rate(config: TrainConfig, steps_an_epoch: int) -> Any:
    if config.schedule == "constant":
        return config.learning_rate
    num_steps = max(1, config.epochs * steps_an_epoch)
    return cosine(config.learning_rate, num_steps, warmup=config.warmup_steps, least=_LEAST_LEARNING_RATE)
