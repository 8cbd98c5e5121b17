"""A cluster of several nodes, and what befalls one: processes and nodes are killed for real, and the result compared.

Nodes are Ray's own processes on this machine, a CPU each. Drivers are processes of their own that join the cluster.
"""

import json
import os
import secrets
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
from conftest import free_port, make_manifest

from raycap.cluster import KEEP_IDLE_WORKERS
from raycap.features import FeatureSet
from raycap.model import Bundle
from raycap.storage import read_json

pytestmark = pytest.mark.slow

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

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--block", f"--dashboard-agent-listen-port={free_port()}", *options]
        node = subprocess.Popen(
            command, env=self.environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._nodes.append(node)
        return node

    def add(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a node, of one CPU by default; two that start at once can choose the same port."""
        node = self._start(f"--address={self.environment['RAY_ADDRESS']}", *(options or ("--num-cpus=1",)))
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


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with started() as nodes:
        yield nodes


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


def loading(nodes: Nodes, node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that are in an encoder's constructor, and have begun to load TensorFlow."""
    found = [each for each in nodes.workers(node, ENCODER) if _name(each).endswith("__init__")]
    return [each for each in found if each.is_running() and each.memory_info().rss > 250 * 2**20]


def test_an_encoder_dies_while_it_loads(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Killed in its constructor, three times; the next one loads, and the run goes on."""
    node = nodes.add()
    out = tmp_path / "features"
    run = nodes.raycap("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", out)
    for _ in range(3):
        wait_for(lambda: loading(nodes, node), run)
        loading(nodes, node)[0].kill()
    finish(run)
    require_same_features(out, undisturbed)


def test_an_encoder_that_always_dies_ends_the_run(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, tmp_path: Path
) -> None:
    node = nodes.add()
    run = nodes.raycap("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", tmp_path / "features")
    deadline = time.monotonic() + 150
    while run.poll() is None:
        assert time.monotonic() < deadline, "it tries for ever"
        for process in loading(nodes, node):
            process.kill()
        time.sleep(0.02)
    said = finish(run, expected=1)
    assert "the process of EncodePhotos died 4 times while it loaded its model" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.fixture(scope="session")
def captions_alone(many: tuple[Path, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What the photos' captions are where nothing happens."""
    out = tmp_path_factory.mktemp("alone") / "captions"
    command = ["caption", str(many[0]), "--model", str(model), "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "raycap", *command], stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == 3
    return captions_of(out)


def captions_of(out: Path) -> pd.DataFrame:
    rows = pd.read_parquet(out / "captions").set_index("image_id").sort_index()
    assert rows.index.is_unique
    return rows


def require_same_captions(out: Path, texts: Path, alone: pd.DataFrame) -> None:
    mine = captions_of(out)
    assert list(mine.index) == list(alone.index)
    assert list(mine.caption) == list(alone.caption)
    np.testing.assert_allclose(mine.log_prob, alone.log_prob, atol=1e-4)
    assert sorted(pd.read_parquet(out / "failures").image_id) == ["0007.png", "0500.png", "1100.png"]
    assert len((out / "captions.jsonl").read_text().splitlines()) == len(alone)
    for image_id, row in mine.iterrows():
        assert (texts / str(image_id)).with_suffix(".txt").read_text() == row.caption + "\n"
    assert not [*out.rglob(".*"), *texts.rglob(".*")], "temporary files, or a lock, are left"


def test_caption_loses_workers_and_a_node(
    nodes: Nodes, many: tuple[Path, str], model: Path, captions_alone: pd.DataFrame, tmp_path: Path
) -> None:
    first, second = nodes.add(), nodes.add()
    out, texts = tmp_path / "captions", tmp_path / "texts"
    options = ("--model", model, "--out", out, "--formats", "jsonl", "--sidecars", texts, "--shard-size", 8)
    run = nodes.raycap("caption", many[0], *options)
    wait_for(lambda: shards(out / "captions") >= 3, run)
    captioners = [*nodes.workers(first, CAPTIONER), *nodes.workers(second, CAPTIONER)]
    captioners[0].kill()
    wait_for(lambda: shards(out / "captions") >= 10, run)
    nodes.workers(first, ENCODER)[0].kill()
    wait_for(lambda: shards(out / "captions") >= 20, run)
    nodes.remove(second)
    finish(run, expected=3)
    require_same_captions(out, texts, captions_alone)


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


def test_train_loses_a_worker_and_a_node(nodes: Nodes, prepared: Path, features: Path, tmp_path: Path) -> None:
    first, second, spare = nodes.add(), nodes.add(), nodes.add()
    run = nodes.raycap(*training(prepared, features, tmp_path / "disturbed", epochs=8, num_workers=2))
    wait_for(lambda: epochs_done(tmp_path / "disturbed") >= 2, run)
    used = [node for node in (first, second, spare) if nodes.workers(node, TRAINER)]
    assert len(used) == 2
    nodes.workers(used[0], TRAINER)[0].kill()
    before = epochs_done(tmp_path / "disturbed")
    wait_for(lambda: epochs_done(tmp_path / "disturbed") >= before + 1, run)
    used = [node for node in (first, second, spare) if nodes.workers(node, TRAINER)]
    nodes.remove(used[-1])
    finish(run)
    finish(nodes.raycap(*training(prepared, features, tmp_path / "undisturbed", epochs=8, num_workers=2)))
    require_same_training(tmp_path / "disturbed", tmp_path / "undisturbed")


KILLS = 20


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


def test_extract_with_its_driver_killed_20_times(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.add("--num-cpus=2")
    out = tmp_path / "features"
    options = ("--manifest", many[1], "--encoder", encoder_file, "--out", out, "--shard-size", 4)
    code = killed_and_started_again(lambda: nodes.raycap("extract", *options), lambda: shards(out / "features"), seed=0)
    assert code == 0
    require_same_features(out, undisturbed)


def test_caption_with_its_driver_killed_20_times(
    nodes: Nodes, many: tuple[Path, str], model: Path, captions_alone: pd.DataFrame, tmp_path: Path
) -> None:
    nodes.add("--num-cpus=2")
    out, texts = tmp_path / "captions", tmp_path / "texts"
    options = ("--model", model, "--out", out, "--formats", "jsonl", "--sidecars", texts, "--shard-size", 4)
    code = killed_and_started_again(
        lambda: nodes.raycap("caption", many[0], *options), lambda: shards(out / "captions"), seed=1
    )
    assert code == 3
    require_same_captions(out, texts, captions_alone)


def test_train_with_its_driver_killed_20_times(nodes: Nodes, prepared: Path, features: Path, tmp_path: Path) -> None:
    nodes.add("--num-cpus=2")
    command = training(prepared, features, tmp_path / "killed", epochs=100, num_workers=1)
    code = killed_and_started_again(lambda: nodes.raycap(*command), lambda: epochs_done(tmp_path / "killed"), seed=2)
    assert code == 0
    finish(nodes.raycap(*training(prepared, features, tmp_path / "undisturbed", epochs=100, num_workers=1)))
    require_same_training(tmp_path / "killed", tmp_path / "undisturbed")


def test_a_second_run_on_the_same_output_is_refused(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.add()
    out = tmp_path / "features"
    options = ("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", out, "--shard-size", 8)
    first = nodes.raycap(*options)
    wait_for(lambda: shards(out / "features") >= 1, first)
    said = finish(nodes.raycap(*options), expected=1)
    assert f"another run is writing {out} (process {first.pid} on " in said
    finish(first)
    require_same_features(out, undisturbed)


def test_the_disk_is_full(many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A real disk, of 200 kB, in a mount namespace of its own; then it gets larger, and the same command goes on."""
    out = tmp_path / "disk"
    out.mkdir()
    command = f"{sys.executable} -m raycap extract --manifest {many[1]} --encoder {encoder_file} --out {out}/features"
    script = f"""
        mount -t tmpfs -o size=200k none {out} || exit 77
        {command} --shard-size 16 2> {tmp_path}/said; echo $? > {tmp_path}/code
        find {out} -name '.*' -type f > {tmp_path}/left
        mount -o remount,size=100m {out}
        {command} --shard-size 16 2> /dev/null || exit 1
        cp -r {out}/features {tmp_path}/features
    """
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nobody may mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "code").read_text() == "1\n"
    said = (tmp_path / "said").read_text()
    assert "No space left on device" in said.splitlines()[-1]
    assert "the same command goes on" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert (tmp_path / "left").read_text() == ""
    require_same_features(tmp_path / "features", undisturbed)


def test_nodes_that_an_autoscaler_starts(
    many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A cluster that begins with a head of no CPUs and no GPUs: GPU nodes come because the job asks for them."""
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu_worker": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    provider = {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config = {
        "cluster_name": "fake",
        "max_workers": 1,
        "provider": provider,
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 1,
        "upscaling_speed": 1.0,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in ("cluster_synced_files", "initialization_commands", "setup_commands")},
        **{key: [] for key in ("head_setup_commands", "worker_setup_commands")},
        **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
    }
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    scales = f"--autoscaling-config={tmp_path / 'cluster.json'}"
    # the port is where the provider of this kind of cluster looks for the head
    with started(scales, port=6379, AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1") as nodes:
        out = tmp_path / "features"
        options = ("--manifest", many[1], "--encoder", encoder_file, "--out", out, "--num-gpus", 1)
        said = finish(nodes.raycap("extract", *options))
    require_same_features(out, undisturbed)
    assert "waiting for a node with CPUs and 1 GPUs" in said


def test_an_output_that_a_node_does_not_see_is_refused(nodes: Nodes) -> None:
    """What only the driver's process sees is not there for another node's."""
    nodes.add()
    code = (
        "import os, raycap.cluster as c\n"
        "c.connect()\n"
        "c.require_on_every_node('/proc')\n"
        "here = os.open('/', os.O_RDONLY)\n"
        "os.dup2(here, 777)\n"
        "c.require_on_every_node('/proc/self/fd/777')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=nodes.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "/proc/self/fd/777 is not seen on" in done.stderr
