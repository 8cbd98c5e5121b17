"""The exact loss of a model over captions, without dropout or label smoothing; knows neither Ray nor files' layout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from raycap.decoders.places import Forcing
from raycap.losses import negative_log_likelihood
from raycap.sequences import PackedBatch


@dataclass(frozen=True)
class Loss:
    """A sum of negative log-likelihoods, in nats, and the number of words it is over."""

    total: float
    num_targets: int

    @property
    def mean(self) -> float:
        """Nats a word."""
        return self.total / max(self.num_targets, 1)


def batch_signature(feature_shape: tuple[int, ...]) -> list[tf.TensorSpec]:
    """Return what a batch's features, photos, tokens and targets are; see `places.Forcing`."""
    captions = tf.TensorSpec([None, None], tf.int32)
    return [tf.TensorSpec([None, *feature_shape], tf.float32), tf.TensorSpec([None], tf.int32), captions, captions]


class DevLoss:
    """Sums the loss over batches."""

    def __init__(
        self, forcing: Forcing, vocabulary: Callable[[], tuple[Any, Any]], feature_shape: tuple[int, ...]
    ) -> None:
        """Compile.

        Args:
            forcing: of the model.
            vocabulary: returns kernel and bias of its layer over the vocabulary.
            feature_shape: `(dim,)` or `(num_regions, dim)`.
        """

        def total(*batch: Any) -> Any:
            hidden, _, labels = forcing(*batch, training=False)
            return tf.reduce_sum(negative_log_likelihood(hidden, *vocabulary(), labels))

        self._total = tf.function(total, input_signature=batch_signature(feature_shape))

    def __call__(self, batches: Iterable[PackedBatch]) -> Loss:
        """Return the loss of this worker's parts of global batches, over the words of all."""
        total, num_targets = 0.0, 0
        for batch in batches:
            total += float(self._total(batch.features, batch.photos, batch.tokens, batch.targets))
            num_targets += batch.num_targets
        return Loss(total, num_targets)
