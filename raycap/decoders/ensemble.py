"""Several decoders that choose each word together; knows no kind of decoder.

The logits of all are averaged, which is the geometric mean of their probabilities, made to sum to 1 again. A mean of
logits is one layer over the vocabulary that sees what the layers of all see, side by side: so a search is that of one
decoder, and costs what its members cost.

Reference:
    Hinton 2002, Training products of experts by minimizing contrastive divergence (the geometric mean).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from raycap.decoders.places import Forcing, Places
from raycap.decoders.steps import Advance, Steps, side_by_side
from raycap.decoders.vocabulary import vocabulary
from raycap.decoding import State
from raycap.threads import Threads

NAME = "ensemble_model"


def combine(models: Sequence[Any]) -> Any:
    """Return the ensemble of models of the same vocabulary and the same features, whose inputs and outputs are theirs.

    Args:
        models: what `build_model` returned, or bundles held; they become parts of the ensemble.
    """
    feature = keras.Input(models[0].inputs[0].shape[1:], name="feature")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    for number, model in enumerate(models, start=1):
        model.name = f"{model.name}_{number}"
    logits = keras.layers.Average(name="mean_logits")([model([feature, tokens]) for model in models])
    return keras.Model([feature, tokens], logits, name=NAME)


def members(model: Any) -> list[Any]:
    """Return the models that an ensemble is of."""
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def vocabulary_weights(models: Sequence[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return kernel and bias of the layer over the vocabulary of all: `(units of all, vocab_size)`, `(vocab_size,)`."""
    kernels, biases = zip(*(model.get_layer("next_word").get_weights() for model in models), strict=True)
    kernel, bias = np.concatenate(kernels) / len(models), np.mean(biases, axis=0)
    return kernel.astype(np.float32, copy=False), bias.astype(np.float32, copy=False)


class EnsembleForcing:
    """An ensemble over captions that are known; see `places.Forcing`."""

    def __init__(self, forcings: Sequence[Forcing]) -> None:
        """Take those of the members."""
        self._forcings = forcings

    def __call__(self, features: Any, photos: Any, tokens: Any, targets: Any, *, training: bool) -> Places:
        """Return the words to predict, which all members have in one order."""
        found = [forcing(features, photos, tokens, targets, training=training) for forcing in self._forcings]
        return Places(tf.concat([each.hidden for each in found], axis=1), found[0].captions, found[0].labels)


class EnsembleSteps(Steps):
    """An ensemble a word at a time: a hypothesis' state is that of each member."""

    def __init__(self, models: Sequence[Any], steps: Sequence[Steps], *, num_threads: int | None = None) -> None:
        """Take the members and their steps."""
        self._models, self._steps = models, steps
        self._threads = Threads(num_threads)
        self.refresh()

    def refresh(self) -> None:
        """Take the weights anew."""
        for each in self._steps:
            each.refresh()
        self.top = vocabulary(*vocabulary_weights(self._models), threads=self._threads)

    def begin(self, features: NDArray[np.float32]) -> tuple[Advance, State]:
        """Return what takes one search a word further, and its state before the first word; see `Steps`."""
        advance, state = side_by_side([each.begin(features) for each in self._steps])

        def together(tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State]:
            seen, state = advance(tokens, state)
            return np.concatenate(seen, axis=1), state

        return together, state
