"""Configuration files: TOML whose tables and keys are the fields of a dataclass. Knows no command."""

import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from raycap.arguments import nearest
from raycap.errors import InputError
from raycap.options import Group, Option, Path, groups_of, options_of
from raycap.tool_config import RunConfig

_WIDTH = 110


def read(location: str, config: type) -> dict[Path, Any]:
    """Return the values that a configuration file gives, by the paths of their options.

    Args:
        location: of the file.
        config: the dataclass that it is about.

    Raises:
        InputError: if it cannot be read, is no TOML, or has a key or a value that is no option's; the message names it.
    """
    from raycap.storage import exists, read_text

    if not exists(location):
        raise InputError(f"there is no configuration file at {location}; raycap config prints one")
    try:
        content = tomllib.loads(read_text(location))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{location} is not TOML: {error}") from None
    options = {option.path: option for option in options_of(config)}
    return dict(_values(content, (), options, location))


def _values(
    table: Mapping[str, Any], at: Path, options: Mapping[Path, Option], location: str
) -> Iterator[tuple[Path, Any]]:
    for key, value in table.items():
        path = (*at, key)
        if path in options:
            try:
                yield path, options[path].from_toml(value)
            except ValueError as error:
                raise InputError(f"{location}: {'.'.join(path)} {error}") from None
        elif any(known[: len(path)] == path for known in options):
            if not isinstance(value, dict):
                raise InputError(
                    f"{location}: {'.'.join(path)} is a table, not {value!r:.40}; write [{'.'.join(path)}]"
                )
            yield from _values(value, path, options, location)
        else:
            raise InputError(f"{location}: {_unknown(path, options)}")


def _unknown(path: Path, options: Mapping[Path, Option]) -> str:
    """Say that there is no such key, and which one is nearest: beside it, or of that very name somewhere else."""
    beside = {
        known[len(path) - 1] for known in options if known[: len(path) - 1] == path[:-1] and len(known) >= len(path)
    }
    named = [".".join(known) for known in options if known[-1] == path[-1]]
    near = nearest(path[-1], beside)
    if near is not None:
        named = [".".join((*path[:-1], near))]
    hint = f"did you mean {' or '.join(named)}?" if named else f"there are {', '.join(sorted(beside))}"
    return f"there is no key {'.'.join(path)!r:.80}; {hint}"


def template(values: Mapping[Path, Any], config: type = RunConfig) -> str:
    """Return a configuration file with every option, its help and its default, commented out where it is not given.

    Args:
        values: the options that are given, by path.
        config: the dataclass.
    """
    return "\n\n".join(["# raycap run THIS_FILE", *(_table(group, values) for group in groups_of(config))])


def _table(group: Group, values: Mapping[Path, Any]) -> str:
    parts = [_comment(group.help)]
    if group.path:
        parts.append(f"[{'.'.join(group.path)}]")
    parts += [f"\n{_comment(option.help + _choices(option))}\n{_line(option, values)}" for option in group.options]
    return "\n".join(parts)


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _choices(option: Option) -> str:
    return f" One of {', '.join(option.choices)}." if option.choices else ""


def _line(option: Option, values: Mapping[Path, Any]) -> str:
    name = option.path[-1]
    if option.path in values and values[option.path] is not None:
        return f"{name} = {_toml(values[option.path])}"
    if option.derived is not None:
        return f"# {name} = {_toml(option.derived)}"
    if option.default is MISSING:
        return f"# {name} = {'[]' if option.many else _toml('')}  # must be given"
    if option.default is None:
        return f"# {name} = {_toml(option.metavar) if option.kind is str else option.metavar}"
    return f"# {name} = {_toml(option.default)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    return _string(value) if isinstance(value, str) else repr(value)


def _string(text: str) -> str:
    escaped = re.sub(r'[\\"\x00-\x1f\x7f]', lambda match: _escaped(match[0]), text)
    return f'"{escaped}"'


def _escaped(character: str) -> str:
    return f"\\{character}" if character in '\\"' else f"\\u{ord(character):04x}"
