"""A Ray Train job: its workers, their restarts, what an interruption leaves. Knows nothing of what is trained."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import ray
import ray.train

from raycap.board import watched_board
from raycap.chatter import without_chatter
from raycap.cluster import Placement, own_errors
from raycap.errors import RaycapError, WorkerDiedError
from raycap.locations import join

CHECKPOINTS_FOLDER: Final = "checkpoints"
"""Where a job keeps them under a stage's output, until it is finished."""

# Times that Ray Train may fail to start workers, whose deaths before training begins it does not count as failures; so
# does it count a minute's wait for a node. So many are what a cloud may take to start one.
_MAX_FAILED_STARTS = 15


def run_training(
    worker: Callable[[dict[str, Any]], None],
    options: Mapping[str, Any],
    *,
    name: str,
    out: str,
    placement: Placement,
    max_restarts: int,
    show: Callable[[Any], None],
) -> None:
    """Run a function in each worker, to the end; a job of the same name goes on from its last checkpoint.

    Args:
        worker: takes `options`, and with them the placement's `num_threads` and the `board` that the first worker
            reports to.
        options: for the workers.
        name: of the job; its checkpoints have it.
        out: the stage's output, under which they are.
        placement: of the workers.
        max_restarts: times that workers start again after one died.
        show: called in a thread of its own with what the first worker put on the board.

    Raises:
        WorkerDiedError: if workers cannot be started.
        RaycapError: one that a worker raised.
    """
    with without_chatter():
        from ray.train.tensorflow import TensorflowTrainer  # imports TensorFlow, which takes seconds

    use_gpu = placement.num_gpus > 0
    resources = {"CPU": placement.num_cpus} | ({"GPU": placement.num_gpus} if use_gpu else {})
    with own_errors(), watched_board(show) as board:
        trainer = TensorflowTrainer(
            _ending_with_own_errors(worker) if placement.num_workers == 1 else worker,
            train_loop_config={**options, "num_threads": placement.num_threads, "board": board},
            scaling_config=ray.train.ScalingConfig(
                num_workers=placement.num_workers, use_gpu=use_gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=join(out, CHECKPOINTS_FOLDER),
                failure_config=ray.train.FailureConfig(
                    max_failures=max_restarts, controller_failure_limit=_MAX_FAILED_STARTS
                ),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
        )
        controllers: list[Any] = []
        # Ray Train's handler of Ctrl-C ends the process, silently and with exit code 1, and stays when training is
        # over. Without it Ctrl-C is KeyboardInterrupt, as everywhere, and what it would have ended is ended below.
        trainer._register_sigint_handler = controllers.append
        try:
            trainer.fit()
        except ray.train.ControllerError as error:
            raise WorkerDiedError(
                f"{_MAX_FAILED_STARTS + 1} times there was no node for the workers within a minute, or workers "
                "died whenever they were started, for want of memory as a rule; the same command goes on"
            ) from error
        finally:
            for controller in controllers:  # nothing happens where it is done
                with suppress(ray.exceptions.RayActorError):
                    ray.get(controller.abort.remote())
        own = None
        with suppress(ray.exceptions.RayActorError):  # of what it knew, nothing is left
            own = ray.get(board.error.remote())
        if own is not None:
            raise own


def _ending_with_own_errors(worker: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return a worker that ends with an error of raycap's own: Ray Train starts one that raises it again, in vain.

    Not for several workers, of which the others would wait for it.
    """

    def run(options: dict[str, Any]) -> None:
        try:
            worker(options)
        except RaycapError as error:
            ray.get(options["board"].fail.remote(error))

    return run
