"""How a learning rate changes over the steps of a training; knows no model."""

from typing import Any

import keras


def cosine(learning_rate: float, num_steps: int, *, warmup: int, least: float = 0.0) -> Any:
    """Return a schedule that rises to a learning rate, and falls from there as a cosine.

    Args:
        learning_rate: the highest.
        num_steps: of the training.
        warmup: steps over which it rises; fewer where the training is no longer.
        least: what it falls to, as a share of the highest.
    """
    warmup = min(warmup, num_steps - 1)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        num_steps - warmup,
        alpha=least,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
