"""The training steps of the merge model on one worker, alone or with others; knows neither Ray nor files' layout."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from raycap.config import TrainConfig
from raycap.model import Moments, build_model
from raycap.sequences import PackedBatch
from raycap.teacher_forcing import TeacherForcing

_WEIGHTS = "model.weights.h5"
_BEST_WEIGHTS = "best.weights.h5"
_OPTIMIZER = "optimizer.npz"
_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Loss:
    """A sum of negative log-likelihoods, in nats, and the number of words it is over."""

    total: float
    num_targets: int

    @property
    def mean(self) -> float:
        """Nats a word."""
        return self.total / max(self.num_targets, 1)


class Fitter:
    """Model, optimizer and compiled steps of one worker.

    With a strategy, every worker must call every method in the same order: gradients and losses are summed over all.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        vocab_size: int,
        feature_dim: int,
        moments: Moments | None = None,
        strategy: Any = None,
    ) -> None:
        """Build and compile.

        Args:
            config: model and training options.
            vocab_size: words, start, end and padding.
            feature_dim: numbers a photo.
            moments: mean and variance of the training features, for `standardize`.
            strategy: a `tf.distribute` strategy, where several workers train together.
        """
        keras.utils.set_random_seed(config.seed)
        self._config = config
        self._strategy = strategy
        with _scope(strategy):
            self.model = build_model(config.model, vocab_size=vocab_size, feature_dim=feature_dim, moments=moments)
            self._optimizer = keras.optimizers.Adam(config.learning_rate)
            self._optimizer.build(self.model.trainable_variables)
        self._forcing = TeacherForcing(self.model)
        # Adam is a dozen passes over memory, and one where XLA compiles them; it cannot compile what workers exchange.
        alone_on_cpu = strategy is None and not tf.config.list_logical_devices("GPU")
        self._apply = tf.function(self._apply_gradients, jit_compile=True) if alone_on_cpu else self._apply_gradients
        signature = [
            tf.TensorSpec([None, feature_dim], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
        ]
        count = tf.TensorSpec([], tf.float32)
        self._train_step = tf.function(self._distributed_step, input_signature=[*signature, count])
        self._dev_step = tf.function(self._dev_loss, input_signature=signature)

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
            total += float(self._train_step(batch.features, batch.tokens, batch.targets, float(batch.num_targets)))
            num_targets += batch.num_targets
            if on_step is not None:
                on_step(len(batch.tokens), Loss(total, num_targets))
        return Loss(self._sum_over_workers(total), num_targets)

    def evaluate(self, batches: Iterable[PackedBatch]) -> Loss:
        """Return the exact loss over all workers, without dropout or label smoothing."""
        total = 0.0
        num_targets = 0
        for batch in batches:
            total += float(self._dev_step(batch.features, batch.tokens, batch.targets))
            num_targets += batch.num_targets
        return Loss(self._sum_over_workers(total), num_targets)

    def keep_best(self, folder: Path) -> None:
        """Write the weights as those of the best epoch."""
        self.model.save_weights(folder / _BEST_WEIGHTS)

    @staticmethod
    def best_weights(folder: Path) -> Path:
        """Return the file that `keep_best` wrote."""
        return folder / _BEST_WEIGHTS

    def save_state(self, folder: Path, progress: dict[str, Any]) -> None:
        """Write all that training needs to go on: weights, optimizer and `progress`."""
        self.model.save_weights(folder / _WEIGHTS)
        variables: dict[str, Any] = {str(index): np.asarray(v) for index, v in enumerate(self._optimizer.variables)}
        np.savez(folder / _OPTIMIZER, **variables)
        (folder / _PROGRESS).write_text(json.dumps(progress))

    def load_state(self, folder: Path) -> dict[str, Any]:
        """Go on from what `save_state` wrote; return its `progress`."""
        self.model.load_weights(folder / _WEIGHTS)
        with np.load(folder / _OPTIMIZER, allow_pickle=False) as values:
            for index, variable in enumerate(self._optimizer.variables):
                variable.assign(values[str(index)])
        progress: dict[str, Any] = json.loads((folder / _PROGRESS).read_text())
        return progress

    def _dev_loss(self, features: Any, tokens: Any, targets: Any) -> Any:
        total, _ = self._forcing(features, tokens, targets, training=False)
        return total

    def _step(self, features: Any, tokens: Any, targets: Any, num_targets: Any) -> Any:
        """Apply one worker's gradients; return its summed loss.

        The loss is the local sum over the *global* number of words, as the optimizer sums gradients over workers.
        """
        smoothing = self._config.label_smoothing
        with tf.GradientTape() as tape:
            total, objective = self._forcing(features, tokens, targets, training=True, label_smoothing=smoothing)
            objective = objective / num_targets
        gradients = tape.gradient(objective, self.model.trainable_variables)
        self._apply([tf.convert_to_tensor(each) for each in gradients])
        return total

    def _apply_gradients(self, gradients: list[Any]) -> None:
        self._optimizer.apply(gradients, self.model.trainable_variables)

    def _distributed_step(self, features: Any, tokens: Any, targets: Any, num_targets: Any) -> Any:
        if self._strategy is None:
            return self._step(features, tokens, targets, num_targets)
        return self._strategy.run(self._step, args=(features, tokens, targets, num_targets))

    def _sum_over_workers(self, value: float) -> float:
        if self._strategy is None:
            return value

        everyone = self._strategy.run(lambda: tf.constant(value, tf.float64))
        return float(self._strategy.reduce(tf.distribute.ReduceOp.SUM, everyone, axis=None))

    def _seed_dropout(self, epoch: int) -> None:
        for number, layer in enumerate(self.model.layers):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                generator.state.assign(np.array([self._config.seed + number, epoch << 20], generator.state.dtype))


def _scope(strategy: Any) -> Any:
    return strategy.scope() if strategy is not None else tf.distribute.get_strategy().scope()
