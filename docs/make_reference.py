"""Writes docs/reference.md from the dataclasses that hold all options; `make docs` runs it. Knows no option by name.

With --check it writes nothing, and ends with exit code 1 if the page is not what it would write.
"""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).with_name("reference.md")
MODULES = ("raycap.config", "raycap.tool_config")
_EXAMPLE = re.compile(r"^\s*(?:Example: |\$ )?(raycap ([a-z]\S*).*)$")
_WORDS = {str: "text", int: "integer", float: "number", bool: "switch"}
_HEAD = """# Reference

Every option of every command: made from `raycap/config.py` and what stands beside it by `make docs`, and held to it by
`tests/test_reference.py`. `raycap COMMAND --help` says the same. A switch is given as it stands, and turned off
as `--no-NAME`; all others are followed by a value, or by several where it says so.

All commands take `--json` (results as JSON on standard output), `--quiet` (nothing but errors), `--verbose` (what Ray
and its workers log) and `--debug` (where an error comes from). Exit codes: 0 done, 1 failed, 2 wrong input or options,
3 captioned but for photos that failed, 130 interrupted.
"""


class Option(NamedTuple):
    """A field of a dataclass, as the command line has it."""

    name: str  # --out, or PHOTOS where no name is given
    kind: str
    default: str
    help: str


class Command(NamedTuple):
    """A command and what it takes: options of its own, and groups that several commands share."""

    name: str
    config: type
    about: str
    examples: list[str]
    options: list[Option]
    groups: list[type]


def main() -> int:
    """Write the page, or check it."""
    text = reference()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is not what the code says; run make docs", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def reference() -> str:
    """Return the page."""
    found = commands()
    shared = dict.fromkeys(group for command in found for group in command.groups)
    index = [f"- [raycap {each.name}](#raycap-{each.name}): {_sentence(each.about)}" for each in found]
    parts = [_HEAD, "\n".join(index) + "\n", *map(_command_text, found)]
    parts += ["## Groups of options\n\nEach is taken by the commands that name it above.\n", *map(_group_text, shared)]
    return "\n".join(parts)


def commands() -> list[Command]:
    """Return all commands, in the order of the modules: the dataclasses whose docstrings have an example."""
    found = []
    for config in _dataclasses():
        lines = (inspect.getdoc(config) or "").splitlines()
        examples = [match for match in map(_EXAMPLE.match, lines) if match]
        if examples:
            about = " ".join(line.strip() for line in lines[: _first_blank(lines)])
            kinds = [_bare(annotated) for _, annotated in _fields(config)]
            groups = [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
            shown = [match[1].strip() for match in examples]
            found.append(Command(examples[0][2], config, about, shown, options_of(config), groups))
    return found


def _dataclasses() -> Iterator[type]:
    for name in MODULES:
        if importlib.util.find_spec(name):
            module = importlib.import_module(name)
            yield from (
                each
                for each in vars(module).values()
                if isinstance(each, type) and dataclasses.is_dataclass(each) and each.__module__ == name
            )


def _fields(config: type) -> Iterator[tuple[Any, Any]]:
    """Give each field with its type, `Annotated` kept."""
    hints = typing.get_type_hints(config, include_extras=True)
    for each in dataclasses.fields(config):
        yield each, hints[each.name]


def options_of(config: type) -> list[Option]:
    """Return the options that a dataclass holds itself, without those of its groups."""
    said = _docstrings(config)
    options = []
    for each, annotated in _fields(config):
        kind = _bare(annotated)
        if dataclasses.is_dataclass(kind):
            continue
        positional = kind is not annotated and "positional" in repr(annotated).lower()
        name = each.name.upper() if positional else f"--{each.name.replace('_', '-')}"
        options.append(Option(name, _kind(kind), _default(each), said.get(each.name, "")))
    return options


def _bare(annotated: Any) -> Any:
    return typing.get_args(annotated)[0] if typing.get_origin(annotated) is typing.Annotated else annotated


def _docstrings(config: type) -> dict[str, str]:
    """Return what stands below each field."""
    (node,) = ast.parse(inspect.getsource(config)).body
    body = getattr(node, "body", [])
    said = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            said[typing.cast(ast.Name, field.target).id] = " ".join(str(below.value.value).split())
    return said


def _kind(kind: Any) -> str:
    """Say what is given."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_kind(each) for each in arguments if each is not type(None))
    if origin is tuple:
        return f"one or more: {_kind(arguments[0])}"
    return _WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _default(each: "dataclasses.Field[Any]") -> str:
    value = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
    if value is dataclasses.MISSING:
        return "**required**"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _command_text(command: Command) -> str:
    lines = [f"## raycap {command.name}", "", command.about, ""]
    for example in command.examples:
        needs = ["<!-- needs: storage -->"] if "://" in example else []
        lines += [*needs, "```sh", example, "```", ""]
    lines += [*_table(command.options), ""]
    if command.groups:
        links = [f"[{_title(group)}](#{_title(group).replace(' ', '-')})" for group in command.groups]
        lines += [f"And the options of: {', '.join(links)}.", ""]
    return "\n".join(lines)


def _group_text(group: type) -> str:
    lines = (inspect.getdoc(group) or "").splitlines()
    about = " ".join(line.strip() for line in lines[: _first_blank(lines)])
    return "\n".join([f"### {_title(group)}", "", about, "", *_table(options_of(group)), ""])


def _table(options: list[Option]) -> list[str]:
    rows = [
        f"| {_cell(f'`{each.name}`')} | {_cell(each.kind)} | {_cell(each.default)} | {_cell(each.help)} |"
        for each in options
    ]
    return ["| option | value | default | what it does |", "| --- | --- | --- | --- |", *rows] if rows else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _title(group: type) -> str:
    return f"{group.__name__.removesuffix('Config').lower()} options"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _first_blank(lines: list[str]) -> int:
    return lines.index("") if "" in lines else len(lines)


if __name__ == "__main__":
    sys.exit(main())
