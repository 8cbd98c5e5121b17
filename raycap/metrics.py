"""What a set of captions scores, each metric under a named protocol; knows neither models nor files."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raycap import meteor
from raycap.bleu import corpus_bleu, sentence_bleu
from raycap.bleu import statistics as bleu_statistics
from raycap.cider import cider_d
from raycap.errors import MeteorError
from raycap.rouge import rouge_l
from raycap.schema import END_TOKEN, START_TOKEN
from raycap.text import Words, clean_words, standard_words

METRICS: Final[Mapping[str, str]] = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
}
"""The metrics, as files and as people call them."""


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
        """What a reader needs to compute the same numbers."""
        orders = "+".join(f"{weight:.3g}" for weight in self.weights[2])
        ends = "kept" if self.wrapped else "none"
        return (
            f"protocol:{self.name}|text:{self.text}|ends:{ends}|bleu3:{orders}|"
            f"nltk:{importlib.metadata.version('nltk')}|rougel:coco,beta1.2|ciderd:coco,sigma6,df=scored|meteor:1.5,en,norm"
        )


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
"""The ways to score that raycap reports, by name."""


@dataclass(frozen=True)
class Corpus:
    """Captions and what people said of the same photos, as words under a protocol.

    Attributes:
        protocol: whose words they are.
        hypotheses: of a caption a photo.
        references: of each photo's human captions, one at least.
    """

    protocol: Protocol
    hypotheses: Sequence[Words]
    references: Sequence[Sequence[Words]]

    @classmethod
    def prepare(cls, hypotheses: Sequence[str], references: Sequence[Sequence[str]], protocol: Protocol) -> "Corpus":
        """Return captions as people and models wrote them as words."""
        wanted = [[protocol.prepare(reference) for reference in each] for each in references]
        return cls(protocol, [protocol.prepare(hypothesis) for hypothesis in hypotheses], wanted)


@dataclass(frozen=True)
class Statistics:
    """What scores are made of: for each photo, numbers that add up over photos.

    So any choice of photos, with any of them more than once, is scored by adding rows up. ROUGE-L and CIDEr-D are means
    over photos: their rows are a photo's score and 1.

    Attributes:
        protocol: that they were taken under.
        tables: `bleu`, `rouge_l`, `cider_d` and, where METEOR can be computed, `meteor`; each `(photos, numbers)`.
    """

    protocol: Protocol
    tables: Mapping[str, NDArray[np.float64]]

    def scores(self, weights: NDArray[np.float64] | None = None) -> dict[str, NDArray[np.float64]]:
        """Return every metric, over all photos or over some.

        Args:
            weights: `(samples, photos)`, how often each photo is in each sample.

        Returns:
            By metric, a number, or `(samples,)`; 0 for no photos.
        """
        sums = {name: table.sum(axis=0) if weights is None else weights @ table for name, table in self.tables.items()}
        return _in_order(corpus_bleu(sums["bleu"], self.protocol.weights) | _other_scores(sums))

    def photo_scores(self) -> dict[str, NDArray[np.float64]]:
        """Return `bleu_4` (smoothed), `rouge_l`, `cider_d` and perhaps `meteor` of each photo, `(photos,)`."""
        return _in_order({"bleu_4": sentence_bleu(self.tables["bleu"])} | _other_scores(self.tables))


def _other_scores(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    means = {name: sums[name][..., 0] / np.maximum(1, sums[name][..., 1]) for name in ("rouge_l", "cider_d")}
    return means | ({"meteor": meteor.meteor(sums["meteor"])} if "meteor" in sums else {})


def _in_order(scores: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {name: scores[name] for name in METRICS if name in scores}


def measure(corpora: Sequence[Corpus], *, meteor_timeout_s: float) -> tuple[list[Statistics], str | None]:
    """Return what the scores of some corpora are made of, and why METEOR is not among it, if it is not.

    Args:
        corpora: all that is to be scored, as METEOR's program takes seconds to start.
        meteor_timeout_s: seconds that METEOR may take; 0 leaves it out.
    """
    tables = [
        {
            "bleu": bleu_statistics(corpus.hypotheses, corpus.references),
            "rouge_l": _with_ones(rouge_l(corpus.hypotheses, corpus.references)),
            "cider_d": _with_ones(cider_d(corpus.hypotheses, corpus.references)),
        }
        for corpus in corpora
    ]
    gap: str | None = "left out, as --meteor-timeout-s is 0"
    if meteor_timeout_s > 0:
        try:
            said = [words for corpus in corpora for words in corpus.hypotheses]
            wanted = [words for corpus in corpora for words in corpus.references]
            counted = meteor.statistics(said, wanted, timeout_s=meteor_timeout_s)
            ends = np.cumsum([len(corpus.hypotheses) for corpus in corpora])[:-1]
            for table, rows in zip(tables, np.split(counted, ends), strict=True):
                table["meteor"] = rows
            gap = None
        except MeteorError as error:
            gap = str(error)
    return [Statistics(corpus.protocol, table) for corpus, table in zip(corpora, tables, strict=True)], gap


def _with_ones(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A mean over photos, as two numbers that add up."""
    return np.stack([scores, np.ones_like(scores)], axis=1)


def as_numbers(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return scores over all photos as plain numbers, for JSON."""
    return {name: float(score) for name, score in scores.items()}


def score_all(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return every metric but METEOR under every protocol, by its name.

    Args:
        hypotheses: a caption a photo.
        references: the human captions of each photo, in the same order; as many as it has.
    """
    corpora = [Corpus.prepare(hypotheses, references, protocol) for protocol in PROTOCOLS.values()]
    measured, _ = measure(corpora, meteor_timeout_s=0)
    return {each.protocol.name: as_numbers(each.scores()) for each in measured}
