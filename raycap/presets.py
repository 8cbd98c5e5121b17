"""Presets: options of a run by name, over which those that are given go."""

from collections.abc import Mapping
from typing import Any, Final

from raycap.options import Path

PRESETS: Final[Mapping[str, Mapping[Path, Any]]] = {
    "tutorial": {},
    # Tanti, Gatt and Camilleri 2018, arXiv:1703.09137: the merge model as published
    "paper": {
        ("prepare", "keep_one_letter_words"): True,
        ("prepare", "min_word_count"): 5,
        ("train", "model", "units"): 128,
        ("train", "model", "embedding_dim"): 128,
        ("train", "model", "merge"): "concat",
        ("train", "model", "normalization"): "l2",
        ("train", "epochs"): 60,  # it learns slowly from features of length 1; patience ends it
        ("evaluate", "decoding", "beam_width"): 3,
    },
    "best": {
        ("prepare", "keep_one_letter_words"): True,
        ("prepare", "min_word_count"): 5,
        ("tuning", "finetune_epochs"): 4,
        ("tuning", "finetune_share"): 0.5,
        ("extract", "spatial"): True,
        ("extract", "dtype"): "float16",
        ("extract", "num_views"): 4,
        ("train", "model", "decoder"): "attention",
        ("train", "model", "dropout"): 0.3,
        ("train", "num_members"): 2,
        ("train", "keep_neighbors"): True,
        ("train", "fit_matching"): True,
        ("train", "epochs"): 12,
        ("train", "global_batch_size"): 32,
        ("train", "schedule"): "cosine",
        ("train", "warmup_steps"): 200,
        ("train", "weight_average"): 0.999,
        ("train", "label_smoothing"): 0.1,
        ("train", "shuffle_window"): 2048,
        ("evaluate", "decoding", "beam_width"): 20,
        ("evaluate", "decoding", "no_repeat_ngram"): 2,
        ("evaluate", "decoding", "no_repeat_words"): True,
        ("evaluate", "decoding", "whole_sentences"): True,
        ("evaluate", "decoding", "mirrored"): True,
        ("evaluate", "decoding", "consensus"): 0.5,
        ("evaluate", "decoding", "num_neighbors"): 10,
        ("evaluate", "decoding", "matching"): 0.4,
    },
}
"""The options of each preset, by path; all others are the defaults."""


def preset_of(name: str, *, decoding_alone: bool) -> Mapping[Path, Any]:
    """Return the options of a preset.

    Args:
        name: of the preset.
        decoding_alone: those of evaluate's search, for a command that has no other part of them.
    """
    options = PRESETS[name]
    if not decoding_alone:
        return options
    return {path[1:]: value for path, value in options.items() if path[:2] == ("evaluate", "decoding")}
