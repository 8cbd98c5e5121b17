"""Scripts that complete commands and options in a shell; knows commands by their names and options alone."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from raycap.arguments import flags_of
from raycap.commands import COMMANDS
from raycap.options import Option, negated, options_of
from raycap.tool_config import CompletionConfig
from raycap.usage import SWITCHES

_BASH: Final = """\
# bash completion for raycap; made by `raycap completion bash`
_raycap() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= flags= choices= word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ $word != -* ]]; then command=$word; break; fi
    done
    case $command in
        '') COMPREPLY=($(compgen -W {commands} -- "$current")); return;;
{flags}
    esac
    case "$command $previous" in
{choices}
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$flags {switches}" -- "$current"))
    elif [[ -n $choices ]]; then
        COMPREPLY=($(compgen -W "$choices" -- "$current"))
    else
        COMPREPLY=()  # bash completes files
    fi
}}
complete -o bashdefault -o default -F _raycap raycap
"""

_ZSH: Final = """\
#compdef raycap
# zsh completion for raycap; made by `raycap completion zsh`
_raycap() {{
    local -a commands switches
    commands=(
{commands}
    )
    switches=(
{switches}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    case $words[2] in
{cases}
    esac
}}
if [[ $funcstack[1] == _raycap ]]; then _raycap "$@"; else compdef _raycap raycap; fi
"""


def completion(config: CompletionConfig) -> str:
    """Return the script for a shell."""
    return _SCRIPTS[config.shell]()


def _commands() -> Iterator[tuple[str, dict[str, Option], list[Option]]]:
    """Yield the name of each command, its options by their flags, and those that have none."""
    for name, command in COMMANDS.items():
        flags = flags_of(command.options)
        on = [flag for flag, option in flags.items() if option.kind is bool and option.default is True]
        flags |= {negated(flag): flags[flag] for flag in on}
        yield name, flags, [option for option in options_of(command.options) if option.positional]


def _bash() -> str:
    names, choices = [], []
    for name, flags, positional in _commands():
        names.append(f"        {name}) flags={shlex.quote(' '.join(flags))};;")
        for before, option in [*flags.items(), *((name, each) for each in positional)]:
            if option.choices:
                pattern = shlex.quote(f"{name} {before}")
                choices.append(f"        {pattern}) choices={shlex.quote(' '.join(option.choices))};;")
    return _BASH.format(
        commands=shlex.quote(" ".join([*COMMANDS, "--help", "--version"])),
        flags="\n".join(names),
        choices="\n".join(choices),
        switches=" ".join(SWITCHES),
    )


def _zsh() -> str:
    cases = []
    for name, flags, positional in _commands():
        lines = [shlex.quote(_zsh_argument(flag, option)) for flag, option in flags.items()]
        rest = [shlex.quote(_zsh_rest(option)) for option in positional] or [shlex.quote("*:file:_files")]
        body = " \\\n".join(f"            {line}" for line in [*lines, "$switches", *rest])
        cases.append(f"        {name}) shift words; (( CURRENT-- )); _arguments -S \\\n{body};;")
    return _ZSH.format(
        commands="\n".join(f"        {shlex.quote(f'{name}:{each.help}')}" for name, each in COMMANDS.items()),
        switches="\n".join(
            f"        {shlex.quote(f'{name}[{_in_brackets(text)}]')}" for name, text in SWITCHES.items()
        ),
        cases="\n".join(cases),
    )


def _zsh_argument(flag: str, option: Option) -> str:
    about = f"{flag}[{_in_brackets(option.help)}]"
    return about if option.kind is bool else f"{about}:{option.path[-1]}:{_zsh_values(option)}"


def _zsh_rest(option: Option) -> str:
    return f"{'*' if option.many else '1'}:{option.path[-1]}:{_zsh_values(option)}"


def _zsh_values(option: Option) -> str:
    return f"({' '.join(option.choices)})" if option.choices else "_files" if option.kind is str else " "


def _in_brackets(text: str) -> str:
    return text.replace("\\", "").replace("[", "(").replace("]", ")").replace(":", "\\:")


def _fish() -> str:
    lines = ["# fish completion for raycap; made by `raycap completion fish`"]
    for name, command in COMMANDS.items():
        lines.append(f"complete -c raycap -n __fish_use_subcommand -f -a {name} -d {_fish_quote(command.help)}")
    for switch, text in SWITCHES.items():
        lines.append(f"complete -c raycap -l {switch[2:]} -d {_fish_quote(text)}")
    for name, flags, positional in _commands():
        when = f"complete -c raycap -n '__fish_seen_subcommand_from {name}'"
        for flag, option in flags.items():
            values = "" if option.kind is bool else " -r"
            if option.choices:
                values = f" -x -a {_fish_quote(' '.join(option.choices))}"
            lines.append(f"{when} -l {flag[2:]}{values} -d {_fish_quote(option.help)}")
        lines += [f"{when} -f -a {_fish_quote(' '.join(option.choices))}" for option in positional if option.choices]
    return "\n".join(lines) + "\n"


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_SCRIPTS: Final[Mapping[str, Callable[[], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
