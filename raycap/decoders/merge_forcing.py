"""The merge model over whole captions, as training runs it; knows neither Ray nor where captions come from."""

from typing import Any

import keras
import tensorflow as tf

from raycap.decoders.packed_lstm import packed_lstm
from raycap.decoders.places import Packed, Places, pack


class MergeForcing:
    """A merge model's layers, run over captions that are known: one pass of the LSTM predicts every next word."""

    def __init__(self, model: Any, *, on_gpu: bool | None = None) -> None:
        """Take the layers of a merge model, which stay its own: training one trains the other.

        Args:
            model: what `build` returned.
            on_gpu: run Keras' LSTM over padded captions, for which GPUs have a kernel; None looks whether there is one.
        """
        layer = model.get_layer
        self._photo = keras.Model(model.inputs[0], layer("photo_dense").output)
        self._embedding, self._dropout, self._lstm = layer("embedding"), layer("word_dropout"), layer("lstm")
        self._merged_dense = layer("merged_dense")
        self._concatenates = isinstance(layer("merge"), keras.layers.Concatenate)
        self._on_gpu = bool(tf.config.list_logical_devices("GPU")) if on_gpu is None else on_gpu

    def __call__(self, features: Any, photos: Any, tokens: Any, targets: Any, *, training: bool) -> Places:
        """Return the words to predict; see `places.Forcing`."""
        packed = pack(tokens, targets)
        words = self._padded(tokens, packed, training) if self._on_gpu else self._packed(packed, training)
        # a photo comes once for each of its captions, as each has dropout of its own
        photo = tf.gather(self._photo(tf.gather(features, photos), training=training), packed.captions)
        merged = self._merged_dense(tf.concat([photo, words], axis=1) if self._concatenates else photo + words)
        return Places(merged, packed.captions, packed.labels)

    def _packed(self, packed: Packed, training: bool) -> Any:
        """Return the LSTM's output at each place."""
        embedded = self._dropout(self._embedding(packed.tokens), training=training)
        cell = self._lstm.cell
        gates = tf.matmul(embedded, cell.kernel) + cell.bias
        return packed_lstm(gates, tf.convert_to_tensor(cell.recurrent_kernel), packed.counts)

    def _padded(self, tokens: Any, packed: Packed, training: bool) -> Any:
        """Return what `_packed` does."""
        embedded = self._dropout(self._embedding(tokens), training=training)
        words = self._lstm(embedded, mask=self._embedding.compute_mask(tokens))
        return packed.take(words)
