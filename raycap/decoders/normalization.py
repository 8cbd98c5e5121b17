"""What is done to features before a decoder sees them, as a layer of the model. Knows no decoder."""

from typing import Any, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from raycap.config import ModelConfig

Moments: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean and variance of each number of the training features, `(dim,)` each."""


def normalize(feature: Any, config: ModelConfig, moments: Moments | None) -> Any:
    """Return features, `(batch, dim)` or `(batch, num_regions, dim)`, normalised as `config.normalization` says.

    Args:
        feature: a symbolic tensor.
        config: says how.
        moments: for `standardize`; a model whose weights are loaded later needs none.
    """
    if config.normalization == "l2":
        return keras.layers.UnitNormalization(name="normalization")(feature)
    if config.normalization == "standardize":
        layer = keras.layers.Normalization(name="normalization")
        layer.build(feature.shape)
        if moments is not None:
            mean, variance = moments
            layer.adapt_mean.assign(mean)
            # A unit that hardly varies over train says little, and divided by nearly nothing it drowns the others: no
            # deviation counts for less than 0.3 of their root mean square.
            floor = 0.09 * float(np.mean(variance))
            layer.adapt_variance.assign(np.maximum(variance, floor) if floor > 0 else np.ones_like(variance))
            layer.finalize_state()
        return layer(feature)
    return feature
