"""The language side of a captioner, in several kinds behind one interface.

A kind builds a Keras model of a photo's feature and the words so far, of Keras' own layers; and runs that model's
layers in the two ways that raycap needs, neither of which is Keras': over whole captions that are known, in training,
and a word at a time for many hypotheses at once, in decoding. Knows neither Ray nor where features come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from raycap.config import ModelConfig
from raycap.decoders import attention, ensemble, merge, transformer
from raycap.decoders.attention_steps import AttentionSteps
from raycap.decoders.merge_forcing import MergeForcing
from raycap.decoders.merge_steps import MergeSteps
from raycap.decoders.normalization import Moments
from raycap.decoders.places import Forcing
from raycap.decoders.steps import Steps
from raycap.decoders.transformer_steps import TransformerSteps
from raycap.errors import FormatError

_SUFFIX: Final = "_model"


@dataclass(frozen=True)
class Decoder:
    """One kind of decoder.

    Attributes:
        build: returns a model; see `merge.build`, and for what is built of trained models `ensemble.combine`.
        forcing: takes a model; see `places.Forcing`.
        steps: takes a model, and `num_threads`.
        layers: names of the layers that a model of this kind has.
    """

    build: Callable[..., Any]
    forcing: Callable[[Any], Forcing]
    steps: Callable[..., Steps]
    layers: frozenset[str]


DECODERS: Final = {
    "merge": Decoder(merge.build, MergeForcing, MergeSteps, merge.LAYERS),
    "attention": Decoder(attention.build, attention.AttentionForcing, AttentionSteps, attention.LAYERS),
    "transformer": Decoder(transformer.build, transformer.TransformerForcing, TransformerSteps, transformer.LAYERS),
}


def build_model(
    config: ModelConfig, *, vocab_size: int, feature_shape: tuple[int, ...], moments: Moments | None = None
) -> Any:
    """Return a model of the kind that `config.decoder` says, which its name then tells.

    Args:
        config: kind, dimensions and options.
        vocab_size: words, start, end and padding.
        feature_shape: `(dim,)` or `(num_regions, dim)`.
        moments: of the training features; for `standardize`.
    """
    return DECODERS[config.decoder].build(config, vocab_size=vocab_size, feature_shape=feature_shape, moments=moments)


def decoder_of(model: Any) -> Decoder:
    """Return the kind that a model is of.

    Raises:
        FormatError: if it is of none, or lacks layers.
    """
    decoder = _ENSEMBLE if model.name == ensemble.NAME else DECODERS.get(model.name.partition(_SUFFIX)[0])
    if decoder is None or decoder.layers - {layer.name for layer in model.layers}:
        raise FormatError(f"{model.name} is no decoder of raycap's")
    return decoder


def _forcing_together(model: Any) -> Forcing:
    return ensemble.EnsembleForcing([decoder_of(each).forcing(each) for each in ensemble.members(model)])


def _steps_together(model: Any, *, num_threads: int | None = None) -> Steps:
    models = ensemble.members(model)
    steps = [decoder_of(each).steps(each, num_threads=num_threads) for each in models]
    return ensemble.EnsembleSteps(models, steps, num_threads=num_threads)


_ENSEMBLE: Final = Decoder(ensemble.combine, _forcing_together, _steps_together, frozenset({"mean_logits"}))
