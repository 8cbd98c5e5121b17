"""docs/reference.md is what the code says, and has every option of every command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raycap.commands import COMMANDS
from raycap.options import options_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference.md"


def test_the_page_is_what_the_code_says() -> None:
    make = [sys.executable, "docs/make_reference.py", "--check"]
    answer = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_on_the_page(name: str) -> None:
    page = PAGE.read_text("utf-8")
    found = re.search(rf"^## raycap {name}$(.*?)^## ", page, re.M | re.S)
    assert found, f"{name} has no section"
    groups = page.partition("## Groups of options")[2]
    for option in options_of(COMMANDS[name].options):
        assert option.help, f"{option.flag} of {name} has no help"
        behind_a_stage = "." in option.flag[2:]
        if not behind_a_stage and "Takes the options of" not in found[1]:
            assert f"| `{option.flag}` |" in found[1] + groups
