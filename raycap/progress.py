"""What a person sees of a run: results, a bar in a terminal, lines now and then elsewhere. Knows nothing of what runs.

With RAYCAP_QUIET set, nothing but errors.
"""

import json
import os
import re
import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_LINE_EVERY_S = 10.0
# What a file's name or a caption could steer a terminal or forge lines with: control characters (ESC, DEL and C1 among
# them, some of which are escapes of one character), line and paragraph separators, what turns the direction of text,
# and halves of characters, which cannot be written at all.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def say(message: str, *, always: bool = False) -> None:
    """Write a line for people, on standard error: standard output is for results.

    Args:
        message: the line; what would steer a terminal is escaped, but for line breaks.
        always: even with RAYCAP_QUIET, as errors are said.
    """
    if always or not is_quiet():
        print(_harmless(message), file=sys.stderr, flush=True)


def show(result: str) -> None:
    """Write a result on standard output; what would steer a terminal is escaped, but for line breaks and tabs."""
    print(_harmless(result), flush=True)


def show_json(result: Any) -> None:
    """Write a result as a line of JSON on standard output; what would steer a terminal is escaped as JSON does it."""
    text = json.dumps(result, ensure_ascii=False)
    print(_STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text), flush=True)


def printable(text: str) -> str:
    r"""Return a file's name, a caption or another's message for one field of one line: `\n` for a line break."""
    return _STEERING.sub(_escaped, text)


def counted(number: int, what: str) -> str:
    """Return a number and what it is of, in the singular or the plural: `1 photo`, `2,000 photos`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _harmless(text: str) -> str:
    return _STEERING.sub(lambda match: match[0] if match[0] in "\n\t" else _escaped(match), text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def is_quiet() -> bool:
    """Whether only errors should be said."""
    return bool(os.environ.get("RAYCAP_QUIET"))


class Progress:
    """Units done of a total, with their rate and a note, on standard error."""

    def __init__(self, label: str, total: int, *, unit: str, done: int = 0) -> None:
        """Say what is counted.

        Args:
            label: what is under way.
            total: units in all.
            unit: what they are, in the plural.
            done: units done before; they count for nothing in the rate.
        """
        self._label, self._total, self._unit = label, total, unit
        self._done = self._first = done
        self._begun: tuple[int, float] | None = None  # units done at the first update, and when that was
        self._note = ""
        self._said = done
        self._started = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal and not is_quiet():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            rate, note = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[note]}")
            self._bar = Bar(*columns, rate, TimeRemainingColumn(), note, console=console)
            self._task = self._bar.add_task(label, total=total, completed=done, rate="starting", note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done != self._said:
            self._line()

    def update(self, done: int, *, note: str = "", label: str | None = None) -> None:
        """Show that `done` units are done.

        Args:
            done: in all, those before included.
            note: said behind the rate, such as failures or a loss.
            label: what is under way now, if it changed; the rate starts anew.
        """
        if label is not None and label != self._label:
            self._label, self._first, self._started, self._begun = label, done, time.monotonic(), None
        if self._begun is None and done > self._first:
            self._begun = done, time.monotonic()
        self._done, self._note = done, note
        if self._bar is not None:
            rate = f"{self.rate:,.{int(self.rate < 100)}f} {self._unit}/s"
            self._bar.update(self._task, completed=done, description=self._label, rate=rate, note=note)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line()

    @property
    def rate(self) -> float:
        """Units a second, since the start or the last change of label.

        What comes before the first are done is no part of it, once there are others to go by: starting models can take
        a minute.
        """
        first, since = self._first, self._started
        if self._begun is not None and self._done > self._begun[0]:
            first, since = self._begun
        return (self._done - first) / max(time.monotonic() - since, 1e-9)

    def _line(self) -> None:
        self._last_line, self._said = time.monotonic(), self._done
        note = f", {self._note}" if self._note else ""
        left = ""
        if self.rate > 0 and self._done < self._total:
            left = f", {timedelta(seconds=round((self._total - self._done) / self.rate))} left"
        say(f"{self._label}: {self._done}/{self._total} {self._unit}, {self.rate:.1f} {self._unit}/s{left}{note}")
