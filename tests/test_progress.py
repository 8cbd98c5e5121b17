import re

import pytest

from raycap import progress
from raycap.progress import Progress, say


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def often(monkeypatch):
    """A line at every update, rather than every ten seconds."""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)


def lines(capsys):
    """What was said, without the rates and the times left."""
    captured = capsys.readouterr()
    assert captured.out == ""  # standard output is for results
    assert "\x1b" not in captured.err
    assert "\r" not in captured.err
    said = [re.sub(r"\d+\.\d (\w+/s)", r"R \1", line) for line in captured.err.splitlines()]
    return [re.sub(r", \d+:\d\d:\d\d left", "", line) for line in said]


def test_say_writes_to_standard_error(capsys):
    say("epoch 1: läuft")
    assert lines(capsys) == ["epoch 1: läuft"]


def test_lines_without_a_terminal(capsys, often):
    with Progress("extract", 10, unit="photos") as bar:
        bar.update(4)
        bar.update(8, note="1 failed")
        bar.update(10)
    assert lines(capsys) == [
        "extract: 4/10 photos, R photos/s",
        "extract: 8/10 photos, R photos/s, 1 failed",
        "extract: 10/10 photos, R photos/s",  # once, though it is the last update and the end
    ]


def test_a_short_run_says_only_its_end(capsys):
    with Progress("extract", 10, unit="photos") as bar:
        for done in range(1, 11):
            bar.update(done)
    assert lines(capsys) == ["extract: 10/10 photos, R photos/s"]


@pytest.mark.parametrize("done", [0, 7, 10])
def test_a_run_that_does_nothing_says_nothing(capsys, done):
    with Progress("extract", 10, unit="photos", done=done):
        pass
    with Progress("extract", 10, unit="photos", done=done) as bar:
        bar.update(done)
    assert lines(capsys) == []


def test_no_line_comes_twice(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))  # four seconds pass between any two looks at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress("extract", 12, unit="photos") as bar:
        for done in range(1, 13):
            bar.update(done)
    said = lines(capsys)
    assert len(said) == len(set(said)) > 1
    assert said[-1].startswith("extract: 12/12")


def test_lines_come_every_ten_seconds(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("extract", 100, unit="photos") as bar:
        for second in range(1, 36):
            now = float(second)
            bar.update(second)
    assert capsys.readouterr().err.splitlines() == [
        f"extract: {done}/100 photos, 1.0 photos/s, 0:0{left} left"
        for done, left in ((10, "1:30"), (20, "1:20"), (30, "1:10"), (35, "1:05"))
    ]


def test_the_rate_counts_this_run_only(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("extract", 100, unit="photos", done=50) as bar:
        now = 20.0
        bar.update(90)
    assert capsys.readouterr().err == "extract: 90/100 photos, 2.0 photos/s, 0:00:05 left\n"


def test_the_rate_leaves_start_up_out(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("extract", 1000, unit="photos") as bar:
        now = 60.0  # models start
        bar.update(16)
        now = 64.0
        bar.update(36)
        assert bar.rate == 5.0
        now = 70.0
        bar.update(66)
    assert capsys.readouterr().err.splitlines() == [
        "extract: 16/1000 photos, 0.3 photos/s, 1:01:30 left",  # nothing else to go by
        "extract: 66/1000 photos, 5.0 photos/s, 0:03:07 left",
    ]


def test_a_new_label_starts_the_rate_anew(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("train", 100, unit="captions") as bar:
        now = 10.0
        bar.update(100, label="train")
        bar.update(0, label="epoch 2/20")
        now = 30.0
        bar.update(60, label="epoch 2/20")
    assert capsys.readouterr().err.splitlines() == [
        "train: 100/100 captions, 10.0 captions/s",
        "epoch 2/20: 60/100 captions, 3.0 captions/s, 0:00:13 left",
    ]


def test_quiet_says_nothing(capsys, often, monkeypatch):
    monkeypatch.setenv("RAYCAP_QUIET", "1")
    with Progress("extract", 10, unit="photos") as bar:
        bar.update(4)
    assert lines(capsys) == []


def test_an_error_still_says_how_far_it_came(capsys):
    def work():
        with Progress("extract", 10, unit="photos") as bar:
            bar.update(3)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert lines(capsys) == ["extract: 3/10 photos, R photos/s"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("extract", 10, unit="photos", done=2) as bar:
        bar.update(10, note="1 failed")
    captured = capsys.readouterr()
    assert captured.out == ""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", captured.err)
    assert "10/10" in plain
    assert "1 failed" in plain
    assert "extract: 10/10" not in plain  # a bar, and not the line as well
