"""How varied captions are, and how much of what was learnt they use; knows words only, neither models nor files."""

import itertools
from collections.abc import Collection, Sequence, Set

import numpy as np

from raycap.text import FUNCTION_WORDS, Words, is_unfinished


def diversity(captions: Sequence[Words], *, training: Set[str], vocabulary: Collection[str]) -> dict[str, float]:
    """Return counts and shares that tell a captioner with few sentences from one with many.

    Args:
        captions: as words, one a photo.
        training: the training captions, words joined by spaces.
        vocabulary: the words that the model can say.

    Returns:
        `num_captions`; `distinct_captions`, how many of them differ; `distinct_1` and `distinct_2`, the share of
        different ones among all words and pairs of words (Li et al. 2016, A diversity-promoting objective function for
        neural conversation models); `seen_in_training`, the share that is a training caption word for word;
        `repeats_a_word`, the share that says a word twice, `FUNCTION_WORDS` left out; `unfinished`, the share that is
        empty or whose last word wants another one (`is_unfinished`); `mean_length` in words;
        `vocabulary_used`, how many different words; `vocabulary_share`, the share of the model's vocabulary that is
        said.
    """
    texts = [" ".join(words) for words in captions]
    words = [word for caption in captions for word in caption]
    pairs = [pair for caption in captions for pair in itertools.pairwise(caption)]
    said, known = set(words), set(vocabulary)
    return {
        "num_captions": len(captions),
        "distinct_captions": len(set(texts)),
        "distinct_1": len(said) / max(1, len(words)),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "seen_in_training": sum(text in training for text in texts) / max(1, len(texts)),
        "repeats_a_word": sum(map(_repeats, captions)) / max(1, len(captions)),
        "unfinished": sum(map(is_unfinished, captions)) / max(1, len(captions)),
        "mean_length": float(np.mean([len(caption) for caption in captions])) if captions else 0.0,
        "vocabulary_used": len(said),
        "vocabulary_share": len(said & known) / max(1, len(known)),
    }


def _repeats(caption: Words) -> bool:
    meaningful = [word for word in caption if word not in FUNCTION_WORDS]
    return len(set(meaningful)) < len(meaningful)
