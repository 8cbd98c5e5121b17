"""Writes docs/reference.md from the commands and the dataclasses of their options. Knows no option by name.

`make docs` runs it. With --check it writes nothing, and ends with exit code 1 if the page is not what it would write.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raycap.commands import COMMANDS
from raycap.options import Group, Option, groups_of, negated
from raycap.usage import EXIT_CODES, SWITCHES

PAGE = Path(__file__).with_name("reference.md")
_EXAMPLE = re.compile(r"^Example: (.*)$", re.M)
_VALUES = {str: "text", int: "integer", float: "number", bool: "switch"}
_HEAD = """# Reference

Every option of every command: made by `make docs` from the dataclasses that hold them, and held to them by
`tests/test_reference.py`. `raycap COMMAND --help` says the same. A switch is given as it stands, and turned off as
`--no-NAME`; all others are followed by a value, or by several where it says so.

{everywhere}
"""


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
    """Return the page: an index, a section a command, and those groups of options that several may take."""
    switches = "; ".join(f"`{switch}`, {text}" for switch, text in SWITCHES.items())
    codes = ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    everywhere = textwrap.fill(f"All commands take: {switches}. Exit codes: {codes}.", 120, break_on_hyphens=False)
    index = [f"- [raycap {name}](#raycap-{name}): {command.help}" for name, command in COMMANDS.items()]
    shared: dict[str, dict[str, Group]] = {}
    sections = [_command(name, shared) for name in COMMANDS]
    parts = [_HEAD.format(everywhere=everywhere), *index, "", *sections]
    parts += ["## Groups of options", "", "Each is taken by the commands that name it above.", ""]
    parts += [_section(f"### {title}", takers) for title, takers in shared.items()]
    return "\n".join(parts)


def examples(name: str) -> list[str]:
    """Return the examples of a command, from the docstring of its dataclass."""
    return _EXAMPLE.findall(inspect.getdoc(COMMANDS[name].options) or "")


def _command(name: str, shared: dict[str, dict[str, Group]]) -> str:
    """Return the section of a command, and add to the groups that several may take, by title and command."""
    own, *inner = groups_of(COMMANDS[name].options)
    said = [each for each in examples(name) if each.startswith(f"raycap {name} ") or each == f"raycap {name}"]
    lines = [f"## raycap {name}", "", own.help if said else f"{COMMANDS[name].help.capitalize()}.", ""]
    for example in said:
        lines += [*(["<!-- needs: storage -->"] if "://" in example else []), "```sh", example, "```", ""]
    if not said:  # it has the options of another command
        other = next(each for each in COMMANDS if COMMANDS[each].options is COMMANDS[name].options and each != name)
        return "\n".join([*lines, f"Takes the options of [raycap {other}](#raycap-{other}).", ""])
    lines += [*_table(own.options, _default), ""]
    links = []
    for group in inner:
        if any("." in option.flag[2:] for option in group.options):  # another command's, behind its name
            stage = group.path[0]
            link = f"of [{stage}](#raycap-{stage}), as `--{stage}.NAME`"
        else:
            title = f"{group.path[-1]} options"
            shared.setdefault(title, {})[name] = group
            link = f"[{title}](#{title.replace(' ', '-')})"
        links += [link] if link not in links else []
    return "\n".join([*lines, *([f"And the options {_joined(links)}.", ""] if links else [])])


def _joined(links: Sequence[str]) -> str:
    return "; ".join(links) if links[0].startswith("of ") else f"of: {', '.join(links)}"


def _section(heading: str, takers: Mapping[str, Group]) -> str:
    """Return the section of a group, with the defaults of each command where they differ or some do not have it."""
    group = next(iter(takers.values()))

    def default(option: Option) -> str:
        commands: dict[str, list[str]] = {}
        for name, taken in takers.items():
            for each in taken.options:
                if each.path[-1] == option.path[-1]:
                    commands.setdefault(_default(each), []).append(name)
        if [len(names) for names in commands.values()] == [len(takers)]:
            return _default(option)
        return "; ".join(f"{', '.join(names)}: {value}" for value, names in commands.items())

    return "\n".join([heading, "", group.help, "", *_table(group.options, default), ""])


def _table(options: Sequence[Option], default: Callable[[Option], str]) -> list[str]:
    rows = [f"| `{option.flag}` | {_value(option)} | {default(option)} | {_cell(option.help)} |" for option in options]
    return ["| option | value | default | what it does |", "| --- | --- | --- | --- |", *rows] if rows else []


def _value(option: Option) -> str:
    value = ", ".join(f"`{each}`" for each in option.choices) or _VALUES[option.kind]
    return f"one or more: {value}" if option.many else value


def _default(option: Option) -> str:
    if option.derived is not None:
        return f"`{option.derived}`"
    if option.required:
        return "**required**"
    if option.default is None or option.default == ():
        return ""
    if option.kind is bool:
        return f"on; `{negated(option.flag)}`" if option.default else "off"
    return f"`{' '.join(map(str, option.default)) if option.many else option.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
