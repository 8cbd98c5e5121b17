"""The command line: `raycap <command>`; reads options, runs the command, says what came of it. Nothing else."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

from raycap.arguments import Parsed, nearest, parse
from raycap.commands import COMMANDS, Command, by_group
from raycap.errors import InputError, RaycapError
from raycap.options import build
from raycap.progress import is_quiet, printable, say, show, show_json
from raycap.summaries import say_plan
from raycap.usage import SWITCHES, command_page, main_page

_EXIT_DONE, _EXIT_FAILED, _EXIT_INPUT, _EXIT_INTERRUPTED, _EXIT_UNREAD = 0, 1, 2, 130, 141
_VARIABLES = {"--verbose": "RAYCAP_VERBOSE", "--quiet": "RAYCAP_QUIET", "--json": "RAYCAP_JSON"}
_RESUMED = frozenset(("prepare", "extract", "finetune", "train", "evaluate", "run", "demo"))
_HELP = frozenset(("-h", "--help"))
_USAGE = {"run": "[CONFIG.toml] [OPTIONS]", "config": "[CONFIG.toml] [OPTIONS]"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Args:
        arguments: without the program's name; by default, this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)  # what comes after is no switch
    switches = {each for each in given[:end] if each in {*SWITCHES, *_HELP}}
    words = [each for each in given[:end] if each not in switches] + given[end:]
    with _switched_on(switches):
        try:
            return _run(words, wants_help=bool(switches & _HELP))
        except KeyboardInterrupt:
            goes_on = "; the same command goes on from here" if _is_resumed(words) else ""
            say(f"{_prog(words)}: interrupted{goes_on}", always=True)
            return _EXIT_INTERRUPTED
        except BrokenPipeError:  # who read standard output, such as head, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _EXIT_UNREAD
        except Exception as error:
            if "--debug" in switches:
                raise
            own = isinstance(error, RaycapError)
            said = str(error) if own else _in_a_line(error, is_resumed=_is_resumed(words))
            say(f"{_prog(words)}: {said}", always=True)
            return _EXIT_INPUT if isinstance(error, InputError) else _EXIT_FAILED


def _prog(words: Sequence[str]) -> str:
    return f"raycap {words[0]}" if words and words[0] in COMMANDS else "raycap"


def _is_resumed(words: Sequence[str]) -> bool:
    """Whether a command that ends early goes on when it is given again; caption without --out keeps no record."""
    if words[:1] == ["caption"]:
        return any(word.partition("=")[0] == "--out" for word in words)
    return bool(words) and words[0] in _RESUMED


def _in_a_line(error: Exception, *, is_resumed: bool) -> str:
    """Return what a person needs of an error that is not raycap's own; Ray's end with the line that counts."""
    last = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
    if isinstance(error, OSError):
        if is_resumed:
            return f"cannot read or write: {last}; once that is mended, the same command goes on"
        return f"cannot read or write: {last}"
    return f"{last} ({type(error).__name__}); --debug shows where it comes from"


@contextmanager
def _switched_on(switches: set[str]) -> Iterator[None]:
    """Set the environment variables of the switches that are given, which workers see too, while the block runs."""
    was = dict(os.environ)
    os.environ.update({variable: "1" for switch, variable in _VARIABLES.items() if switch in switches})
    if not os.environ.get("RAYCAP_VERBOSE"):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        yield
    finally:
        for variable in _VARIABLES.values():
            os.environ.pop(variable, None)
        os.environ.update(was)


def _run(words: Sequence[str], *, wants_help: bool) -> int:
    if "--version" in words[:1]:
        from raycap import __version__

        show(f"raycap {__version__}")
        return _EXIT_DONE
    name, options = (words[0], words[1:]) if words else ("", [])
    if name == "help":
        name, options, wants_help = (options[0] if options else ""), [], True
    if not name:
        show(main_page(by_group()))
        return _EXIT_DONE if wants_help else _EXIT_INPUT
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        raise InputError(
            f"there is no command {name!r}; "
            + (f"did you mean {near}?" if near else f"choose one of {', '.join(COMMANDS)}")
        )
    command, prog = COMMANDS[name], f"raycap {name}"
    if wants_help:
        show(command_page(command.options, prog=prog, usage=_USAGE.get(name)))
        return _EXIT_DONE
    return _start(name, command, parse(command.options, options, prog=prog))


def _start(name: str, command: Command, given: Parsed) -> int:
    values, others = given.values, list(given.others)
    if name in {"run", "config"} and others:
        from raycap.config_file import read

        values = {**read(others.pop(0), command.options), **values}
    if hasattr(command.options, "preset"):
        from raycap.presets import preset_of

        preset = values.get(("preset",), "tutorial")
        values = {**preset_of(preset, decoding_alone=name not in {"run", "config"}), **values}
    if others:
        raise InputError(f"{others[0]!r:.60} belongs to no option; raycap {name} --help lists them")
    if name == "config":
        show(command.run(values))
        return _EXIT_DONE
    config: Any = build(command.options, values)
    if name == "caption":
        return _caption(command, config)
    result = command.run(config)
    _print_result(result, command.say(result, config))
    return command.exit_code(result)


def _print_result(result: Any, text: str) -> None:
    """Print what came of a command, on standard output."""
    if _as_json() and is_dataclass(result):
        show_json(asdict(result))  # type: ignore[arg-type]
    elif not is_quiet():
        show(text)


def _as_json() -> bool:
    return bool(os.environ.get("RAYCAP_JSON"))


def _caption(command: Command, config: Any) -> int:
    from raycap.stages.caption import caption, plan

    if config.dry_run:
        planned = plan(config)
        _print_result(planned, say_plan(planned, config))
        return _EXIT_DONE
    result = caption(config, show=_show_caption)
    line = command.say(result, config)
    if config.out:
        _print_result(result, line)
    else:
        say(line)  # standard output holds the captions
    return command.exit_code(result)


def _show_caption(row: Mapping[str, Any]) -> None:
    if _as_json():
        shown = ("image_id", "uri", "caption", "log_prob", "num_tokens", "alternatives", "width", "height")
        failed = ("image_id", "uri", "error_type", "error_message")
        names = [name for name in (shown if row["error_type"] is None else failed) if name in row]
        show_json({name: row[name] for name in names})
        return
    name = printable(row["image_id"])
    if row["error_type"] is None:
        show(f"{name}\t{printable(row['caption'])}\t{row['log_prob']:.3f}")
    else:
        say(f"{name}: {printable(row['error_message'])} ({row['error_type']})", always=True)
