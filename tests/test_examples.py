"""The scripts in examples/, run as a person runs them; that of a cluster is run in test_jobs.py, where there is one."""

import runpy
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    """Run a script, in this process for the Ray that is there."""
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join((EXAMPLES.parent / "tests" / name).read_text() for name in ("test_examples.py", "test_jobs.py"))
    assert [path.name for path in EXAMPLES.iterdir() if path.suffix == ".py" and f'"{path.name}"' not in tests] == []


@pytest.mark.slow
def test_train_on_your_photos(
    ray_cluster: None,
    photo_folder: Path,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    captions = photo_folder.parent / "captions.csv"
    run(monkeypatch, "train_on_your_photos.py", captions, photo_folder, tmp_path / "work", encoder_file)
    printed = capsys.readouterr().out
    assert printed.startswith("48 photos; what does not fit: nothing\nbest after epoch ")
    assert "model\n" in printed
    assert "square.png: " in printed


def test_caption_a_folder(
    ray_cluster: None,
    model: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    for photo in sorted(photo_folder.iterdir())[:3]:
        shutil.copy(photo, folder)
    (folder / "broken.jpg").write_text("no photo")
    run(monkeypatch, "caption_a_folder.py", model, folder, tmp_path / "captions")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 captions of 4 photos"
    assert lines[1].startswith("no caption of ")
    assert lines[1].endswith("broken.jpg: not an image, or of a kind that Pillow does not know")
    assert sum("square" in line for line in lines[3:]) == 3


def test_use_features_elsewhere(
    features: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "use_features_elsewhere.py", features, "000 square.png")
    nearest = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(nearest) == 5
    assert all(number // 4 % 2 == 0 for number in nearest)  # squares on the same side
