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
from raycap.cli import main
from raycap.progress import say


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "raycap", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "stage", ["prepare", "extract", "train", "evaluate", "caption", "export", "serve", "demo", "report"]
)
def test_help_of_every_stage(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: raycap {stage}" in printed
    assert ("--out" in printed) == (stage != "serve")
    assert re.search(rf"Examples?:\s+raycap {stage}", printed)
    assert main(["--help"]) == 0
    assert f"  {stage}" in capsys.readouterr().out


def test_version_and_no_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"raycap {__version__}\n"
    assert main([]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["extrct"], "did you mean extract?"),
        (["fly"], "choose one of prepare"),
        (["extract", "--manifest", "gone.parquet", "--out", "o"], "no manifest at"),
        (["caption", "gone.jpg", "--model", "gone"], "there is no model in"),
        (["caption", "a.jpg", "--model", "m", "--formats", "csv"], "need --out"),
        (["caption", "a.jpg", "--model", "m", "--num-captions", "4"], "a beam of 3 holds no 4 captions"),
        (["caption", "a.jpg", "--model", "m", "--max-failure-rate", "2"], "--max-failure-rate is 2; give 0 to 1"),
        (
            ["evaluate", *["--model", "m", "--prepared", "p", "--features", "f", "--out", "o", "--temperature", "0"]],
            "--temperature is 0",
        ),
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


def test_a_misspelt_option_suggests_the_right_one() -> None:
    answer = run("extract", "--manifst", "m.parquet", "--out", "o")
    assert answer.returncode == 2
    assert "--manifest" in answer.stderr + answer.stdout


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
    assert printed.out.splitlines()[0] == "1 captions of 2 photos in work/captions (2 photos in this run)"
    assert "1 photos failed: see work/captions/failures" in printed.out
    assert main([*command, "--quiet"]) == 3  # nothing is left to do, and the failure is still there
    assert capsys.readouterr() == ("", "")
    assert "RAYCAP_QUIET" not in os.environ


def test_people_and_programs_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    say("for people")
    assert capsys.readouterr() == ("", "for people\n")
