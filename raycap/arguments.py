"""The words of a command line to values for the options of a dataclass. Knows no commands."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycap.errors import InputError
from raycap.options import Option, Path, options_of


@dataclass(frozen=True)
class Parsed:
    """What the words say.

    Attributes:
        values: of the options that are given, by path.
        others: words that are no option's, nor an option's value.
    """

    values: Mapping[Path, Any]
    others: Sequence[str]


def parse(config: type, words: Sequence[str], *, prog: str) -> Parsed:
    """Return the values that words give.

    `--flag value`, `--flag=value`; `--switch`, `--no-switch`; an option that takes several takes all words up to the
    next flag. What follows `--` is never a flag. A prefix may be left out where one option alone has the rest of the
    flag: `--epochs` for `--train.epochs`.

    Args:
        config: the dataclass.
        words: without the command's own name.
        prog: what to call the command in messages.

    Raises:
        InputError: if there is no such option, or it cannot have such a value.
    """
    flags = _Flags(options_of(config), prog)
    texts, others = _sort(flags, list(words))
    positional = next((option for option in flags.options if option.positional), None)
    if positional is not None and others:
        taken = others if positional.many else others[:1]
        texts[positional.path] = positional, taken
        others = others[len(taken) :]
    return Parsed({path: _value(option, given) for path, (option, given) in texts.items()}, others)


def _sort(flags: "_Flags", words: list[str]) -> tuple[dict[Path, tuple[Option, list[str]]], list[str]]:
    """Return the words that each option is given, by its path, and those that none is."""
    texts: dict[Path, tuple[Option, list[str]]] = {}
    others: list[str] = []
    taker = others  # of words that are no flags
    while words:
        word = words.pop(0)
        if word == "--":
            return texts, others + words
        if not _is_flag(word):
            taker.append(word)
            continue
        flag, equals, value = word.partition("=")
        option, is_negated = flags.find(flag)
        # a list that is given twice goes on; of anything else the last counts
        given = texts[option.path][1] if option.many and option.path in texts else []
        texts[option.path] = option, given
        taker = given if option.many and not equals else others
        if equals:
            given.append(value)
        elif option.kind is bool:
            given.append("false" if is_negated else "true")
        elif not option.many and words and not _is_flag(words[0]) and words[0] != "--":
            given.append(words.pop(0))
    return texts, others


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return which of some names a misspelt one was meant to be, if any is like it."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, which neither `-`, for standard input, nor a negative number is."""
    return len(word) > 1 and word[0] == "-" and word != "--" and not (word[1].isdigit() or word[1] == ".")


def _affirmed(flag: str) -> str | None:
    """Return `--switch` for `--no-switch`, and `--stage.switch` for `--stage.no-switch`; None for any other flag."""
    prefix, dot, last = flag[2:].rpartition(".")
    return f"--{prefix}{dot}{last[3:]}" if last.startswith("no-") else None


def _value(option: Option, texts: Sequence[str]) -> Any:
    if not texts:
        raise InputError(f"{option.flag} needs a value, {option.metavar}: {option.help}")
    try:
        return option.from_words(texts)
    except ValueError as error:
        raise InputError(f"{option.flag} {error}") from None


def flags_of(config: type) -> dict[str, Option]:
    """Return the options of a dataclass by every flag that names one of them alone, with a prefix or without."""
    flags = _Flags(options_of(config), "")
    return {**flags.named, **{flag: options[0] for flag, options in flags.short.items() if len(options) == 1}}


class _Flags:
    """The options of a command, by the flags that name them, and without a prefix by those that may."""

    def __init__(self, options: Sequence[Option], prog: str) -> None:
        self.options, self._prog = options, prog
        self.named: dict[str, Option] = {option.flag: option for option in options if not option.positional}
        short: dict[str, list[Option]] = {}
        for option in self.named.values():
            short.setdefault("--" + option.flag[2:].rpartition(".")[2], []).append(option)
        self.short = {flag: each for flag, each in short.items() if flag not in self.named}

    def find(self, flag: str) -> tuple[Option, bool]:
        """Return the option that a flag names, and whether it says no."""
        name = flag.replace("_", "-")
        option = self._get(name)
        if option is not None:
            return option, False
        affirmed = _affirmed(name)
        switch = self._get(affirmed) if affirmed else None
        if switch is not None and switch.kind is bool:
            return switch, True
        near = nearest(name, [*self.named, *self.short])
        hint = f"did you mean {near}?" if near else f"{self._prog} --help lists them"
        raise InputError(f"there is no option {flag:.80}; {hint}")

    def _get(self, name: str) -> Option | None:
        if name in self.named:
            return self.named[name]
        meant = self.short.get(name, [])
        if len(meant) > 1:
            raise InputError(f"{name} could be {', '.join(option.flag for option in meant)}; say which")
        return meant[0] if meant else None
