"""Captions to words to numbers and back; knows neither files' layout, Ray nor TensorFlow."""

import json
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Self

from raycap.errors import FormatError
from raycap.schema import END_TOKEN, FORMAT_VERSION, PAD_ID, START_TOKEN, check_version

TOKENIZER_FILE: Final = "tokenizer.json"
"""What a saved tokenizer is called, in what prepare writes and in a bundle."""

Words = Sequence[str]
"""A caption as words."""

_FUNCTION_WORDS = """
a an the this that these those and or but while as is are was were be been being has have having do does at by for from
in into of off on onto out over to through toward towards up down under upon with without about above across after
against along among around before behind below beneath beside between beyond during inside near next outside past he she
it they him her them his hers its their who which whose there other another each both all some
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
"""English words that a sentence may well say twice; all others carry its meaning."""

_OPEN_WORDS = "a an the of and or with at from into is are was were while as his its their"
OPEN_WORDS: Final = frozenset(_OPEN_WORDS.split())
"""English words that want another one after them: with one of them last, a sentence is not finished."""

ARTICLES: Final = frozenset(("a", "an"))
_ATTRIBUTES = "black white red blue green yellow pink purple brown gray grey young old little small large big tall long"
ATTRIBUTES: Final = frozenset(_ATTRIBUTES.split())
"""English words that want a noun after them where an article is before them: "in front of a red"."""

_JOINERS = "\u200c\u200d"  # inside words of Persian and Indic scripts
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_unfinished(words: Sequence[str]) -> bool:
    """Whether an English sentence is none yet: it has no words, or the last one wants another after it."""
    if not words or words[-1] in OPEN_WORDS:
        return True
    return words[-1] in ATTRIBUTES and len(words) > 1 and words[-2] in ARTICLES


def clean_words(caption: str, *, keep_one_letter_words: bool = False) -> list[str]:
    """Return the words of a caption, cleaned as the tutorial does.

    Lower-case; strip punctuation; drop words of one character; drop words that are not all letters; in that order, on
    white-space tokens. Outside ASCII, which the tutorial does not go beyond, quotation marks and their like are
    punctuation too, and accents and vowel signs are of the letters that they stand by.

    Args:
        caption: as a person wrote it.
        keep_one_letter_words: keep "a" and its like, which the `standard` protocol scores.
    """
    shortest = 1 if keep_one_letter_words else 2
    return [word for word in standard_words(caption) if len(word) >= shortest and _is_letters(word)]


def standard_words(caption: str) -> list[str]:
    """Return the words of a caption as the field scores them: lower-case, no punctuation, every word kept."""
    return [word for word in map(_without_punctuation, caption.lower().split()) if word]


def _without_punctuation(word: str) -> str:
    word = word.translate(_DROP_PUNCTUATION)
    if word.isascii():
        return word
    composed = unicodedata.normalize("NFC", word)  # one letter however it was typed
    return "".join(each for each in composed if not unicodedata.category(each).startswith("P"))


def _is_letters(word: str) -> bool:
    if word.isalpha() or word.isascii():
        return word.isalpha()
    others = [each for each in word if not each.isalpha()]
    return len(others) < len(word) and all(unicodedata.category(each)[0] == "M" or each in _JOINERS for each in others)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A vocabulary fitted on the training captions, and the cleaning it was fitted under.

    Attributes:
        words: by falling frequency in training, ties by first appearance; word `i` has id `i + 1`. Start and end
            tokens are among them; id 0 is padding.
        max_length: tokens of the longest training caption, start and end included.
        keep_one_letter_words: how captions were cleaned.
        min_word_count: rarer words were left out of the vocabulary.
    """

    words: tuple[str, ...]
    max_length: int
    keep_one_letter_words: bool = False
    min_word_count: int = 1
    format_version: int = field(default=FORMAT_VERSION, init=False)

    @classmethod
    def fit(cls, captions: Iterable[str], *, keep_one_letter_words: bool = False, min_word_count: int = 1) -> Self:
        """Fit a vocabulary on raw training captions.

        Args:
            captions: as people wrote them; cleaned here.
            keep_one_letter_words: see `clean_words`.
            min_word_count: leave out words seen fewer times; encoding drops them, as the tutorial drops unknown ones.
        """
        counts: Counter[str] = Counter()
        sentences: list[list[str]] = []
        for caption in captions:
            words = [START_TOKEN, *clean_words(caption, keep_one_letter_words=keep_one_letter_words), END_TOKEN]
            counts.update(words)
            sentences.append(words)
        kept = {word for word, count in counts.items() if count >= min_word_count} | {START_TOKEN, END_TOKEN}
        ranked = sorted((word for word in counts if word in kept), key=lambda word: -counts[word])
        longest = max((sum(word in kept for word in words) for words in sentences), default=2)
        return cls(
            words=tuple(ranked),
            max_length=longest,
            keep_one_letter_words=keep_one_letter_words,
            min_word_count=min_word_count,
        )

    @property
    def vocab_size(self) -> int:
        """Words, start, end and padding."""
        return len(self.words) + 1

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token id of each word."""
        return {word: index for index, word in enumerate(self.words, start=1)}

    @property
    def start_id(self) -> int:
        """Token id that opens every caption."""
        return self.ids[START_TOKEN]

    @property
    def end_id(self) -> int:
        """Token id that closes every caption."""
        return self.ids[END_TOKEN]

    def clean(self, caption: str) -> list[str]:
        """Return the caption's words under this tokenizer's cleaning, unknown ones included."""
        return clean_words(caption, keep_one_letter_words=self.keep_one_letter_words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return start, the ids of the known words, end; unknown words are dropped, as in the tutorial."""
        ids = self.ids
        known = [ids[word] for word in words if word in ids]
        return [self.start_id, *known, self.end_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the words joined by spaces, up to the end token, without start, end and padding."""
        words: list[str] = []
        for token_id in token_ids:
            if token_id == self.end_id:
                break
            if token_id not in (PAD_ID, self.start_id):
                words.append(self.words[token_id - 1])
        return " ".join(words)

    def to_json(self) -> str:
        """Return the tokenizer as JSON, for `from_json`."""
        return json.dumps(
            {
                "format_version": self.format_version,
                "max_length": self.max_length,
                "keep_one_letter_words": self.keep_one_letter_words,
                "min_word_count": self.min_word_count,
                "words": self.words,
            },
            ensure_ascii=False,
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str, *, source: str = "tokenizer.json") -> Self:
        """Return the tokenizer that `to_json` wrote.

        Raises:
            FormatError: if `text` is not a tokenizer, or one written by a newer raycap.
        """
        try:
            fields = json.loads(text)
            check_version(fields.pop("format_version"), source=source)
            tokenizer = cls(**(fields | {"words": tuple(fields["words"])}))
            tokenizer._check()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FormatError(f"{source} is not a tokenizer written by raycap: {error}") from error
        return tokenizer

    def _check(self) -> None:
        """Raise a TypeError or ValueError if this is not what `fit` could have made."""
        if not all(isinstance(word, str) for word in self.words):
            raise TypeError("not all of its words are text")
        if len(self.ids) < len(self.words) or not {START_TOKEN, END_TOKEN} <= set(self.words):
            raise ValueError(f"its words are not all different, or {START_TOKEN} or {END_TOKEN} is not among them")
        if type(self.max_length) is not int or self.max_length < 2:
            raise TypeError(f"its max_length is {self.max_length!r:.40}")
