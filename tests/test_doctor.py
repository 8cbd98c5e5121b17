"""`raycap doctor`, on this machine as it is and with things missing."""

import json
import os
from collections import namedtuple
from pathlib import Path

import pytest

from raycap import doctor as module
from raycap.cli import main
from raycap.doctor import Check, DoctorResult, doctor
from raycap.doctor_probes import Probe, limited_cpus, limited_memory
from raycap.tool_config import DoctorConfig
from raycap.tool_summaries import say_doctor


def checks(**options: object) -> dict[str, Check]:
    found = doctor(DoctorConfig(start=False, **options))  # type: ignore[arg-type]
    return {check.name: check for check in found.checks}


def test_this_machine_runs_the_tests_so_it_is_well() -> None:
    found = checks()
    assert [name for name, check in found.items() if check.state == "problem"] == []
    assert {"Python", "packages", "CPU", "memory", "open files", "VGG16 weights", "Java"} <= found.keys()
    assert all(check.found for check in found.values())
    assert all((check.state == "ok") == (check.advice == "") for check in found.values())


def test_tensorflow_is_tried_in_a_process_of_its_own() -> None:
    name, state, found, _ = Probe.tensorflow().answer()
    assert (name, state) == ("TensorFlow", "ok")
    assert "Keras 3." in found


@pytest.mark.slow
def test_ray_is_tried_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    name, state, found, _ = Probe.ray().answer()
    assert (name, state) == ("Ray", "ok")
    assert "started in" in found
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    _, state, _, advice = Probe.ray().answer()
    assert state == "problem"
    assert "RAY_ADDRESS=127.0.0.1:1" in advice


def test_a_process_that_dies_is_a_problem_with_its_last_words() -> None:
    dying = Probe("Ray", "raise SystemExit('no room')", lambda _: ("Ray", "ok", "", ""), "make room")
    assert dying.answer() == ("Ray", "problem", "no room", "make room")


def test_storage_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    assert checks(storage=str(tmp_path))["storage"].state == "ok"
    assert list(tmp_path.iterdir()) == []
    assert checks(storage=f"file://{tmp_path}/new")["storage"].state == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    found = checks(storage=str(tmp_path / "file" / "inside"))["storage"]
    assert found.state == "problem"
    assert "credentials" in found.advice
    assert checks(storage="nonsense://bucket")["storage"].state == "problem"


def test_damaged_weights_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert checks()["VGG16 weights"].state == "warning"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / module._WEIGHTS).write_bytes(b"half of it")
    found = checks()["VGG16 weights"]
    assert found.state == "problem"
    assert "delete it" in found.advice


def test_little_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 0)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(module, "limited_memory", lambda: 10**9)
    monkeypatch.setattr(module, "limited_cpus", lambda: 0.5)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    found = checks()
    assert found["memory"].state == "problem"
    assert found["CPU"].state == "warning"
    assert found["disk, here"].state == "warning"
    assert found["Java"].state == "warning"
    if "shared memory" in found:
        assert "--shm-size" in found["shared memory"].advice
    monkeypatch.setattr(module, "_version", lambda name: "0.1" if name == "ray" else None)
    found = checks()
    assert "ray 0.1, wanted" in found["packages"].found
    assert found["TensorFlow"].found == "no TensorFlow"


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({"memory.max": "2147483648", "cpu.max": "150000 100000"}, 2**31, 1.5),
        ({"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            1000,
            0.5,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_containers(tmp_path: Path, files: dict[str, str], memory: int | None, cpus: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert limited_memory(str(tmp_path)) == memory
    assert limited_cpus(str(tmp_path)) == cpus


def test_a_problem_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-start", "--storage", "nonsense://x"]) == 1
    printed = capsys.readouterr().out
    assert "problem  storage" in printed
    assert printed.splitlines()[-1].startswith("1 problem, ")
    assert main(["doctor", "--no-start", "--json"]) == 0
    assert {check["state"] for check in json.loads(capsys.readouterr().out)["checks"]} <= {"ok", "warning"}


def test_the_table_lines_up() -> None:
    result = DoctorResult([Check("CPU", "ok", "2 cores"), Check("open files", "warning", "100", "raise\x1b[31m it")])
    assert say_doctor(result, None).splitlines() == [
        "ok       CPU         2 cores",
        "warning  open files  100",
        "                     -> raise\\x1b[31m it",
        "",
        "0 problems, 1 warning",
    ]
    assert os.environ.get("RAYCAP_JSON") is None
