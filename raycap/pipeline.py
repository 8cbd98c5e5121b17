"""Jobs over photos: shards in, operators over them, to the end. Knows Ray, and nothing of what the operators do."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata
from ray.experimental import internal_kv

from raycap.cluster import Placement, StageMetrics, own_errors
from raycap.config import WorkersConfig
from raycap.errors import TooManyFailuresError, WorkerDiedError
from raycap.progress import Progress
from raycap.shards import ShardCounts, cut

_WRITE_CPUS = 0.1
_MIN_PHOTOS_TO_JUDGE = 100
# Decoded photos that wait for a model: enough to keep it busy, and no more, or decoding would run ahead as far as Ray's
# object store reaches.
_BLOCKS_AHEAD, _BLOCKS_AHEAD_PER_WORKER = 16, 8
# Ray Data keeps half of a cluster for its steps in equal parts, and starts a worker once the others have 1.75 blocks
# each. Then nodes that join get no model worker: what is left of their CPUs to the model's step is less than it needs.
_KEPT_FOR_EACH_STEP, _BLOCKS_A_WORKER_TO_GROW = 0.2, 1.0
_MAX_DEATHS_WHILE_LOADING = 3


@dataclass(frozen=True, kw_only=True)
class ModelStep:
    """An operator class that holds a model, run in a pool of actors.

    Attributes:
        operator: the class.
        options: its constructor's keyword arguments.
        placement: of its actors.
    """

    operator: type
    placement: Placement
    options: Mapping[str, Any] = field(default_factory=dict)


Step = ModelStep | Callable[[pa.Table], pa.Table]


class _Shards(Datasource):  # type: ignore[misc]
    """Ray Data's view of tables that are in the driver: each becomes one block, sent when its turn comes."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        super().__init__()
        self._tables = tables

    def estimate_inmemory_data_size(self) -> int:
        return sum(table.nbytes for table in self._tables)

    def get_read_tasks(self, *_args: object, **_options: object) -> list[ReadTask]:
        return [self._task(table) for table in self._tables]

    @staticmethod
    def _task(table: pa.Table) -> ReadTask:
        metadata = BlockMetadata(num_rows=len(table), size_bytes=table.nbytes, input_files=None, exec_stats=None)
        return ReadTask(lambda: [table], metadata, schema=table.schema)


def plan_shards(photos: pa.Table, workers: WorkersConfig, placement: Placement, *, photo_bytes: int) -> list[pa.Table]:
    """Cut photos into shards that Ray Data passes on as one block each.

    Args:
        photos: at least one.
        workers: how large shards may be.
        placement: of the model workers.
        photo_bytes: of a photo at its largest, decoded or encoded; a block takes up three quarters of Ray Data's target
            size at most.
    """
    target = DataContext.get_current().target_max_block_size or 128 * 2**20
    fitting = max(1, int(0.75 * target / photo_bytes))
    return cut(photos, shard_size=min(workers.shard_size, fitting), num_workers=placement.num_workers)


