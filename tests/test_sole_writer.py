"""One run at a time on an output: locks on a disk, held by real processes, and beats on a store without locks."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from raycap import sole_writer as module
from raycap import storage
from raycap.errors import ConflictError
from raycap.sole_writer import LOCK_FILE, sole_writer

HOLD = "import sys, time; from raycap.sole_writer import sole_writer\nwith sole_writer(sys.argv[1]):\n    "


def start(out: Path, then: str) -> subprocess.Popen[str]:
    """Start a process that holds the lock and does something; return once it has said a line."""
    process = subprocess.Popen([sys.executable, "-c", HOLD + then, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def enter(out: str) -> None:
    with sole_writer(out):
        pass


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "not there yet" / "out"
    first = start(out, "print('held', flush=True); time.sleep(600)")
    try:
        with pytest.raises(ConflictError, match=rf"another run is writing .*out \(process {first.pid} on "):
            enter(str(out))
    finally:
        first.kill()
        first.wait()


def test_killed_it_holds_nothing(tmp_path: Path) -> None:
    first = start(tmp_path, "print('held', flush=True); time.sleep(600)")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with sole_writer(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_but_not_while_one_writes(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    one, two = (tmp_path / f"features/.tmp-{digit * 32}-part.parquet" for digit in "12")
    write = f"open({str(one)!r}, 'w'); print('held', flush=True); time.sleep(600)"
    first = start(tmp_path, write)
    with pytest.raises(ConflictError):
        enter(str(tmp_path))
    assert one.exists()
    first.kill()
    first.wait()
    with sole_writer(str(tmp_path)):
        assert not one.exists()
        two.touch()  # a worker of ours, killed
    assert not two.exists()


def test_processes_take_turns_and_none_is_inside_with_another(tmp_path: Path) -> None:
    """Each that gets in adds one to a number, in two steps; had two been inside at once, one would be lost."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "number").write_text("0")
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from raycap.errors import ConflictError\n"
        "from raycap.sole_writer import sole_writer\n"
        "number, entered = Path(sys.argv[2]), 0\n"
        "while entered < 100:\n"
        "    try:\n"
        "        with sole_writer(sys.argv[1]):\n"
        "            value = int(number.read_text()); time.sleep(0.0002); number.write_text(str(value + 1))\n"
        "            entered += 1\n"
        "    except ConflictError:\n"
        "        time.sleep(0.0001)\n"
    )
    command = [sys.executable, "-c", code, str(out), str(tmp_path / "number")]
    for process in [subprocess.Popen(command) for _ in range(4)]:
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "number").read_text() == "400"
    assert list(out.iterdir()) == []


def test_a_lock_that_is_removed_while_it_is_looked_at_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that held it ends at that moment, and a third may have a lock of its own by then."""
    look, removed = os.fstat, []

    def removing(descriptor: int) -> os.stat_result:
        if not removed:
            removed.append(True)
            os.remove(tmp_path / LOCK_FILE)
        return look(descriptor)

    monkeypatch.setattr(module.os, "fstat", removing)
    with sole_writer(str(tmp_path)):
        assert (tmp_path / LOCK_FILE).exists()
    assert removed


def test_an_error_inside_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), sole_writer(str(tmp_path)):
        raise RuntimeError("mine")
    with sole_writer(str(tmp_path)):
        pass


def test_without_a_place_for_a_lock_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with sole_writer(str(tmp_path / "file")):
        pass
    assert (tmp_path / "file").read_text() == ""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> str:
    """A store without locks, in memory, with beats every 50 ms."""
    memory = fs._MockFileSystem()
    memory.create_dir("out")
    monkeypatch.setattr(module, "_BEAT_S", 0.05)
    monkeypatch.setattr(storage, "resolve", lambda uri: (memory, uri.removeprefix("store://")))
    return "store://out"


LOCK = f"store://out/{LOCK_FILE}"
ANOTHERS = {"who": "process 1 on elsewhere", "token": "x", "beat": 7}


def test_beats_keep_a_second_run_off(store: str) -> None:
    with sole_writer(store):
        before = storage.read_json(LOCK)["beat"]
        with pytest.raises(ConflictError, match=rf"another run is writing store://out \(process {os.getpid()} on "):
            enter(store)
        assert storage.read_json(LOCK)["beat"] > before
    assert not storage.exists(LOCK)


def test_a_run_that_no_longer_beats_is_dead(store: str) -> None:
    storage.write_json(LOCK, ANOTHERS)
    started = time.monotonic()
    with sole_writer(store):
        assert time.monotonic() - started >= 0.15
    assert not storage.exists(LOCK)


@pytest.mark.parametrize("apart_s", [0.0, 0.01, 0.02])
def test_of_two_that_begin_at_once_one_goes_on(apart_s: float, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.2)
    inside: list[int] = []
    refused: list[int] = []
    both = threading.Barrier(2)

    def run(number: int) -> None:
        both.wait()
        time.sleep(number * apart_s)
        try:
            with sole_writer(store):
                inside.append(number)
                time.sleep(1.5)  # for longer than the other looks on
        except ConflictError:
            refused.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert (len(inside), len(refused)) == (1, 1)
    assert not storage.exists(LOCK)


def test_a_run_that_was_taken_for_dead_is_ended(store: str) -> None:
    went_on = False

    def run() -> None:
        nonlocal went_on
        with sole_writer(store):
            storage.write_json(LOCK, ANOTHERS)
            time.sleep(10)
            went_on = True

    with pytest.raises(ConflictError, match="another run took over store://out"):
        run()
    assert not went_on
    assert storage.read_json(LOCK) == ANOTHERS, "the other's lock was removed"


def test_in_another_thread_it_is_told_at_its_end(store: str) -> None:
    told: list[str] = []

    def run() -> None:
        try:
            with sole_writer(store):
                storage.write_json(LOCK, ANOTHERS)
                time.sleep(0.3)
        except ConflictError as error:
            told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=10)
    assert len(told) == 1
    assert "took over store://out" in told[0]


def test_interrupted_by_a_person_it_is_no_conflict(store: str) -> None:
    with pytest.raises(KeyboardInterrupt), sole_writer(store):
        raise KeyboardInterrupt
    assert not storage.exists(LOCK)


def test_a_damaged_lock_is_nobodys(store: str) -> None:
    storage.write_text(LOCK, "{")
    enter(store)
    assert not storage.exists(LOCK)
