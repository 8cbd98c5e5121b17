"""Clusters of several nodes whose processes tests kill for real, and the comparison with an undisturbed run.

Nodes are Ray's own processes on this machine, a CPU each. Drivers are processes of their own that join the cluster.
"""

import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import free_port

from raycap.cluster import KEEP_IDLE_WORKERS
from raycap.features import FeatureSet
from raycap.model import Bundle
from raycap.storage import read_json

KILLS = 20
ENCODER, CAPTIONER, DECODER = "MapBatches(EncodePhotos)", "MapBatches(CaptionFeatures)", "DecodePhotos"
TRAINER = "RayTrainWorker"


class Nodes:
    """A cluster whose nodes come and go; the head has no CPU, so that only nodes that can be lost do the work."""

    def __init__(self, temporary: Path, *options: str, port: int | None = None, **environment: str) -> None:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {**os.environ, **dict([KEEP_IDLE_WORKERS]), **token, **environment}
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = port or free_port()
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={temporary}")
        self._start(*head, *options)
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"

    def _start(self, *options: str, hidden: Path | None = None) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--block", f"--dashboard-agent-listen-port={free_port()}", *options]
        if hidden is not None:  # in a mount namespace of its own, where something else lies there
            script = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(hidden), *command]
        node = subprocess.Popen(
            command, env=self.environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._nodes.append(node)
        return node

    def add(self, *options: str, hidden: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a node, of one CPU by default, which does not see what is in the folder `hidden`.

        Two that start at once can choose the same port.
        """
        address = f"--address={self.environment['RAY_ADDRESS']}"
        node = self._start(address, *(options or ("--num-cpus=1",)), hidden=hidden)
        deadline = time.monotonic() + 60
        while not self.workers(node, "RuntimeEnvAgent"):
            assert node.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return node

    def remove(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all that is on a node, as where its power fails."""
        processes = self._processes(node)
        for process in (psutil.Process(node.pid), *processes):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        node.wait()

    def workers(self, node: subprocess.Popen[bytes], kind: str) -> list[psutil.Process]:
        """Return a node's worker processes that run something, by Ray's names for them."""
        return [each for each in self._processes(node) if kind in _name(each)]

    @staticmethod
    def _processes(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
        try:
            return psutil.Process(node.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def raycap(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "raycap", *map(str, arguments)]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        for node in reversed(self._nodes):
            if node.poll() is None:
                self.remove(node)


def _name(process: psutil.Process) -> str:
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


@contextmanager
def started(*options: str, **environment: Any) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:  # the path of a socket may not be long
        nodes = Nodes(Path(short), *options, **environment)
        try:
            yield nodes
        finally:
            nodes.close()


def wait_for(condition: Callable[[], object], run: subprocess.Popen[str], *, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert run.poll() is None, f"the run ended too early to show anything: {run.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish(run: subprocess.Popen[str], *, expected: int = 0) -> str:
    _, said = run.communicate(timeout=400)
    assert run.returncode == expected, said
    return said


def shards(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


def loading(
    nodes: Nodes, node: subprocess.Popen[bytes], kind: str, *, within: str = "__init__"
) -> list[psutil.Process]:
    """Return the processes that have begun to load TensorFlow: in their constructor, where Ray names it."""
    return [each for each in nodes.workers(node, kind) if _name(each).endswith(within) and _has_begun(each)]


def kill_loading(nodes: Nodes, node: subprocess.Popen[bytes], kind: str, *, within: str = "__init__") -> bool:
    """Kill a process that `loading` finds, if there is one now; return whether there was."""
    for process in loading(nodes, node, kind, within=within):
        process.kill()
        return True
    return False


def _has_begun(process: psutil.Process) -> bool:
    try:
        return bool(process.memory_info().rss > 250 * 2**20)
    except psutil.NoSuchProcess:
        return False


def killed_and_started_again(start: Callable[[], subprocess.Popen[str]], progress: Callable[[], int], seed: int) -> int:
    """Start a run, kill its driver with -9 at a random moment, and again, until it has been killed enough; then let it
    end. Return its exit code.

    Half of the kills come at a random time from the start, half soon after it got something done. What is done never
    becomes less.
    """
    rng = np.random.default_rng(seed)
    killed = 0
    while killed < KILLS:
        before, run = progress(), start()
        deadline = time.monotonic() + (rng.uniform(0.5, 12) if killed % 2 else 60)
        while run.poll() is None and time.monotonic() < deadline and progress() <= before:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        assert run.poll() is None, f"the run ended after {killed} kills: {run.communicate()[1]}"
        run.kill()
        run.communicate()
        assert progress() >= before, "something that was done is lost"
        killed += 1
    run = start()
    run.communicate(timeout=400)
    return run.returncode


def on_a_full_disk(folder: Path, size: str, *arguments: object, expected: int = 0) -> Path:
    """Run a command on a real disk of some size, in a mount namespace of its own; then it gets larger, and the same
    command goes on. Return what it holds then.

    Args:
        folder: where the disk is, as `disk`.
        size: as `mount` takes it; too small for what the command writes.
        arguments: of `raycap`.
        expected: the command's exit code once there is room.
    """
    disk, kept = folder / "disk", folder / "kept"
    disk.mkdir()
    command = shlex.join([sys.executable, "-m", "raycap", *map(str, arguments)])
    script = f"""
        mount -t tmpfs -o size={size} none {disk} || exit 77
        {command} 2> {folder}/said > /dev/null; echo $? > {folder}/code
        find {disk} -name '.tmp-*' > {folder}/left
        mount -o remount,size=100m {disk}
        {command} > /dev/null 2> {folder}/then; test $? = {expected} || exit 1
        cp -r {disk} {kept}
    """
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nobody may mount here: {done.stderr}")
    assert done.returncode == 0, (folder / "then").read_text()
    said = (folder / "said").read_text()
    assert (folder / "code").read_text() in {"1\n", "2\n"}, said
    assert "No space left on device" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert (folder / "left").read_text() == "", "temporary files are left"
    return kept


def features_of(out: Path) -> pd.Series:
    """Every photo's feature, by its id; each photo once."""
    rows = pd.read_parquet(out / "features").set_index("image_id").feature.sort_index()
    assert rows.index.is_unique
    return rows


def require_same_failures(out: Path, undisturbed: Path) -> None:
    mine, theirs = (pd.read_parquet(each / "failures").sort_values("image_id") for each in (out, undisturbed))
    assert mine.to_dict("records") == theirs.to_dict("records")
    assert list(mine.image_id) == ["0007.png", "0500.png", "1100.png"]


def require_same_features(out: Path, undisturbed: Path) -> None:
    mine, theirs = features_of(out), features_of(undisturbed)
    assert list(mine.index) == list(theirs.index)
    np.testing.assert_allclose(np.stack(mine), np.stack(theirs), rtol=1e-5, atol=1e-6)
    require_same_failures(out, undisturbed)
    assert FeatureSet.open(str(out)).card == FeatureSet.open(str(undisturbed)).card
    assert not list(out.rglob(".*")), "temporary files, or a lock, are left"


def captions_of(out: Path) -> pd.DataFrame:
    rows = pd.read_parquet(out / "captions").set_index("image_id").sort_index()
    assert rows.index.is_unique
    return rows


def require_same_captions(out: Path, texts: Path, undisturbed: Path) -> None:
    mine, theirs = captions_of(out), captions_of(undisturbed)
    assert list(mine.index) == list(theirs.index)
    assert list(mine.caption) == list(theirs.caption)
    np.testing.assert_allclose(mine.log_prob, theirs.log_prob, atol=1e-4)
    require_same_failures(out, undisturbed)
    assert len((out / "captions.jsonl").read_text().splitlines()) == len(theirs)
    for image_id, row in mine.iterrows():
        assert (texts / str(image_id)).with_suffix(".txt").read_text() == row.caption + "\n"
    assert not [*out.rglob(".*"), *texts.rglob(".*")], "temporary files, or a lock, are left"


def training(prepared: Path, features: Path, out: Path, *, epochs: int, num_workers: int) -> tuple[object, ...]:
    options = f"--epochs {epochs} --patience {epochs} --global-batch-size 4 --units 16 --num-workers {num_workers}"
    return ("train", "--prepared", prepared, "--features", features, "--out", out, "--seed", 3, *options.split())


def epochs_done(out: Path) -> int:
    return len(read_json(str(out / "history.json"))["history"]) if (out / "history.json").exists() else 0


def require_same_training(out: Path, undisturbed: Path) -> None:
    """The same epochs with the same losses, and the same weights, to 1e-4: two workers add in no fixed order."""
    mine, theirs = (read_json(str(each / "history.json"))["history"] for each in (out, undisturbed))
    assert [each["epoch"] for each in mine] == [each["epoch"] for each in theirs]
    for name in ("train_loss", "dev_loss"):
        np.testing.assert_allclose([each[name] for each in mine], [each[name] for each in theirs], rtol=1e-4)
    bundles = [Bundle.load(str(each)).model.get_weights() for each in (out, undisturbed)]
    for one, other in zip(*bundles, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert not (out / "checkpoints").exists()
    assert not list(out.rglob(".*")), "temporary files, or a lock, are left"
