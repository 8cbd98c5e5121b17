"""The train stage: features and captions to a bundle, with Ray Train. Knows nothing of photos' pixels."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.compute as pc
import ray
import ray.train

from raycap.board import watched_board
from raycap.chatter import without_chatter
from raycap.cluster import Capacity, connect, is_own, own_errors
from raycap.config import TrainConfig
from raycap.errors import InputError, RaycapError, WorkerDiedError
from raycap.features import FeatureSet
from raycap.locations import join, with_absolute
from raycap.prepared import Prepared
from raycap.progress import Progress, printable, say
from raycap.runs import Run, short_hash
from raycap.schema import HISTORY_FILE
from raycap.sole_writer import sole_writer
from raycap.stages.train_worker import combine_members, member_folder, run_worker
from raycap.storage import delete_folder, read_json

CHECKPOINTS_FOLDER = "checkpoints"
# Times that Ray Train may fail to start workers, whose deaths before training begins it does not count as failures; so
# does it count a minute's wait for a node. So many are what a cloud may take to start one.
_MAX_FAILED_STARTS = 15


@dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        best_epoch: whose weights the bundle holds, counted from 1; of several members the best epoch of all.
        best_dev_loss: nats a word, every dev caption once; of several members that of all together.
        history: an entry an epoch; epochs of further members are counted on.
        peak_memory_bytes: of the first worker's process.
    """

    best_epoch: int
    best_dev_loss: float
    history: list[dict[str, Any]]
    peak_memory_bytes: int


def train(config: TrainConfig) -> TrainResult:
    """Train a captioner and write its bundle.

    Writes `bundle/`, `history.json`, `tensorboard/`, `model.svg` and `run.json` under `config.out`; of several members,
    the same of each under `members/`, and one `bundle/`, `history.json` and `model.svg` of all. Killed and run
    again with the same configuration it goes on from the last finished epoch, or from one before it if that ended less
    than about two seconds ago, which Ray Train takes to note it; finished, it does nothing.

    Raises:
        InputError: if captions or features are missing, or features are not of the decoder's kind, or several workers
            would open ports that nobody allowed.
        ConflictError: if the output was made with other options or other inputs, or another run is writing it.
        RaycapError: if the loss is no longer a number.
        WorkerDiedError: if workers cannot be started.
    """
    if config.num_workers > 1 and is_own() and not config.open_ports:
        raise InputError(
            "TensorFlow's workers talk to each other without authentication, and listen on all interfaces of this "
            "machine; allow it with --open-ports, or leave out --num-workers: one worker uses all cores"
        )
    config = with_absolute(config, "prepared", "features", "out")
    prepared = Prepared.open(config.prepared)
    features = FeatureSet.open(config.features)
    if config.model.needs_regions and features.card.num_regions == 1:
        raise InputError(
            f"a decoder with attention looks at the regions of a photo, and {config.features} holds one feature each; "
            "extract with --spatial, or give --decoder merge"
        )
    present = set(features.image_ids())
    inputs = {
        "tokenizer_hash": short_hash(prepared.tokenizer.to_json()),
        "encoder_hash": features.card.weights_hash,
        "num_views": features.num_views,
        "captions_hash": prepared.captions_hash("train", "dev"),
        "photos_hash": short_hash(sorted(present.intersection(prepared.image_ids("train", "dev")))),
    }
    elsewhere = ("num_workers", "open_ports", "use_gpu", "cpus_per_worker", "max_restarts")
    num_captions = _check_coverage(prepared, features, present)
    with sole_writer(config.out):
        run = Run.open(config.out, "train", config, ignore=elsewhere, inputs=inputs)
        if run.result is not None:
            return TrainResult(**run.result)
        run.save()
        connect()
        if config.num_members == 1:
            _fit(config, name=f"train-{short_hash(run.identity)}", num_captions=num_captions)
        else:
            _fit_members(config)
        result = TrainResult(**_read_outcome(config.out))
        run.save(asdict(result))
        delete_folder(join(config.out, CHECKPOINTS_FOLDER))
        return result


