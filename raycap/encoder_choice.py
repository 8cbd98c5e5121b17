"""The encoder that a stage's options ask for: where its files are, and what they hold. Loads none."""

import hashlib
from dataclasses import replace
from typing import TypeVar

from raycap.config import ExtractConfig, FinetuneConfig
from raycap.input_sizes import is_file, is_saved
from raycap.locations import absolute
from raycap.storage import exists, read_bytes

_Config = TypeVar("_Config", ExtractConfig, FinetuneConfig)


def with_absolute_encoder(config: _Config) -> _Config:
    """Return options whose encoder means the same in every process, and the same however it is written."""
    encoder = absolute(config.encoder) if is_saved(config.encoder) else config.encoder.lower()
    weights = absolute(config.weights) if is_file(config.weights) else config.weights
    return replace(config, encoder=encoder, weights=weights)


def encoder_hash(config: ExtractConfig | FinetuneConfig) -> str:
    """Return a short hash of the file that holds the encoder, or its weights; empty where there is none."""
    location = config.encoder if is_saved(config.encoder) else config.weights
    if not is_file(location) or not exists(location):  # loading it will say so
        return ""
    return hashlib.sha256(read_bytes(location)).hexdigest()[:12]
