"""Help pages: of raycap, and of each command from the options of its dataclass. Knows what no command does."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from raycap.options import Group, Option, groups_of, negated

SWITCHES: Final = {
    "--json": "print results as JSON, on standard output",
    "--quiet": "say nothing but errors",
    "--verbose": "show what Ray, TensorFlow and the workers log",
    "--debug": "show where an error comes from",
    "--help": "show this, and end (-h)",
}
"""The switches that every command takes, anywhere among its options."""

EXIT_CODES: Final = {
    0: "done",
    1: "failed",
    2: "wrong input or options",
    3: "captioned but for photos that failed",
    130: "interrupted",
    141: "nobody reads standard output",
}
_EXAMPLE: Final = "Example: "
_COLUMN, _WIDEST = 28, 110


def command_page(config: type, *, prog: str, usage: str | None = None) -> str:
    """Return the help page of a command.

    Args:
        config: the dataclass of its options.
        prog: how it is called.
        usage: what follows `prog`, where the dataclass does not say all of it.
    """
    groups = groups_of(config)
    required = [option for group in groups for option in group.options if option.required]
    given = " ".join(_in_usage(option) for option in required)
    paragraphs = inspect.cleandoc(config.__doc__ or "").split("\n\n")
    text = [_filled(each) for each in paragraphs if not each.startswith(_EXAMPLE)]
    examples = [each.removeprefix(_EXAMPLE) for each in paragraphs if each.startswith(_EXAMPLE)]
    parts = [
        *text,
        _section("Example" if len(examples) == 1 else "Examples", [f"  {each}" for each in examples]),
        f"usage: {prog} {usage or f'{given} [OPTIONS]'.strip()}",
        _section("Required", _rows(_option_row(option) for option in required)),
        *(_group(group, required) for group in groups),
        _section("Everywhere", _rows(SWITCHES.items())),
    ]
    return "\n\n".join(part for part in parts if part)


def main_page(commands: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Return the help page of raycap.

    Args:
        commands: groups by title, of commands and what each does.
    """
    examples = [
        "raycap demo                                                         # all of it, on drawn scenes",
        "raycap run --captions captions.csv --photos photos/ --out work      # train on your photos",
        "raycap caption holiday/ --model work/model                          # caption others",
        "raycap inspect work/model                                           # what is this?",
    ]
    codes = ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    parts = [
        "Train a photo captioner and run it over very many photos, on Ray.",
        _section("Examples", [f"  {each}" for each in examples]),
        "usage: raycap COMMAND [OPTIONS]",
        *(_section(title, _rows(rows, column=14)) for title, rows in commands),
        _section("Everywhere", _rows({**SWITCHES, "--version": "show the version, and end"}.items(), column=14)),
        "raycap COMMAND --help shows a command's options.",
        _filled(f"Exit codes: {codes}."),
    ]
    return "\n\n".join(parts)


def _group(group: Group, required: Sequence[Option]) -> str:
    options = [option for option in group.options if option not in required]
    if not group.path:
        return _section("Options", _rows(map(_option_row, options)))
    title = " ".join(group.path).replace("_", " ").capitalize()
    about = textwrap.wrap(group.help, _width() - 2, initial_indent="  ", subsequent_indent="  ")
    return _section(title, [*about, *_rows(map(_option_row, options))]) if options else ""


def _option_row(option: Option) -> tuple[str, str]:
    if option.kind is bool and option.default is True:
        return f"{option.flag}, {negated(option.flag)}", f"{option.help} [default: {option.flag}]"
    name = f"{option.flag} {option.metavar}".strip() if not option.positional else option.flag
    return name, f"{option.help}{_default(option)}"


def _default(option: Option) -> str:
    if option.derived is not None:
        return f" [default: {option.derived}]"
    if option.required or option.default is None or option.kind is bool:
        return ""
    default = " ".join(option.default) if option.many else option.default
    return f" [default: {default}]" if default != "" else ""


def _in_usage(option: Option) -> str:
    if not option.positional:
        return f"{option.flag} {option.metavar}"
    return f"{option.flag} ..." if option.many else option.flag


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *lines]) if lines else ""


def _rows(rows: Iterable[tuple[str, str]], *, column: int = _COLUMN) -> list[str]:
    return [line for name, text in rows for line in _row(name, text, column)]


def _row(name: str, text: str, column: int) -> Iterator[str]:
    lines = textwrap.wrap(text, max(20, _width() - column), break_on_hyphens=False) or [""]
    if len(name) > column - 4:
        yield f"  {name}"
    else:
        yield f"  {name:<{column - 2}}{lines.pop(0)}".rstrip()
    yield from (" " * column + line for line in lines)


def _filled(text: str) -> str:
    return textwrap.fill(re.sub(r"\s+", " ", text), _width(), break_on_hyphens=False)


def _width() -> int:
    return min(_WIDEST, shutil.get_terminal_size().columns)