def run_blocks(
    shards: Sequence[pa.Table], steps: Sequence[Step], *, photo_bytes: int | None = None
) -> Generator[pa.Table, None, None]:
    """Run shards, a block each, through the steps and yield the blocks that come out, as they come.

    Args:
        shards: rows of what is pending.
        steps: what is done to them.
        photo_bytes: of a row at its largest; bounds what waits between the steps. None leaves that to Ray.

    Raises:
        RaycapError: one that an operator raised, as it was raised.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.op_resource_reservation_ratio = _KEPT_FOR_EACH_STEP
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _BLOCKS_A_WORKER_TO_GROW
    with own_errors():
        dataset = _build(shards, steps)
        if photo_bytes is not None:
            _bound(dataset, shards, steps, photo_bytes)
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _bound(dataset: Dataset, shards: Sequence[pa.Table], steps: Sequence[Step], photo_bytes: int) -> None:
    """Bound the object store that a job takes."""
    num_workers = max((step.placement.num_workers for step in steps if isinstance(step, ModelStep)), default=1)
    num_blocks = _BLOCKS_AHEAD + _BLOCKS_AHEAD_PER_WORKER * num_workers
    limit = num_blocks * photo_bytes * max(len(shard) for shard in shards)
    dataset.context.execution_options.resource_limits = ExecutionResources(object_store_memory=limit)


def run_in_order(
    shards: Iterable[pa.Table], steps: Sequence[Callable[[pa.Table], pa.Table]], *, ahead: int
) -> Iterator[pa.Table]:
    """Run shards through the steps, a task each, and yield what comes out in the shards' order.

    For a model that learns beside the steps and takes longer than they: while its blocks wait to be taken, Ray Data's
    loop asks for them without a pause, and keeps three quarters of a core from the model in the same process.

    Args:
        shards: rows of what is to be done.
        steps: what is done to them.
        ahead: tasks that run, or are done, before they are needed.

    Raises:
        RaycapError: one that a step raised.
    """

    def through(shard: pa.Table) -> pa.Table:
        for step in steps:
            shard = step(shard)
        return shard

    task = ray.remote(num_cpus=_WRITE_CPUS)(through)
    waiting: deque[Any] = deque()
    with own_errors():
        for shard in shards:
            waiting.append(task.remote(shard.combine_chunks()))
            if len(waiting) > ahead:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())


def run_shards(
    shards: Sequence[pa.Table],
    steps: Sequence[Step],
    *,
    photo_bytes: int,
    label: str,
    before: ShardCounts,
    max_failure_rate: float,
) -> ShardCounts:
    """Run shards through steps that end in `WriteShards`, showing progress.

    Args:
        shards: the pending photos.
        steps: what is done to them.
        photo_bytes: of a photo at its largest, as for `plan_shards`.
        label: for the progress bar.
        before: what earlier runs finished.
        max_failure_rate: share of this run's photos that may fail.

    Returns:
        What this run finished.

    Raises:
        TooManyFailuresError: as soon as more photos fail, once enough have been tried to judge.
        RaycapError: one that an operator raised.
    """
    counts = ShardCounts()
    metrics = StageMetrics(label)
    pending = sum(len(shard) for shard in shards)
    # closed, not left to the garbage collector: an error's traceback would keep the job's actors, and their CPUs
    blocks = closing(run_blocks(shards, steps, photo_bytes=photo_bytes))
    with Progress(label, before.total + pending, unit="photos", done=before.total) as progress, blocks as each:
        for block in each:
            new = ShardCounts(sum(block["done"].to_pylist()), sum(block["failed"].to_pylist()))
            counts += new
            progress.update(before.total + counts.total, note=f"{counts.failed} failed" if counts.failed else "")
            metrics.add(done=new.done, failed=new.failed, pending=pending - counts.total, rate=progress.rate)
            if counts.total >= min(_MIN_PHOTOS_TO_JUDGE, pending) and counts.failed > max_failure_rate * counts.total:
                raise TooManyFailuresError(
                    f"{counts.failed} of {counts.total} photos failed, more than --max-failure-rate "
                    f"{max_failure_rate:g}; the failures table says why"
                )
    return counts


def _build(shards: Sequence[pa.Table], steps: Sequence[Step]) -> Dataset:
    """Return the lazy dataset that runs each shard, as one block, through the steps."""
    tables = [shard.combine_chunks() for shard in shards]
    whole_blocks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    decode_cpus = min(
        (step.placement.decode_cpus for step in steps if isinstance(step, ModelStep)), default=_WRITE_CPUS
    )
    dataset = ray.data.read_datasource(_Shards(tables), override_num_blocks=len(tables), num_cpus=decode_cpus)
    for step in steps:
        if isinstance(step, ModelStep):
            # map_batches refuses whole blocks where a GPU is asked for; the operators batch within a block themselves
            dataset = dataset.map_batches_internal(
                _giving_up(step.operator),
                fn_constructor_kwargs=dict(step.options),
                compute=_pool(step, len(tables)),
                num_cpus=step.placement.num_cpus,
                num_gpus=step.placement.num_gpus or None,
                **whole_blocks,
            )
        else:
            cpus = decode_cpus if step is steps[0] else _WRITE_CPUS
            dataset = dataset.map_batches(_as_function(step), num_cpus=cpus, **whole_blocks)
    return dataset


def _giving_up(operator: type) -> type:
    """Return an operator's class that ends the run once its process has died some times while it loaded its model.

    Ray starts an actor's process again however often it dies, which is right for one that works between deaths, and for
    ever where it never comes to that. How often it has died in a row is kept by the cluster.
    """

    class Counted(operator):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            key = f"raycap-loads-{ray.get_runtime_context().get_actor_id()}".encode()
            self._deaths = int(internal_kv._internal_kv_get(key) or 0)
            if self._deaths <= _MAX_DEATHS_WHILE_LOADING:
                internal_kv._internal_kv_put(key, str(self._deaths + 1).encode())
                super().__init__(**options)
                internal_kv._internal_kv_del(key)

        def __call__(self, table: pa.Table) -> Any:
            if self._deaths > _MAX_DEATHS_WHILE_LOADING:  # said here, as Ray keeps no error of a constructor's whole
                raise WorkerDiedError(
                    f"the process of {operator.__name__} died {self._deaths} times while it loaded its model, for want "
                    "of memory as a rule; give fewer workers with --num-workers, or nodes with more memory"
                )
            return super().__call__(table)

    Counted.__name__ = operator.__name__
    return Counted


def _pool(step: ModelStep, num_shards: int) -> ActorPoolStrategy:
    """Return how many actors: all that have room at once, as Ray Data would keep part of the cluster free of them."""
    placement = step.placement
    at_first = min(placement.num_workers, num_shards)
    return ActorPoolStrategy(min_size=at_first, max_size=at_first if placement.fixed else None)


def _as_function(operator: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    """Ray Data takes any callable object for an actor class; a plain function runs in tasks."""

    def apply(table: pa.Table) -> pa.Table:
        return operator(table)

    apply.__name__ = type(operator).__name__
    return apply
