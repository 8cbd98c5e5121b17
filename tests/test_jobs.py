"""The jobs, through a real `ray job submit` to a cluster that `ray start` started, with Ray's token authentication."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import free_port

ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a person who submits jobs to a cluster of one node."""
    home = tmp_path_factory.mktemp("home")
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket may not be long
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_TMPDIR": temporary}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # nodes' python is this one
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    gcs, dashboard, agent = free_port(), free_port(), free_port()
    options = f"--head --port={gcs} --dashboard-port={dashboard} --dashboard-host=127.0.0.1 --num-cpus=2 --block"
    options += f" --dashboard-agent-listen-port={agent}"  # the usual one is taken by the cluster of the other tests
    # in a process group of its own: `ray stop` would stop every Ray on this machine
    node = subprocess.Popen(
        [RAY, "start", *options.split(), f"--temp-dir={temporary}"],
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
    while subprocess.run([RAY, "job", "submit", "--", "true"], env=environment, capture_output=True).returncode:
        assert time.monotonic() < deadline
        time.sleep(1.0)
    yield environment
    os.killpg(node.pid, signal.SIGTERM)
    node.wait(timeout=60)
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `git clone` gives of the files as they are now, a demo run in it, and a mark in its raycap."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    folder = tmp_path_factory.mktemp("clone") / "raycap"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    for name in ("work/demo/model.weights.h5", ".venv/bin/python"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"stays here")
    with (folder / "work/big").open("wb") as big:
        big.truncate(50 * 2**20)
    with (folder / "raycap/__init__.py").open("a") as package:
        package.write('\nMARK = "of the checkout"\n')
    return folder


def submit(
    cluster: dict[str, str], checkout: Path, *arguments: str, job_id: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Submit as the README says it, in the checkout."""
    named = ("--submission-id", job_id) if job_id else ()
    command = [RAY, "job", "submit", *named, "--working-dir", ".", "--", "python", *arguments]
    return subprocess.run(command, cwd=checkout, env=cluster, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_every_job_on_a_cluster(
    cluster: dict[str, str], checkout: Path, prepared: Path, photo_folder: Path, encoder_file: Path, tmp_path: Path
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
        answer = submit(cluster, checkout, f"jobs/{script}", *options)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert expected in answer.stdout
    assert json.loads((tmp_path / "scores/scores.json").read_text())["num_photos"] == 8


LOOK = """
import os, ray, raycap
ray.init()
seen = (os.path.join(folder, name) for folder, _, names in os.walk(".") for name in names)
print("SEEN", *sorted(map(os.path.relpath, seen)))
task = ray.remote(lambda: (raycap.MARK, os.path.relpath(raycap.__file__)))
print("DRIVER", raycap.MARK, os.path.relpath(raycap.__file__))
print("WORKER", *ray.get(task.remote()))
"""


@pytest.mark.slow
def test_what_travels_is_the_checkout_and_nothing_that_lies_in_it(cluster: dict[str, str], checkout: Path) -> None:
    (checkout / "jobs/look.py").write_text(LOOK)
    answer = submit(cluster, checkout, "jobs/look.py")
    (checkout / "jobs/look.py").unlink()
    assert answer.returncode == 0, answer.stdout + answer.stderr
    said = {line.split()[0]: line.split()[1:] for line in answer.stdout.splitlines() if line.split()}
    assert "raycap/stages/extract.py" in said["SEEN"]
    assert "jobs/caption.py" in said["SEEN"]
    stays = ("work/", ".venv/", ".git/")
    assert not [name for name in said["SEEN"] if name.startswith(stays)]
    for who in ("DRIVER", "WORKER"):
        assert said[who] == ["of", "the", "checkout", "raycap/__init__.py"]


FAILING = {
    "prepare --captions /gone.csv --photos /gone": (2, "/gone"),
    "extract --manifest /gone.parquet": (2, "there is no manifest at /gone.parquet"),
    "train --prepared /gone --features /gone": (2, "no photos.parquet in /gone"),
    "evaluate --model /gone --prepared /gone --features /gone": (2, "/gone"),
    "caption /gone --model /gone": (2, "/gone"),
    # in a worker, and not in the driver
    "extract --manifest {manifest} --weights /gone.h5": (2, "there is no /gone.h5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", FAILING)
def test_a_failed_stage_fails_the_job_with_a_readable_last_line(
    cluster: dict[str, str], checkout: Path, prepared: Path, tmp_path: Path, command: str
) -> None:
    code, says = FAILING[command]
    stage, *options = command.format(manifest=prepared / "photos.parquet").split()
    job_id = f"{stage}-{uuid.uuid4().hex}"
    answer = submit(cluster, checkout, f"jobs/{stage}.py", *options, "--out", str(tmp_path / "out"), job_id=job_id)
    assert answer.returncode != 0
    log = subprocess.run([RAY, "job", "logs", job_id], env=cluster, capture_output=True, text=True, check=True).stdout
    last = [line for line in log.splitlines() if line.strip()][-1]
    assert last.startswith(f"raycap {stage}: ")
    assert says in last
    assert "Traceback" not in log
    assert f"failed with exit code {code}" in answer.stdout + answer.stderr


@pytest.mark.slow
def test_without_the_token_nobody_submits(cluster: dict[str, str], checkout: Path, tmp_path: Path) -> None:
    answer = submit(cluster | {"HOME": str(tmp_path)}, checkout, "jobs/extract.py", "--help")
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
