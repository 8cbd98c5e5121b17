"""The documentation holds: its commands run, its options exist, its links lead somewhere, no command is missing."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from pages import (
    NEEDS,
    PAGES,
    ROOT,
    Block,
    blocks,
    calls_of_raycap,
    code_in_text,
    headings,
    links,
    own_test,
    read,
    words_of,
)
from PIL import Image

from raycap.arguments import flags_of, parse
from raycap.cli import main
from raycap.commands import COMMANDS
from raycap.errors import InputError
from raycap.options import build, negated
from raycap.usage import SWITCHES

# Options of other programs that the text names by themselves.
OTHERS = {
    "--working-dir": "ray job submit",
    "--runtime-env": "ray job submit",
    "--runtime-env-json": "ray job submit",
    "--require-hashes": "pip install",
    "--full": "benchmarks/*.py",
    "--check": "docs/make_reference.py",
}
# What the tests add where a command does not say it: ImageNet weights are a download, and the whole demo takes minutes.
ADDED = {
    "extract": ("--encoder", "ENCODER"),
    "finetune": ("--encoder", "WITH_WEIGHTS"),
    "run": ("--extract.encoder", "ENCODER"),
    "demo": ("--num-train", "24", "--num-dev", "8", "--num-test", "8"),
}
# Commands that run until they are stopped; tests of their own run them.
ENDLESS = {"serve"}
# Outputs that a page may use without having made them; those that it makes are not there before.
MADE_BEFORE = {"prepared": "prepared", "features": "features", "vgg16": "features", "model": "model", "new": "model"}
OF_A_RUN = ("prepared", "features", "model", "scores")
MADE_BY = {
    "work/scores": "evaluate --model work/model --prepared work/prepared --features work/features --out work/scores",
    "work/other-scores": "evaluate --model work/model --prepared work/prepared --features work/features "
    "--beam-width 1 --out work/other-scores",
    "work/captions": "caption holiday/ --model work/model --out work/captions",
}


def what_runs() -> dict[str, list[Block]]:
    """Return what is run together: a page from top to bottom, but each example of the reference by itself."""
    found: dict[str, list[Block]] = {}
    for page in PAGES:
        run = [each for each in blocks(page) if each.language in {"sh", "python"} and not each.needs]
        if page == "docs/reference.md":
            found |= {each.where: [each] for each in run}
        elif run and not own_test(page):
            found[page] = run
    return found


RUNNING = what_runs()


# What is shown


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in headings(file.resolve().relative_to(ROOT).as_posix())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    named = re.findall(
        r"\b(?:docs|tests|raycap|jobs|benchmarks|deploy|examples)/[\w/.-]+\.(?:py|md|sh|yaml|png)\b", read(page)
    )
    named = [name for name in named if not Path(name).stem.isupper()]  # jobs/STAGE.py
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_index() -> None:
    indexed = {target.partition("#")[0] for target in links("docs/README.md")}
    assert {Path(page).name for page in PAGES if page.startswith("docs/")} - {"README.md"} <= indexed


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are_and_what_they_need(page: str) -> None:
    for block in blocks(page):
        assert block.language, f"{block.where}: say sh, python, text or another language"
        assert set(block.needs) <= NEEDS.keys(), block.where


@pytest.mark.parametrize("page", [page for page in PAGES if own_test(page)])
def test_a_page_with_a_test_of_its_own_is_run_there(page: str) -> None:
    assert Path(page).name in read(str(own_test(page)))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_is_undocumented(command: str) -> None:
    shown = [
        call
        for page in PAGES
        if page != "docs/reference.md"
        for block in blocks(page)
        if block.language == "sh"
        for line in block.commands
        for call in calls_of_raycap(line)
    ]
    assert command in {call[0] for call in shown if call}, f"no page shows raycap {command}"


# What is said of options


@cache
def options_of(command: str) -> frozenset[str]:
    flags = flags_of(COMMANDS[command].options)
    return frozenset([*flags, *map(negated, flags), *SWITCHES, "--version"])


def options_in(words: list[str]) -> set[str]:
    """Return the options among words; `--no-NAME` stands for many, and is none."""
    return {word.partition("=")[0] for word in words if re.match(r"--[a-z][a-z-]*(=|$)", word)}


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page: str) -> None:
    everywhere = frozenset[str]().union(*map(options_of, COMMANDS))
    for code in code_in_text(page):
        first, *rest = code.split()
        if first == "raycap" and rest and rest[0] in COMMANDS:
            assert options_in(rest) <= options_of(rest[0]), code
        elif first in COMMANDS:
            assert options_in(rest) <= options_of(first), code
        elif first.startswith("--") or first == "raycap":
            assert options_in(code.split()) <= everywhere | OTHERS.keys(), code
        if first == "raycap" and rest and re.fullmatch(r"[a-z]+", rest[0]):
            assert rest[0] in COMMANDS, code


@pytest.mark.parametrize("page", PAGES)
def test_commands_take_the_options_that_they_are_shown_with(page: str) -> None:
    for block in blocks(page):
        for call in (
            [call for line in block.commands for call in calls_of_raycap(line)] if block.language == "sh" else []
        ):
            if not call or call[0].startswith("-"):
                assert options_in(call) <= {*SWITCHES, "--version"}, block.where
                continue
            assert call[0] in COMMANDS, f"{block.where}: there is no command {call[0]}"
            given, options = [word for word in call[1:] if word not in SWITCHES], COMMANDS[call[0]].options
            if "..." in given or "--help" in call:
                assert options_in(given) <= options_of(call[0]), block.where
                continue
            try:
                parsed = parse(options, given, prog="raycap")
                if not parsed.others and call[0] != "config":
                    build(options, parsed.values)
            except InputError as error:
                pytest.fail(f"{block.where}: raycap {' '.join(call)}\n{error}")
            assert not [word for word in parsed.others if not word.endswith(".toml")], block.where


def test_rays_own_options_exist() -> None:
    from ray.dashboard.modules.job.cli import submit

    known = {option for each in submit.params for option in each.opts}
    assert {option for option, program in OTHERS.items() if program == "ray job submit"} <= known


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    shown = [code for code in code_in_text(page) if code.startswith("make ")]
    shown += [
        line for block in blocks(page) if block.language == "sh" for line in block.commands if line.startswith("make ")
    ]
    for line in shown:
        target = words_of(line)[1]
        assert re.search(rf"^{re.escape(target)}:", read("Makefile").replace("$(READY)", ".venv/.ready"), re.M), line


# What is run


@pytest.fixture
def sandbox(
    tmp_path: Path,
    photo_folder: Path,
    encoder_file: Path,
    untrained_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> SimpleNamespace:
    """A folder with what a reader of the pages has: photos, captions of them, and Flickr8k's files in small."""
    (tmp_path / "work").mkdir()
    shutil.copytree(photo_folder, tmp_path / "photos")
    shutil.copy(photo_folder.parent / "captions.csv", tmp_path)
    (tmp_path / "holiday/beach").mkdir(parents=True)
    for name, photo in zip(("sea", "hills", "beach/dog", "beach/kite"), sorted(photo_folder.iterdir()), strict=False):
        Image.open(photo).save(tmp_path / "holiday" / f"{name}.jpg")
    write_small_flickr8k(tmp_path)
    for folder in (".zfunc", ".config/fish/completions"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    files = {"encoder": str(encoder_file), "with_weights": str(untrained_file)}
    return SimpleNamespace(folder=tmp_path, **files, fixture=request.getfixturevalue)


def write_small_flickr8k(folder: Path) -> None:
    """Write files as Flickr8k's authors give them, of the photos and captions that are there."""
    rows = [line.split(",") for line in (folder / "captions.csv").read_text().splitlines()[1:]]
    text, photos = folder / "Flickr8k_text", folder / "Flicker8k_Dataset"
    text.mkdir()
    photos.mkdir()
    tokens, splits = [], {"train": [], "dev": [], "test": []}
    for number, (name, caption, split) in enumerate(rows):
        jpeg = name.replace(" ", "_").replace(".png", ".jpg")
        tokens.append(f"{jpeg}#{number % 2}\t{caption}\n")
        if number % 2 == 0:
            shutil.copy(folder / "photos" / name, photos / jpeg)  # a PNG by its bytes, which is what counts
            splits[split].append(f"{jpeg}\n")
    (text / "Flickr8k.token.txt").write_text("".join(tokens))
    for split, names in splits.items():
        (text / f"Flickr_8k.{split}Images.txt").write_text("".join(names))
    options = f'captions = ["{text.name}"]\nphotos = "{photos.name}"\n'
    (folder / "flickr8k.toml").write_text(f'out = "work/flickr8k"\n\n[prepare]\n{options}')


def lay_out(shown: list[Block], sandbox: SimpleNamespace) -> None:
    """Put what the blocks use, and do not make themselves, where they look for it."""
    text = "\n".join(block.text for block in shown)
    makes = set(re.findall(r"--out (\S+)", text))
    makes |= {f"{out}/{name}" for out in re.findall(r"raycap run [^\n]*--out (\S+)", text) for name in OF_A_RUN}
    before = [command for out, command in MADE_BY.items() if out not in makes and out in text]
    used = "\n".join([text, *before])
    for name, fixture in MADE_BEFORE.items():
        if f"work/{name}" not in makes and f"work/{name}" in used:
            shutil.copytree(sandbox.fixture(fixture), sandbox.folder / "work" / name)
    for command in before:
        assert main(command.split()) == 0


def run_raycap(call: list[str], sandbox: SimpleNamespace, stdin: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, on the Ray that is there; return its exit code."""
    name, encoder = call[0] if call else "", sandbox.encoder
    if name == "run" and "best" in call:  # it needs a feature map, and would train long
        call, encoder = [*call, "--num-members", "1", "--epochs", "1", "--finetune-epochs", "1"], sandbox.with_weights
    if name in ENDLESS and "--help" not in call:
        return 0
    if name in ADDED and ADDED[name][0] not in call and "--help" not in call:
        encoders = {"ENCODER": encoder, "WITH_WEIGHTS": sandbox.with_weights}
        call = [*call, *(encoders.get(word, word) for word in ADDED[name])]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    try:
        return main(call)
    except SystemExit as ended:
        return int(ended.code or 0)


def run_shell(block: Block, sandbox: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a shell block: command by command in this process, or by bash where it is more than commands of raycap."""
    lines = [line for line in block.commands if not line.startswith("make ")]  # those are other tests' affair
    calls = []
    for line in lines:
        before, _, last = line.rpartition(" | ")
        if not last.startswith("raycap ") or set("<>&;$|`") & set("".join(words_of(last))):
            break
        calls.append((before, calls_of_raycap(last)[0]))
    if len(calls) < len(lines):
        bash = ["bash", "-euo", "pipefail", "-c", block.text]
        home = os.environ | {"HOME": str(sandbox.folder)}
        answer = subprocess.run(bash, env=home, capture_output=True, text=True, check=False)
        assert answer.returncode == block.exit_code, f"{block.where}\n{answer.stdout}\n{answer.stderr}"
        return
    for number, (before, call) in enumerate(calls):
        stdin = subprocess.run(["bash", "-c", before], capture_output=True, check=True).stdout if before else b""
        expected = block.exit_code if number == len(calls) - 1 else 0
        code = run_raycap(call, sandbox, stdin, monkeypatch)
        assert code == expected, f"{block.where}: raycap {' '.join(call)} ended with {code}"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNING)
def test_what_is_shown_runs(
    name: str, ray_cluster: None, sandbox: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(RUNNING[name], sandbox)
    names: dict[str, object] = {}
    for block in RUNNING[name]:
        if block.language == "sh":
            run_shell(block, sandbox, monkeypatch)
        else:
            exec(compile(block.text, block.where, "exec"), names)


@pytest.mark.slow
def test_the_tutorials_script_runs(sandbox: SimpleNamespace) -> None:
    script = ["bash", "docs/flickr8k.sh", "Flickr8k_text", "Flicker8k_Dataset", "work/small", "dev", sandbox.encoder]
    answer = subprocess.run(script, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "BLEU-4" in answer.stdout
    assert (sandbox.folder / "work/small/scores-dev/scores.json").exists()


# What is quoted


def messages() -> list[str]:
    r"""Return the texts in raycap's code, with `\0` where something is put in."""
    found = []
    for path in (ROOT / "raycap").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [*found, read("Makefile")]


def test_the_messages_that_are_explained_are_the_codes() -> None:
    symptoms = re.findall(r"^\| (`.+?`.*?) \|", read("docs/troubleshooting.md"), re.M)
    quoted = [code for symptom in symptoms for code in re.findall(r"`([^`]+)`", symptom) if " " in code]
    code = messages()
    assert len(quoted) > 30
    for message in set(quoted) - {"No module named 'tensorflow'"}:
        pieces = [piece.strip() for piece in message.split("...") if piece.strip()]
        pattern = re.compile(".*".join(map(re.escape, pieces)), re.S)
        assert any(pattern.search(text) for text in code), f"raycap does not say {message!r}"
