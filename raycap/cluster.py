"""The Ray cluster: connecting to it, what it has, what its errors mean, and metrics that it exports.

Knows Ray, and nothing of photos or models.
"""

import gc
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources
from ray.util.metrics import Counter, Gauge

from raycap.chatter import without_chatter
from raycap.config import ModelWorkersConfig
from raycap.errors import InputError, RaycapError
from raycap.progress import say

# Logical CPUs only: light operators ask for fractions, and model workers leave some of their node to them. What
# TensorFlow really uses is its threads, which are set apart.
_MODEL_SHARE = 0.6
# Of a task that decodes photos. Beside workers on CPUs, which hold their share, Ray Data gives tasks about a fifth of
# the CPUs: at a tenth each they are twice as many as cores, none too many where decoding takes longest (at a quarter
# there was one on two cores, and half the photos a second). Beside GPUs it gives them more than half.
_DECODE_CPUS, _DECODE_CPUS_BESIDE_GPU = 0.1, 0.5
_POLL_EVERY_S = 0.5
_NODES_WITHIN_S = 15 * 60.0  # what a cloud may take to start a machine and set it up, and some
# Ray ends a worker process that is idle for a second where there are more of them than cores, which on a small machine
# there always are; the next task then starts another, at two seconds of a core. Kept, VGG16 on two cores captions 1.7
# times as many photos a second. But each costs 0.35% of two cores, so that those no longer needed should end.
KEEP_IDLE_WORKERS = ("RAY_idle_worker_killing_time_threshold_ms", "15000")
# What each task did and when, for the dashboard and `ray list tasks`: every process sends it to the head each second.
_NO_TASK_EVENTS = ("RAY_task_events_report_interval_ms", "0")
_RAYS_NOTE = "\nFailed to apply"  # what Ray Data adds to the message of an operator's error


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where model workers go.

    Attributes:
        num_workers: of each model operator, from the start.
        fixed: somebody said how many, or no node can join; otherwise more start on nodes that do.
        num_gpus: of each worker.
        num_cpus: logical, of each worker.
        num_threads: TensorFlow's, on a CPU; None on a GPU.
    """

    num_workers: int
    fixed: bool
    num_gpus: float
    num_cpus: float
    num_threads: int | None

    @property
    def decode_cpus(self) -> float:
        """Logical CPUs of a task that decodes photos for these workers."""
        return _DECODE_CPUS_BESIDE_GPU if self.num_gpus else _DECODE_CPUS

    def share(self, part: float) -> "Placement":
        """Return the placement of an operator that does `part` of a worker's work beside others."""
        return replace(self, num_gpus=round(self.num_gpus * part, 2), num_cpus=round(self.num_cpus * part, 3))


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names, as it does in a job, or start one on this machine.

    A cluster that happens to run on this machine, or has run there, is not joined: `RAY_ADDRESS=auto` asks for that.
    One started here listens on this machine's loopback address alone. With RAYCAP_VERBOSE set it has a dashboard, and
    what Ray and the workers log is shown.
    """
    verbose = bool(os.environ.get("RAYCAP_VERBOSE"))
    if not ray.is_initialized():
        os.environ.setdefault(*KEEP_IDLE_WORKERS)
        address = os.environ.get("RAY_ADDRESS", "local")
        options: dict[str, Any] = {}
        if not verbose:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            if is_own():
                os.environ.setdefault(*_NO_TASK_EVENTS)
            # the dashboard of a cluster that lives as long as this process has no visitors, and takes 2% of two cores
            options = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
        say("starting Ray" if is_own() else f"connecting to Ray at {address}")
        with _on_loopback() if is_own() else nullcontext(), without_chatter():
            ray.init(address, **options)
    if not verbose:
        # whatever log_to_driver says, Ray prints what befalls nodes and tasks on standard output, which is for results
        ray._private.worker._worker_logs_enabled = False
        for name in ("ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log as errors is raised as well


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block have the loopback address, on which alone its services then listen.

    Ray has no option for it: it replaces a loopback address that it is given by the machine's own. But it takes one by
    itself where it cannot have clusters of several machines, as on macOS, and that it is told here.
    """
    was, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was


