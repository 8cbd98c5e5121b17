"""BLEU-1 to BLEU-4, each with the protocol it was computed under; knows neither models nor files.

Reference:
    Papineni et al. 2002, BLEU: a method for automatic evaluation of machine translation.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import numpy as np
from nltk.translate.bleu_score import corpus_bleu

from raycap.schema import END_TOKEN, START_TOKEN
from raycap.text import clean_words, standard_words

# nltk stands in for an order without any overlap by the smallest float; what that leaves of a score is nothing
_NOTHING = 1e-50


@dataclass(frozen=True)
class Protocol:
    """What is compared, and how.

    Attributes:
        name: `standard`, `clean` or `tutorial`.
        words: a caption's words.
        text: the same, in words.
        wrapped: whether start and end tokens are kept.
        weights: of the n-gram orders, for BLEU-1 to BLEU-4.
    """

    name: str
    words: Callable[[str], list[str]]
    text: str
    wrapped: bool
    weights: tuple[tuple[float, ...], ...]

    def prepare(self, caption: str) -> list[str]:
        """Return a caption as the words that are compared."""
        words = self.words(caption)
        return [START_TOKEN, *words, END_TOKEN] if self.wrapped else words

    @property
    def signature(self) -> str:
        """What a reader needs to compute the same number."""
        orders = "+".join(f"{weight:.3g}" for weight in self.weights[2])
        ends = "kept" if self.wrapped else "none"
        return f"protocol:{self.name}|text:{self.text}|ends:{ends}|bleu3:{orders}|nltk:{metadata.version('nltk')}"


_UNIFORM: Final = ((1.0,), (1 / 2, 1 / 2), (1 / 3, 1 / 3, 1 / 3), (1 / 4, 1 / 4, 1 / 4, 1 / 4))
_TUTORIAL: Final = (*_UNIFORM[:2], (0.3, 0.3, 0.3), _UNIFORM[3])

PROTOCOLS: Final[Mapping[str, Protocol]] = {
    protocol.name: protocol
    for protocol in (
        Protocol("standard", standard_words, "lower,nopunct", False, _UNIFORM),
        Protocol("clean", clean_words, "lower,nopunct,letters,2+", False, _UNIFORM),
        Protocol("tutorial", clean_words, "lower,nopunct,letters,2+", True, _TUTORIAL),
    )
}
"""The ways to compute BLEU that raycap reports, by name."""


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], protocol: Protocol) -> dict[str, float]:
    """Return corpus BLEU, as nltk computes it.

    That is sacrebleu's and the COCO toolkit's BLEU too, but for a hypothesis of fewer than n words: nltk counts one
    wrong n-gram of order n for it, the others none.

    Args:
        hypotheses: a caption a photo.
        references: the human captions of each photo, in the same order; as many as it has.
        protocol: what is compared.

    Returns:
        `bleu_1` to `bleu_4`, 0 to 1; 0 for no hypotheses.
    """
    if not hypotheses:
        return {f"bleu_{order}": 0.0 for order in range(1, 5)}
    wanted = [[protocol.prepare(reference) for reference in each] for each in references]
    said = [protocol.prepare(hypothesis) for hypothesis in hypotheses]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns of every order without overlap, even at weight 0
        scores: Any = corpus_bleu(wanted, said, weights=protocol.weights)
    scores = scores if isinstance(scores, list) else [scores] * 4
    return {f"bleu_{order}": _clip(float(score)) for order, score in enumerate(scores, start=1)}


def score_all(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return corpus BLEU under every protocol, by its name."""
    return {name: bleu(hypotheses, references, protocol) for name, protocol in PROTOCOLS.items()}


def constant_caption(training_references: Sequence[Sequence[str]]) -> str:
    """Return the caption that a blind captioner does best to give every photo, found on the training captions.

    The 40 most frequent captions, ties by first appearance, are scored under `standard` on 100 training photos spread
    evenly; the best BLEU-4 wins.

    Args:
        training_references: the captions of each training photo.
    """
    prepare = PROTOCOLS["standard"].prepare
    counts = Counter(" ".join(prepare(caption)) for captions in training_references for caption in captions)
    candidates = [caption for caption, _ in counts.most_common(40)]
    sample = training_references[:: max(1, len(training_references) // 100)][:100]

    def score(caption: str) -> float:
        return bleu([caption] * len(sample), sample, PROTOCOLS["standard"])["bleu_4"]

    return max(candidates, key=score, default="")


def shuffled(hypotheses: Sequence[str], *, seed: int) -> list[str]:
    """Return the hypotheses moved among the photos, none left in its place where there are two or more."""
    order = np.random.default_rng(seed).permutation(len(hypotheses))
    moved = list(hypotheses)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        moved[place] = hypotheses[source]
    return moved


def _clip(score: float) -> float:
    return score if score > _NOTHING else 0.0
