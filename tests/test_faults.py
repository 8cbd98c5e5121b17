"""A cluster of several nodes, and what befalls one: processes and nodes are killed for real, and the result compared.

Nodes are Ray's own processes on this machine, a CPU each. Drivers are processes of their own that join the cluster.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import make_manifest
from ray.cluster_utils import Cluster

from raycap.features import FeatureSet

pytestmark = pytest.mark.slow

ENCODER, CAPTIONER, DECODER = "MapBatches(EncodePhotos)", "MapBatches(CaptionFeatures)", "DecodePhotos"
TRAINER = "RayTrainWorker"


class Nodes:
    """A cluster whose nodes come and go; the head has no CPU, so that only nodes that can be lost do the work."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}

    def add(self) -> object:
        return self._cluster.add_node(num_cpus=1)

    def remove(self, node: object) -> None:
        """Kill all that is on a node, as where its power fails."""
        processes = self._processes(node)
        self._cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            assert not process.is_running() or process.wait(timeout=30) is None

    def workers(self, node: object, kind: str) -> list[psutil.Process]:
        """Return a node's worker processes that run something, by Ray's names for them."""
        return [each for each in self._processes(node) if kind in _name(each)]

    @staticmethod
    def _processes(node: object) -> list[psutil.Process]:
        [raylet] = node.all_processes["raylet"]
        try:
            return psutil.Process(raylet.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def raycap(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "raycap", *map(str, arguments)]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._cluster.shutdown()


def _name(process: psutil.Process) -> str:
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
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


@pytest.fixture(scope="session")
def many(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """1,200 photos, links to the 48, three of them broken; and their manifest."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    folder.mkdir()
    originals = sorted(photo_folder.iterdir())
    for number in range(1200):
        os.link(originals[number % 48], folder / f"{number:04d}.png")
    for number in (7, 500, 1100):
        (folder / f"{number:04d}.png").unlink()
        (folder / f"{number:04d}.png").write_bytes(b"no photo")
    return folder, make_manifest(folder.parent / "m.parquet", {path.name: path for path in sorted(folder.iterdir())})


@pytest.fixture(scope="session")
def undisturbed(many: tuple[Path, str], encoder_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    command = ["extract", "--manifest", many[1], "--encoder", str(encoder_file), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "raycap", *command], check=True, stderr=subprocess.DEVNULL, timeout=120)
    return out


def features_of(out: Path) -> pd.Series:
    """Every photo's feature, by its id; each photo once."""
    rows = pd.read_parquet(out / "features").set_index("image_id").feature.sort_index()
    assert rows.index.is_unique
    return rows


def require_same_features(out: Path, undisturbed: Path) -> None:
    mine, theirs = features_of(out), features_of(undisturbed)
    assert list(mine.index) == list(theirs.index)
    np.testing.assert_allclose(np.stack(mine), np.stack(theirs), rtol=1e-5, atol=1e-6)
    failed, expected = (pd.read_parquet(each / "failures").sort_values("image_id") for each in (out, undisturbed))
    assert failed.to_dict("records") == expected.to_dict("records")
    assert FeatureSet.open(str(out)).card == FeatureSet.open(str(undisturbed)).card
    assert not list(out.rglob(".*")), "temporary files, or a lock, are left"


def test_extract_loses_a_worker_and_a_node_and_gets_another(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    first, second = nodes.add(), nodes.add()
    out = tmp_path / "features"
    options = ("--manifest", many[1], "--encoder", encoder_file, "--out", out, "--shard-size", 8)
    run = nodes.raycap("extract", *options)
    wait_for(lambda: shards(out / "features") >= 3, run)
    assert nodes.workers(first, ENCODER)
    assert nodes.workers(second, ENCODER), "only one of two nodes encodes"
    nodes.workers(first, ENCODER)[0].kill()
    wait_for(lambda: shards(out / "features") >= 20, run)
    nodes.remove(second)
    late = nodes.add()
    wait_for(lambda: nodes.workers(late, ENCODER), run)
    finish(run)
    require_same_features(out, undisturbed)
