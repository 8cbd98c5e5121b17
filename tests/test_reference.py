"""docs/reference.md is what the code says, and says what the command line takes."""

import importlib.util
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from raycap.cli import main

ROOT = Path(__file__).parents[1]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_reference = _load()
COMMANDS = make_reference.commands()


def test_the_page_is_what_the_code_says() -> None:
    assert make_reference.PAGE.read_text("utf-8") == make_reference.reference(), "run make docs"


def test_every_command_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    listed = re.findall(r"^  ([a-z]+) {2,}\S", capsys.readouterr().out, re.M)
    assert len(listed) >= 6
    assert set(listed) - {"help"} == {command.name for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_options_are_those_of_the_command_line(command) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(command.config, config=(tyro.conf.OmitArgPrefixes,))
    taken = {name for action in parser._actions for name in action.option_strings}
    taken -= {"-h", "--help"} | {f"--no-{name[2:]}" for name in taken}
    tables = [command.options, *map(make_reference.options_of, command.groups)]
    options = [option for table in tables for option in table]
    assert {option.name for option in options if option.name.startswith("--")} == taken
    for option in options:
        assert option.help, f"{option.name} of {command.name} has no help"
        assert option.kind