@dataclass(frozen=True)
class Capacity:
    """What the nodes of a cluster have for work.

    Attributes:
        cpus: logical, of each node.
        gpus: of all nodes.
    """

    cpus: tuple[float, ...]
    gpus: float

    @classmethod
    def now(cls) -> "Capacity":
        """Return what the nodes that are there have."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return cls(tuple(node.get("CPU", 0.0) for node in nodes), sum(node.get("GPU", 0.0) for node in nodes))

    @classmethod
    def with_at_least(cls, *, num_gpus: float) -> "Capacity":
        """Return what the nodes have, once one has CPUs and there are so many GPUs; an autoscaler is asked for them.

        Raises:
            InputError: if there are fewer, on a machine of one's own or after a quarter of an hour on a cluster.
        """
        gc.collect()  # an earlier job that failed may still hold its actors, and they their CPUs, in a cycle

        def enough() -> bool:
            now = cls.now()
            return sum(now.cpus) > 0 and now.gpus >= num_gpus

        if not enough() and not is_own():
            say(f"waiting for a node with CPUs{f' and {num_gpus:g} GPUs' if num_gpus else ''} to join the cluster")
            # a bundle is of one node, and each worker's GPU may be on another
            bundle = {"CPU": 1} | ({"GPU": min(1.0, num_gpus)} if num_gpus else {})
            request_resources(bundles=[bundle] * max(1, math.ceil(num_gpus)))
            deadline = time.monotonic() + _NODES_WITHIN_S
            try:
                while not enough() and time.monotonic() < deadline:
                    time.sleep(_POLL_EVERY_S)
            finally:  # a request outlives its job, and so would the nodes
                request_resources(bundles=[])
        now = cls.now()
        if not enough():
            raise InputError(
                f"the cluster has {sum(now.cpus):g} CPUs and {now.gpus:g} GPUs; "
                + ("ask for fewer GPUs (--num-gpus, --use-gpu), or add nodes" if sum(now.cpus) else "add nodes")
            )
        return now

    def workers_of(self, threads: int) -> int:
        """Return how many workers of so many threads there is room for."""
        return sum(int(cpus / threads) for cpus in self.cpus)


def largest_memory_bytes() -> float:
    """Return the memory that the node with most of it has for work, as Ray counts it."""
    return max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


def is_own() -> bool:
    """Whether the cluster was started by `connect`, so that no node can join it."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


def place(workers: ModelWorkersConfig) -> Placement:
    """Return where the model workers of a job go on the cluster that is connected.

    Raises:
        InputError: if more GPUs are asked for than there are or come, or there are no CPUs.
    """
    now = Capacity.with_at_least(num_gpus=workers.num_gpus or 0)
    cpus, asked = sum(now.cpus), workers.num_workers
    per_worker = workers.num_gpus if workers.num_gpus is not None else min(1.0, now.gpus)
    fixed = asked is not None or is_own()
    if per_worker:
        num_workers = asked or max(1, int(now.gpus / per_worker))
        num_cpus = min(1.0, _MODEL_SHARE * cpus / num_workers)
        return Placement(num_workers=num_workers, fixed=fixed, num_gpus=per_worker, num_cpus=num_cpus, num_threads=None)
    threads = max(1, int(min(workers.cpus_per_worker, max(now.cpus), cpus / (asked or 1))))
    num_workers = asked or max(1, now.workers_of(threads))
    a_node = max(1, int(max(now.cpus) / threads))
    share = max(_MODEL_SHARE, (a_node + 0.2) / (a_node + 1))  # so that no more than these fit on a node
    num_cpus = share * min(threads, cpus / num_workers)
    return Placement(num_workers=num_workers, fixed=fixed, num_gpus=0.0, num_cpus=num_cpus, num_threads=threads)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the RaycapError that a worker raised as it was raised, out of what Ray wrapped it in."""
    try:
        yield
    except Exception as error:
        chain = list(_chain(error))
        own = [
            each for each in chain if isinstance(each, RaycapError) and not isinstance(each, ray.exceptions.RayError)
        ]
        if not own or own[0] is error:
            raise
        raise type(own[0])(str(own[0]).partition(_RAYS_NOTE)[0].rstrip()) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was raised from or wraps."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop()
        if each is None or each in seen:
            continue
        yield each
        seen.append(each)
        queue += [each.__cause__, each.__context__, getattr(each, "cause", None)]
        queue += getattr(each, "worker_failures", {}).values()


class StageMetrics:
    """What a stage has done, among the metrics that Ray exports for Prometheus.

    The counter `ray_raycap_photos_total` is tagged by stage and outcome (`done`, `failed`), the gauges
    `ray_raycap_pending_photos` and `ray_raycap_photos_per_s` by stage.
    """

    def __init__(self, stage: str) -> None:
        """Start at nothing.

        Args:
            stage: the value of the tag.
        """
        self._stage = {"stage": stage}
        keys = ("stage",)
        self._photos = Counter("raycap_photos", "Photos that are finished with.", tag_keys=("stage", "outcome"))
        self._pending = Gauge("raycap_pending_photos", "Photos of the run that are not finished.", tag_keys=keys)
        self._rate = Gauge("raycap_photos_per_s", "Photos a second, over the run so far.", tag_keys=keys)

    def add(self, *, done: int, failed: int, pending: int, rate: float) -> None:
        """Add what was finished since the last call, and set the gauges."""
        for outcome, count in (("done", done), ("failed", failed)):
            if count:
                self._photos.inc(count, {**self._stage, "outcome": outcome})
        self._pending.set(pending, self._stage)
        self._rate.set(rate, self._stage)
