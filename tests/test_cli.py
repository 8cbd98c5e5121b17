"""The command line, as a person runs it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raycap import __version__
from raycap.arguments import parse
from raycap.cli import main
from raycap.commands import COMMANDS
from raycap.config import CaptionConfig, ExtractConfig
from raycap.options import options_of
from raycap.progress import say
from raycap.stages.extract import ExtractResult
from raycap.summaries import say_extract
from raycap.tool_config import RunConfig
from raycap.usage import EXIT_CODES, SWITCHES


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "raycap", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert f"usage: raycap {name}" in printed
    assert re.search(rf"Examples?:\n  raycap {'run' if name == 'config' else name}", printed)
    assert printed.index("Example") < printed.index("usage:")  # examples first
    assert "None" not in printed
    assert all(len(line) <= 110 for line in lines if not line.startswith("  raycap"))
    for option in options_of(COMMANDS[name].options):
        assert option.flag in printed
        assert option.help
        if isinstance(option.default, int | float) and not isinstance(option.default, bool):
            assert f"[default: {option.default}]" in re.sub(r"\s+", " ", printed)
    for switch in SWITCHES:
        assert f"  {switch}" in printed
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == printed


def test_the_help_of_raycap(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", printed, re.MULTILINE)
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in re.sub(r"\s+", " ", printed)
    readme = re.sub(r"\s+", " ", (Path(__file__).parents[1] / "README.md").read_text())
    assert all(f"{code} {meaning}" in readme for code, meaning in EXIT_CODES.items() if code < 140)


def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys; from raycap.cli import main\n"
        "main(['--help']), main(['run', '--help'])\n"
        "print(*{'ray', 'tensorflow', 'keras', 'pyarrow', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: raycap run" in answer.stdout
    assert answer.stderr.split() == []


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"raycap {__version__}\n"
    assert main([]) == 2


EVALUATE = ["evaluate", "--model", "m", "--prepared", "p", "--features", "f", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["extrct"], "there is no command 'extrct'; did you mean extract?"),
        (["fly"], "choose one of demo"),
        (["extract", "--manifst", "m", "--out", "o"], "there is no option --manifst; did you mean --manifest?"),
        (["extract", "--xyzzy"], "there is no option --xyzzy; raycap extract --help lists them"),
        (["run", "--train.epoch", "3"], "did you mean --train.epochs?"),
        (["run", "--seed", "3"], "--seed could be --prepare.seed, --extract.seed, --train.seed"),
        (["extract", "--manifest", "m"], "--out is missing: Folder to write: features/"),
        (["extract", "--out"], "--out needs a value, TEXT: Folder to write: features/"),
        (["extract", "--out", "--manifest", "m"], "--out needs a value, TEXT"),
        (["train", "--epochs", "many"], "--epochs takes a whole number, not 'many'"),
        (["train", "--epochs", "1.5"], "--epochs takes a whole number, not '1.5'"),
        (["train", "--use-gpu=maybe"], "--use-gpu takes true or false, not 'maybe'"),
        (["extract", "--dtype", "float8"], "--dtype takes float32 or float16, not 'float8'"),
        (["completion", "csh"], "SHELL takes bash, zsh or fish, not 'csh'"),
        (["extract", "stray", "--manifest", "m", "--out", "o"], "'stray' belongs to no option"),
        (["extract", "--manifest", "m", "--out", "o", "--", "--json"], "'--json' belongs to no option"),
        (["run", "gone.toml"], "there is no configuration file at gone.toml"),
        (["inspect", "gone"], "there is nothing at"),
        (["extract", "--manifest", "gone.parquet", "--out", "o"], "no manifest at"),
        (["caption", "gone.jpg", "--model", "gone"], "there is no model in"),
        (["caption", "a.jpg", "--model", "m", "--formats", "csv"], "need --out"),
        (
            ["caption", "a.jpg", "--model", "m", "--retry-failed"],
            "--retry-failed, --if-exists and --max-failure-rate need",
        ),
        (["caption", "a.jpg", "--model", "m", "--if-exists", "fail"], "need --out"),
        (["caption", "a.jpg", "--model", "m", "--num-captions", "4"], "a beam of 3 holds no 4 captions"),
        (["caption", "a.jpg", "--model", "m", "--max-failure-rate", "2"], "--max-failure-rate is 2; give 0 to 1"),
        ([*EVALUATE, "--temperature", "0"], "--temperature is 0"),
        ([*EVALUATE, "--temperature", "0.7"], "give --sample too"),
        ([*EVALUATE, "--sample-seed", "1"], "give --sample too"),
        (["export", "--model", "gone", "--to", "keras", "--out", "o"], "there is no model in"),
        (["serve", "--model", "gone"], "there is no model in"),
        (["serve", "--model", "gone", "--port", "0"], "--port is 0; give 1 to 65535"),
        (["prepare", "--captions", "gone.csv", "--photos", ".", "--out", "o"], "gone.csv"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert len(printed.err.splitlines()) == 1


def test_all_that_is_missing_is_named_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "raycap extract: --manifest and --out are missing",
        "--manifest: Parquet file with image_id and uri, as prepare writes it; --out: Folder to write: features/, "
        "failures/, run.json.",
    ]


def test_options_are_read() -> None:
    words = "--photo_timeout_s=-1.5 a.jpg --formats csv jsonl --no-fast-decode --sample --num-workers none --model m b"
    parsed = parse(CaptionConfig, words.split(), prog="raycap caption")
    assert parsed.values == {
        ("limits", "photo_timeout_s"): -1.5,
        ("output", "formats"): ("csv", "jsonl"),
        ("fast_decode",): False,
        ("decoding", "sample"): True,
        ("workers", "num_workers"): None,
        ("model",): "m",
        ("photos",): ("a.jpg", "b"),
    }
    dashes = parse(CaptionConfig, ["-", "--model", "m", "--", "--odd.jpg", "--"], prog="raycap caption")
    assert dashes.values[("photos",)] == ("-", "--odd.jpg", "--")


def test_a_list_may_be_given_in_parts() -> None:
    words = "--formats csv --model m --formats=jsonl --formats coco parquet"
    assert parse(CaptionConfig, words.split(), prog="raycap caption").values == {
        ("output", "formats"): ("csv", "jsonl", "coco", "parquet"),
        ("model",): "m",
    }


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [("extract --out o", True), ("caption p --out=o", True), ("caption p", False), ("report r --out o", False)],
)
def test_only_what_goes_on_says_so(
    words: str, goes_on: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code, says in ((KeyboardInterrupt(), 130, "interrupted"), (OSError("full"), 1, "cannot read or write")):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("raycap.cli._run", fail)
        assert main(words.split()) == code
        said = capsys.readouterr().err
        assert says in said
        assert ("the same command goes on" in said) is goes_on


def test_a_prefix_may_be_left_out_where_one_option_alone_has_the_name() -> None:
    words = "--epochs 5 --train.seed 2 --evaluate.beam-width 7 --train.no-use-gpu --no-report --out o --captions a b"
    values = parse(RunConfig, words.split(), prog="raycap run").values
    assert values == {
        ("train", "epochs"): 5,
        ("train", "seed"): 2,
        ("evaluate", "decoding", "beam_width"): 7,
        ("train", "use_gpu"): False,
        ("report",): False,
        ("out",): "o",
        ("prepare", "captions"): ("a", "b"),
    }


def test_switches_go_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "doctor", "--no-start"]) in (0, 1)
    before = json.loads(capsys.readouterr().out)
    assert main(["doctor", "--no-start", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out).keys() == before.keys()
    assert main(["--quiet", "doctor", "--no-start"]) in (0, 1)
    assert capsys.readouterr() == ("", "")
    assert "RAYCAP_JSON" not in os.environ


def test_nobody_reads_to_the_end() -> None:
    command = f"{sys.executable} -m raycap caption --help | head -n 1"
    answer = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert answer.stderr == ""
    assert answer.stdout == "Caption photos, straight from pixels, with a Ray Data job.\n"


def test_what_failed_is_said_by_reason_in_the_singular_and_the_plural() -> None:
    config = ExtractConfig(manifest="m", out="o")
    reasons = {"ImageMissingError": 1, "ImageDecodeError": 2}
    three = ExtractResult(num_features=1, num_failures=3, num_new=4, reasons=reasons)
    assert say_extract(three, config).splitlines() == [
        "1 feature in o (4 photos in this run)",
        "3 photos failed: 2 ImageDecodeError, 1 ImageMissingError; see o/failures",
    ]
    one = ExtractResult(num_features=2, num_failures=1, num_new=1, reasons={"ImageEmptyError": 1})
    assert say_extract(one, config).splitlines() == [
        "2 features in o (1 photo in this run)",
        "1 photo failed: 1 ImageEmptyError; see o/failures",
    ]


def test_debug_shows_where() -> None:
    answer = run("extract", "--manifest", "gone.parquet", "--out", "o", "--debug")
    assert answer.returncode != 0
    assert "Traceback" in answer.stderr
    assert "Traceback" not in run("extract", "--manifest", "gone.parquet", "--out", "o").stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device", "/out/part"),
            "cannot read or write: [Errno 28] No space left on device: '/out/part'; once that is mended",
        ),
        (
            RuntimeError("ray::map()\n  File x, line 3\nMemoryError: too much"),
            "MemoryError: too much (RuntimeError); --debug",
        ),
        (KeyError("file"), "'file' (KeyError); --debug shows where it comes from"),
        (ValueError(), "ValueError() (ValueError); --debug"),
    ],
)
def test_errors_that_are_not_ours_get_one_line_too(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: object) -> None:
        raise error

    monkeypatch.setattr("raycap.stages.extract.extract", fail)
    command = ["extract", "--manifest", "m", "--out", "o"]
    assert main(command) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"raycap extract: {said}")
    with pytest.raises(type(error)):
        main([*command, "--debug"])


def test_every_stage_through_the_command_line(
    ray_cluster: None,
    photo_folder: Path,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The README's commands in a row; the cluster is the tests' own."""
    monkeypatch.chdir(tmp_path)
    captions = str(photo_folder.parent / "captions.csv")
    stages = [
        f"prepare --captions {captions} --photos {photo_folder} --out work/prepared --keep-one-letter-words",
        f"extract --manifest work/prepared/photos.parquet --encoder {encoder_file} --out work/features",
        "train --prepared work/prepared --features work/features --out work/model --units 16 --epochs 2",
        "evaluate --model work/model --prepared work/prepared --features work/features --out work/scores "
        "--meteor-timeout-s 0",
    ]
    says = ["train 32 photos, 64 captions", "48 features in work/features", "model in work/model/bundle", "BLEU-4"]
    for stage, expected in zip(stages, says, strict=True):
        assert main(stage.split()) == 0
        assert expected in capsys.readouterr().out
    photo = str(sorted(photo_folder.iterdir())[0])
    assert main(["caption", photo, "--model", "work/model"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("000 square.png\t")

    # for scripts: JSON, exit codes, and nothing that was not asked for
    folder = tmp_path / "two"
    folder.mkdir()
    shutil.copy(photo, folder)
    (folder / "broken.jpg").write_text("no photo")
    assert main([*["caption", "two", "--model", "work/model", "--json", "--quiet"]]) == 3
    printed = capsys.readouterr()
    rows = {row["image_id"]: row for row in map(json.loads, printed.out.splitlines())}
    assert rows["broken.jpg"]["error_type"] == "ImageDecodeError"
    assert rows["000 square.png"]["caption"]
    assert printed.err == ""
    command = ["caption", "two", "--model", "work/model", "--out", "work/captions"]
    assert main([*command, "--dry-run"]) == 0
    assert "2 would be captioned" in capsys.readouterr().out
    assert not (tmp_path / "work/captions").exists()
    assert main([*command, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_pending"] == 2
    assert main(command) == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "1 caption of 2 photos in work/captions (2 photos in this run)"
    assert "1 photo failed: 1 ImageDecodeError; see work/captions/failures" in printed.out
    assert main([*command, "--quiet"]) == 3  # nothing is left to do, and the failure is still there
    assert capsys.readouterr() == ("", "")
    assert "RAYCAP_QUIET" not in os.environ


def test_people_and_programs_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    say("for people")
    assert capsys.readouterr() == ("", "for people\n")
