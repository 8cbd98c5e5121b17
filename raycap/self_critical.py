"""A model's own captions as a batch to learn from: better than the others of the photo, or worse. Knows no framework.

References:
    Rennie et al. 2017, arXiv:1612.00563 (self-critical training).
    Cornia et al. 2020, arXiv:1912.08226, section 3.3 (the captions of a beam, against their mean).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycap.cider import CiderD
from raycap.decoding import Hypothesis
from raycap.schema import PAD_ID
from raycap.sequences import PackedBatch, pad_sequences
from raycap.text import Tokenizer


class OwnCaptions(NamedTuple):
    """Captions that a model found for the photos of a batch.

    Attributes:
        photos: `(captions,)` int32, the row of each caption's photo.
        tokens: `(captions, length)` int32, as in a `PackedBatch`.
        targets: likewise.
        advantages: `(captions,)` float32, the caption's CIDEr-D less the mean of its photo's captions.
        mean: CIDEr-D of all.
    """

    photos: NDArray[np.int32]
    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    advantages: NDArray[np.float32]
    mean: float


def compare(
    captions: Sequence[Sequence[Hypothesis]], batch: PackedBatch, reward: CiderD, tokenizer: Tokenizer
) -> OwnCaptions:
    """Return captions and how much better each is than the others of its photo.

    Args:
        captions: of each photo of the batch.
        batch: whose captions are the references.
        reward: scores token ids, the end token among them, so that a sentence that breaks off loses by it.
        tokenizer: the vocabulary.
    """
    sequences: list[list[int]] = []
    photos: list[int] = []
    scores: list[NDArray[np.float64]] = []
    for photo, hypotheses in enumerate(captions):
        said = [[*each.tokens, *([tokenizer.end_id] if each.finished else [])] for each in hypotheses]
        rows = batch.targets[batch.photos == photo]
        scores.append(reward(said, [row[row != PAD_ID].tolist() for row in rows]))
        sequences += [[tokenizer.start_id, *each] for each in said]
        photos += [photo] * len(said)
    tokens, targets = pad_sequences(sequences)
    return OwnCaptions(
        photos=np.array(photos, np.int32),
        tokens=tokens,
        targets=targets,
        advantages=np.concatenate([each - each.mean() for each in scores]).astype(np.float32),
        mean=float(np.mean(np.concatenate(scores))),
    )
