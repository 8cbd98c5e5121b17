"""What has to be tried out in a process of its own, as it may hang or die; and the limits of a container."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Answer = tuple[str, Literal["ok", "warning", "problem"], str, str]

_WITHIN_S: Final = 120.0
_TENSORFLOW: Final = """
import json, raycap.devices, tensorflow as tf, keras
raycap.devices.configure()
gpus = [each.name for each in tf.config.list_physical_devices("GPU")]
print(json.dumps({"version": tf.__version__, "keras": keras.__version__, "gpus": gpus}))
"""
_RAY: Final = """
import json, os, time, ray
from raycap.cluster import connect
started = time.monotonic()
connect()
assert ray.get(ray.remote(num_cpus=0)(lambda: 1).remote(), timeout=90) == 1
have = ray.cluster_resources()
print(json.dumps({"version": ray.__version__, "cpus": have.get("CPU", 0), "gpus": have.get("GPU", 0),
                  "nodes": len(ray.nodes()), "seconds": time.monotonic() - started}))
"""


@dataclass(frozen=True)
class Probe:
    """Something to try out in a process of its own.

    Attributes:
        name: of it.
        code: what the process runs; it prints a line of JSON.
        judge: makes an answer of that.
        advice: what to do if it fails.
    """

    name: str
    code: str
    judge: Callable[[dict[str, Any]], Answer]
    advice: str

    @classmethod
    def tensorflow(cls) -> "Probe":
        """Import TensorFlow, and see which GPUs it finds."""
        advice = "pip install 'raycap[cpu]' or 'raycap[gpu]' into an environment of its own"
        return cls("TensorFlow", _TENSORFLOW, _judge_tensorflow, advice)

    @classmethod
    def ray(cls) -> "Probe":
        """Start a Ray, or reach the one that RAY_ADDRESS names, and run a task."""
        address = os.environ.get("RAY_ADDRESS")
        advice = "where the machine is busy, try again when it is not; python -c 'import ray; ray.init()' says more"
        if address:
            advice = f"start the cluster at RAY_ADDRESS={address}, or unset RAY_ADDRESS to run on this machine"
        return cls("Ray", _RAY, _judge_ray, advice)

    def answer(self) -> Answer:
        """Try it, and return its name, the state, what was found, and what to do."""
        try:
            tried = subprocess.run(
                [sys.executable, "-c", self.code],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_WITHIN_S,
                check=False,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        except subprocess.TimeoutExpired:
            return self.name, "problem", f"no answer within {_WITHIN_S:.0f} s", self.advice
        lines = [line for line in tried.stdout.splitlines() if line.startswith("{")]
        if tried.returncode or not lines:
            last = next((line.strip() for line in reversed(tried.stderr.splitlines()) if line.strip()), "it died")
            return self.name, "problem", f"{last:.200}", self.advice
        return self.judge(json.loads(lines[-1]))


def _judge_tensorflow(found: dict[str, Any]) -> Answer:
    gpus = len(found["gpus"])
    text = f"{found['version']}, Keras {found['keras']}, {gpus or 'no'} {'GPU' if gpus == 1 else 'GPUs'}"
    driver = shutil.which("nvidia-smi")
    if driver and not gpus and subprocess.run([driver, "-L"], capture_output=True, check=False).stdout.strip():
        return (
            "TensorFlow",
            "problem",
            f"{text}, though the machine has",
            "install 'raycap[gpu]' in place of 'raycap[cpu]'",
        )
    return "TensorFlow", "ok", text, ""


def _judge_ray(found: dict[str, Any]) -> Answer:
    where = "reached" if os.environ.get("RAY_ADDRESS") else "started"
    nodes = f"{found['nodes']} {'node' if found['nodes'] == 1 else 'nodes'}"
    have = f"{nodes}, {found['cpus']:g} CPUs, {found['gpus']:g} GPUs"
    text = f"{found['version']}, {where} in {found['seconds']:.0f} s: {have}"
    return "Ray", "ok", text, ""


def limited_memory(root: str = "/sys/fs/cgroup") -> int | None:
    """Return the bytes of memory that a container allows, None where it sets no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(Path(root) / name)
        if text.isdigit() and int(text) < 2**60:
            return int(text)
    return None


def limited_cpus(root: str = "/sys/fs/cgroup") -> float | None:
    """Return how many cores a container allows, None where it sets no limit."""
    quota, _, period = _read(Path(root) / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(Path(root) / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
