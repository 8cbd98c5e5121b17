"""Train on a cluster of several nodes: processes and nodes are killed for real, and the result compared."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from nodes import (
    TRAINER,
    Nodes,
    epochs_done,
    finish,
    kill_loading,
    killed_and_started_again,
    on_a_full_disk,
    require_same_training,
    training,
    wait_for,
)

pytestmark = pytest.mark.slow


def test_train_loses_a_worker_and_a_node_and_goes_on_with_a_late_one(
    nodes: Nodes, prepared: Path, features: Path, trained_alone: Path, tmp_path: Path
) -> None:
    """Two workers need two nodes, so that without the late one nothing goes on."""
    first, second = nodes.add(), nodes.add()
    out = tmp_path / "disturbed"
    run = nodes.raycap(*training(prepared, features, out, epochs=8, num_workers=2))
    wait_for(lambda: epochs_done(out) >= 2, run)
    assert nodes.workers(first, TRAINER)
    assert nodes.workers(second, TRAINER)
    nodes.workers(first, TRAINER)[0].kill()
    before = epochs_done(out)
    wait_for(lambda: epochs_done(out) >= before + 1, run)
    nodes.remove(second)
    late = nodes.add()
    wait_for(lambda: nodes.workers(late, TRAINER), run)
    finish(run)
    require_same_training(out, trained_alone)


def test_a_train_worker_dies_while_it_loads(
    nodes: Nodes, prepared: Path, features: Path, trained_alone: Path, tmp_path: Path
) -> None:
    """Killed before its first epoch, twice; the next ones load, and train what an undisturbed run trains."""
    first, _ = nodes.add(), nodes.add()
    out = tmp_path / "disturbed"
    run = nodes.raycap(*training(prepared, features, out, epochs=8, num_workers=2))
    for _ in range(2):
        wait_for(lambda: kill_loading(nodes, first, TRAINER, within=""), run)
        assert epochs_done(out) == 0
    finish(run)
    require_same_training(out, trained_alone)


def test_a_train_worker_that_always_dies_ends_the_run(
    nodes: Nodes, prepared: Path, features: Path, tmp_path: Path
) -> None:
    node = nodes.add()
    run = nodes.raycap(*training(prepared, features, tmp_path / "model", epochs=8, num_workers=1))
    deadline = time.monotonic() + 500
    while run.poll() is None:
        assert time.monotonic() < deadline, "it tries for ever"
        kill_loading(nodes, node, TRAINER, within="")
        time.sleep(0.02)
    said = finish(run, expected=1)
    assert "died whenever they were started" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_the_disk_is_full(prepared: Path, features: Path, tmp_path: Path) -> None:
    """Checkpoints, logs and the bundle are on it."""

    def command(out: Path) -> tuple[object, ...]:
        return training(prepared, features, out, epochs=8, num_workers=1)

    kept = on_a_full_disk(tmp_path, "300k", *command(tmp_path / "disk/model"))
    alone = [sys.executable, "-m", "raycap", *map(str, command(tmp_path / "alone"))]
    subprocess.run(alone, check=True, stderr=subprocess.DEVNULL)
    require_same_training(kept / "model", tmp_path / "alone")


@pytest.mark.timeout(1800)  # of twenty starts
def test_train_with_its_driver_killed_20_times(nodes: Nodes, prepared: Path, features: Path, tmp_path: Path) -> None:
    nodes.add("--num-cpus=2")
    command = training(prepared, features, tmp_path / "killed", epochs=100, num_workers=1)
    code = killed_and_started_again(lambda: nodes.raycap(*command), lambda: epochs_done(tmp_path / "killed"), seed=2)
    assert code == 0
    finish(nodes.raycap(*training(prepared, features, tmp_path / "undisturbed", epochs=100, num_workers=1)))
    require_same_training(tmp_path / "killed", tmp_path / "undisturbed")
