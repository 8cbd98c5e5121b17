"""Completion scripts, in the shells themselves where they are there."""

import shlex
import shutil
import subprocess

import pytest

from raycap.commands import COMMANDS
from raycap.completion import completion
from raycap.options import options_of
from raycap.tool_config import CompletionConfig

ASK = """
source /dev/stdin
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_raycap
printf '%s\\n' "${COMPREPLY[@]}"
"""


def ask_bash(*words: str) -> set[str]:
    """Return what bash offers for the last word."""
    script = completion(CompletionConfig(shell="bash"))
    answer = subprocess.run(
        ["bash", "-c", ASK, "bash", "raycap", *words], input=script, capture_output=True, text=True, check=True
    )
    assert answer.stderr == ""
    return set(answer.stdout.split())


def test_bash_completes_commands() -> None:
    assert ask_bash("") >= set(COMMANDS)
    assert ask_bash("ext") == {"extract"}
    assert ask_bash("--quiet", "ex") == {"extract", "export"}
    assert "--version" in ask_bash("--")


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_completes_the_options_of_each_command(name: str) -> None:
    flags = {option.flag for option in options_of(COMMANDS[name].options) if not option.positional}
    assert ask_bash(name, "--") >= flags | {"--json", "--help"}
    assert ask_bash(name, "file") == set()  # bash itself offers files then


def test_bash_completes_values_and_short_forms() -> None:
    assert ask_bash("extract", "--dtype", "") == {"float32", "float16"}
    assert ask_bash("run", "--extract.dtype", "float3") == {"float32"}
    assert ask_bash("run", "--epo") == {"--epochs"}
    assert ask_bash("completion", "z") == {"zsh"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_the_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    script = completion(CompletionConfig(shell=shell))  # type: ignore[arg-type]
    subprocess.run([shell, "-n"], input=script, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_every_option_is_in_the_script(shell: str) -> None:
    script = completion(CompletionConfig(shell=shell))  # type: ignore[arg-type]
    for name, command in COMMANDS.items():
        assert name in script
        for option in options_of(command.options):
            if not option.positional:
                flag = option.flag if shell == "zsh" else f"-l {option.flag[2:]} "
                assert flag in script


def test_fish_completes() -> None:
    if shutil.which("fish") is None:
        pytest.skip("there is no fish on this machine")
    script = completion(CompletionConfig(shell="fish"))

    def ask(line: str) -> set[str]:
        asked = f"{script}\ncomplete -C {shlex.quote(line)}"
        answer = subprocess.run(["fish", "-c", asked], text=True, check=True, capture_output=True)
        return {each.partition("\t")[0] for each in answer.stdout.splitlines()}

    assert ask("raycap ext") == {"extract"}
    assert ask("raycap extract --dty") == {"--dtype"}
    assert ask("raycap extract --dtype ") == {"float32", "float16"}