def _check_coverage(prepared: Prepared, features: FeatureSet, present: set[str]) -> int:
    """Return the number of training captions whose photo is `present` in the features; say how many are not."""
    num_captions = 0
    for split in ("train", "dev"):
        captions = prepared.captions.filter(pc.equal(prepared.captions["split"], split))
        image_ids = captions["image_id"].to_pylist()
        missing = set(image_ids) - present
        if not image_ids:
            raise InputError(f"{prepared.location} has no {split} captions; training needs train and dev")
        if len(missing) == len(set(image_ids)):
            raise InputError(f"no {split} photo has a feature in {features.folder}; extract the same manifest")
        if missing:
            say(f"{len(missing)} {split} photos have no feature and are left out, such as {printable(min(missing))}")
        if split == "train":
            num_captions = sum(image_id in present for image_id in image_ids)
    return num_captions


def _fit_members(config: TrainConfig) -> None:
    """Train each member, as far as it is not there, and write the bundle of all."""
    for number in range(1, config.num_members + 1):
        say(f"model {number} of {config.num_members}")
        out = member_folder(config, number)
        alone = replace(config, num_members=1, keep_neighbors=False, fit_matching=False)
        train(replace(alone, seed=config.seed + number - 1, out=out))
    cpus, num_threads = _share(config)
    resources = {"num_cpus": min(num_threads, cpus), "num_gpus": 1 if config.use_gpu else 0}
    with own_errors():
        ray.get(ray.remote(**resources)(combine_members).remote(config, num_threads))


def _share(config: TrainConfig) -> tuple[float, int]:
    """Return the CPUs that there are, and the threads of each worker."""
    now = Capacity.with_at_least(num_gpus=config.num_workers if config.use_gpu else 0)
    cpus = sum(now.cpus)
    return cpus, config.cpus_per_worker or max(1, int(min(cpus / config.num_workers, max(now.cpus))))


def _fit(config: TrainConfig, *, name: str, num_captions: int) -> None:
    with without_chatter():
        from ray.train.tensorflow import TensorflowTrainer  # imports TensorFlow, which takes seconds

    cpus, threads = _share(config)
    epochs_said = 0

    with Progress("train", num_captions, unit="captions") as progress:

        def show(state: Mapping[str, Any]) -> None:
            nonlocal epochs_said
            for entry in state["history"][epochs_said:]:
                say(_told(entry))
            epochs_said = len(state["history"])
            notes = [state["note"], *(f"dev {each['dev_loss']:.3f}" for each in state["history"][-1:])]
            num_epochs = config.epochs + config.cider_epochs
            progress.update(
                state["done"], note=", ".join(filter(None, notes)), label=f"epoch {state['epoch']}/{num_epochs}"
            )

        with own_errors(), watched_board(show) as board:
            trainer = TensorflowTrainer(
                run_worker,
                train_loop_config={"config": config, "num_threads": threads, "board": board},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=config.num_workers,
                    use_gpu=config.use_gpu,
                    resources_per_worker={"CPU": min(threads, cpus / config.num_workers)}
                    | ({"GPU": 1} if config.use_gpu else {}),
                ),
                run_config=ray.train.RunConfig(
                    name=name,
                    storage_path=join(config.out, CHECKPOINTS_FOLDER),
                    failure_config=ray.train.FailureConfig(
                        max_failures=config.max_restarts, controller_failure_limit=_MAX_FAILED_STARTS
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


def _told(entry: Mapping[str, Any]) -> str:
    """Return an epoch in words."""
    names = {"train_loss": "train loss", "train_cider_d": "train CIDEr-D", "dev_loss": "dev loss"}
    names |= {"cider_d": "CIDEr-D", "bleu_4": "BLEU-4"}
    values = ", ".join(f"{text} {entry[name]:.3f}" for name, text in names.items() if name in entry)
    return f"epoch {entry['epoch']}: {values}, {entry['captions_per_s']:.0f} captions/s"


def _read_outcome(out: str) -> dict[str, Any]:
    outcome: dict[str, Any] = read_json(join(out, HISTORY_FILE))
    last = outcome["history"][-1]
    if not math.isfinite(last["dev_loss"]):
        raise RaycapError(f"the loss is {last['dev_loss']} after epoch {last['epoch']}; lower --learning-rate")
    return outcome
