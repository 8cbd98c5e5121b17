"""A bundle's model for programs that have no raycap: a Keras file, a SavedModel, ONNX. Knows no Ray.

The bundle's model is made of Keras' own layers, so as a Keras file it is what it was. For the other two it is made
anew from layers that convert everywhere: an LSTM that is not cuDNN's, and numbers in place of the `Normalization`
layer, whose mean and deviation tf2onnx takes for further inputs.
"""

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from raycap.devices import configure
from raycap.errors import ConflictError, InputError, RaycapError
from raycap.locations import absolute, join
from raycap.model import Bundle
from raycap.model_card import CARD_FILE, MODEL_FILE
from raycap.storage import exists, is_folder, local_path, upload_folder, walk_files, write_json
from raycap.text import TOKENIZER_FILE
from raycap.tool_config import ExportConfig

_FILES: Final = {"keras": MODEL_FILE, "savedmodel": "saved_model", "onnx": "model.onnx"}


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        location: of the model.
        format: `keras`, `savedmodel` or `onnx`.
        vocab_size: words it chooses among, with padding.
        feature_dim: numbers a photo that it takes.
        encoder: that the features must come from.
    """

    location: str
    format: str
    vocab_size: int
    feature_dim: int
    encoder: str


def export(config: ExportConfig) -> ExportResult:
    """Write a bundle's model in another form, with its tokenizer and card beside it.

    The model takes `feature`, `(batch, feature_dim)` float32, and `tokens`, `(batch, length)` int32 padded on the right
    with 0, and gives `(batch, length, vocab_size)` float32 logits: at each place, of the word that comes next.

    On a local disk `config.out` appears whole or not at all; on an object store the card comes last, and there is no
    export without one.

    Raises:
        InputError: if there is no model, or what converts it is not installed.
        ConflictError: if there is something at `config.out`.
        RaycapError: if the converter fails.
    """
    out = absolute(config.out)
    if exists(out) and (not is_folder(out) or next(walk_files(out, hidden=True), None) is not None):
        raise ConflictError(f"there is something in {config.out}; give another --out")
    if config.to == "onnx" and not all(map(importlib.util.find_spec, ("tf2onnx", "onnx"))):
        raise InputError('--to onnx needs a converter: pip install "raycap[onnx]"')
    configure()
    bundle = Bundle.load(absolute(config.model))
    with tempfile.TemporaryDirectory() as folder:
        try:
            _WRITERS[config.to](bundle.model, Path(folder) / _FILES[config.to])
        except Exception as error:  # converters raise all sorts
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RaycapError(f"{config.model} cannot be converted to {config.to}: {reason:.300}") from error
        (Path(folder) / TOKENIZER_FILE).write_text(bundle.tokenizer.to_json(), encoding="utf-8")
        _publish(Path(folder), out, bundle.card.to_fields())
    return ExportResult(
        location=join(out, _FILES[config.to]),
        format=config.to,
        vocab_size=bundle.card.vocab_size,
        feature_dim=bundle.card.encoder.dim,
        encoder=bundle.card.encoder.name,
    )


def convertible(model: Any) -> Any:
    """Return a model with the outputs of a merge model, of layers that every converter takes.

    Padding stays masked: a padded place repeats the answer of the place before it.
    """
    import keras  # here, so that `devices` is the first to load it

    def clone(layer: Any) -> Any:
        options = layer.get_config()
        if isinstance(layer, keras.layers.LSTM):
            options["use_cudnn"] = False
        if isinstance(layer, keras.layers.Normalization):
            mean, variance, *_ = layer.get_weights()
            deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
            return keras.layers.Rescaling((1 / deviation).tolist(), (-mean / deviation).tolist(), name=layer.name)
        return type(layer).from_config(options)

    def fill(copy: Any, model: Any) -> None:
        for layer in copy.layers:
            if isinstance(layer, keras.Model):  # of an ensemble
                fill(layer, model.get_layer(layer.name))
            elif not isinstance(layer, keras.layers.Rescaling):
                layer.set_weights(model.get_layer(layer.name).get_weights())

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    fill(copy, model)
    copy([np.zeros((1, *model.inputs[0].shape[1:]), np.float32), np.ones((1, 1), np.int32)])  # as Keras' exporter asks
    return copy


def _publish(folder: Path, out: str, card: dict[str, Any]) -> None:
    """Put a folder's files and the card at `out`: on a local disk as a whole, elsewhere the card last."""
    local = local_path(out)
    if local is None:
        upload_folder(folder, out)
        write_json(join(out, CARD_FILE), card)
        return
    parent = os.path.dirname(local)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".tmp-") as hidden:
        whole = join(hidden, "whole")
        upload_folder(folder, whole)
        write_json(join(whole, CARD_FILE), card)
        os.replace(whole, local)


def _write_keras(model: Any, path: Path) -> None:
    model.save(path)


def _write_savedmodel(model: Any, path: Path) -> None:
    convertible(model).export(path, format="tf_saved_model", verbose=False)


def _write_onnx(model: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras mends tf2onnx for newer versions of numpy, which warn of it
        convertible(model).export(path, format="onnx", verbose=False)


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "keras": _write_keras,
    "savedmodel": _write_savedmodel,
    "onnx": _write_onnx,
}
