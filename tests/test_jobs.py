"""The jobs, through a real `ray job submit` to a cluster that `ray start` started, with Ray's token authentication."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import free_port

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a person who submits jobs to a cluster of one node."""
    home = tmp_path_factory.mktemp("home")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_TMPDIR": "/tmp/raycap-jobs"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # the nodes' `python`
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    gcs, dashboard, agent = free_port(), free_port(), free_port()
    options = f"--head --port={gcs} --dashboard-port={dashboard} --dashboard-host=127.0.0.1 --num-cpus=2 --block"
    options += f" --dashboard-agent-listen-port={agent}"  # the usual one is taken by the cluster of the other tests
    # in a process group of its own: `ray stop` would stop every Ray on this machine
    node = subprocess.Popen(
        [ray, "start", *options.split(), "--temp-dir=/tmp/raycap-jobs"],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 180
    while socket.socket().connect_ex(("127.0.0.1", dashboard)):
        assert node.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    # the dashboard answers before the node's agent, which runs the jobs, has come up
    while subprocess.run([ray, "job", "submit", "--", "true"], env=environment, capture_output=True).returncode:
        assert time.monotonic() < deadline
        time.sleep(1.0)
    yield environment
    os.killpg(node.pid, signal.SIGTERM)
    node.wait(timeout=60)
    shutil.rmtree("/tmp/raycap-jobs", ignore_errors=True)


def submit(cluster: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--working-dir", str(ROOT), "--", sys.executable, *arguments]
    return subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_every_job_on_a_cluster(
    cluster: dict[str, str], prepared: Path, photo_folder: Path, encoder_file: Path, tmp_path: Path
) -> None:
    features, model, scores, captions = (str(tmp_path / name) for name in ("features", "model", "scores", "captions"))
    jobs = [
        f"prepare.py --captions {photo_folder.parent}/captions.csv --photos {photo_folder} --out {tmp_path}/prepared",
        f"extract.py --manifest {prepared}/photos.parquet --encoder {encoder_file} --out {features}",
        f"train.py --prepared {prepared} --features {features} --out {model} --units 16 --epochs 2",
        f"evaluate.py --model {model} --prepared {prepared} --features {features} --out {scores}",
        f"caption.py {photo_folder} --model {model} --out {captions}",
    ]
    says = ["problems: ", "48 features in", f"model in {model}/bundle", "BLEU-4", "48 captions of 48 photos in"]
    for job, expected in zip(jobs, says, strict=True):
        script, *options = job.split()
        answer = submit(cluster, f"jobs/{script}", *options)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert expected in answer.stdout
    assert json.loads((tmp_path / "scores/scores.json").read_text())["num_photos"] == 8


@pytest.mark.slow
def test_a_failed_stage_fails_the_job_with_a_readable_line(cluster: dict[str, str]) -> None:
    answer = submit(cluster, "jobs/extract.py", "--manifest", "/gone.parquet", "--out", "/tmp/raycap-jobs/out")
    assert answer.returncode != 0
    assert "raycap extract: there is no manifest at /gone.parquet" in answer.stdout + answer.stderr


@pytest.mark.slow
def test_without_the_token_nobody_submits(cluster: dict[str, str], tmp_path: Path) -> None:
    answer = submit(cluster | {"HOME": str(tmp_path)}, "jobs/extract.py", "--help")
    assert answer.returncode != 0
    assert "token" in answer.stdout + answer.stderr


@pytest.mark.slow
def test_the_example_submits_a_job_and_follows_it(
    cluster: dict[str, str], prepared: Path, encoder_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "examples" / "submit_to_a_cluster.py"), str(prepared)]
    options = [str(tmp_path / "features"), "--encoder", str(encoder_file)]
    for more, code, says in ([], 0, "48 features in"), (["--dtype", "float16"], 1, "was made with other options"):
        answer = subprocess.run(
            [*command, *options, *more], env=cluster, capture_output=True, text=True, timeout=300, check=False
        )
        assert answer.returncode == code, answer.stdout + answer.stderr
        assert says in answer.stdout
