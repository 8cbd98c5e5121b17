"""The train stage: features and captions to a bundle, with Ray Train. Knows nothing of photos' pixels."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import ray.train

from raycap.cluster import Capacity, connect, own_errors, require_on_every_node, watched_board
from raycap.config import TrainConfig
from raycap.errors import InputError, RaycapError
from raycap.features import FeatureSet
from raycap.locations import join, with_absolute
from raycap.prepared import Prepared
from raycap.progress import Progress, printable, say
from raycap.runs import RUN_FILE, Run, short_hash
from raycap.sole_writer import sole_writer
from raycap.stages.train_worker import HISTORY_FILE, run_worker
from raycap.storage import delete_folder, read_json

CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        best_epoch: whose weights the bundle holds, counted from 1.
        best_dev_loss: nats a word, every dev caption once.
        history: an entry an epoch.
        peak_memory_bytes: of the first worker's process.
    """

    best_epoch: int
    best_dev_loss: float
    history: list[dict[str, Any]]
    peak_memory_bytes: int


def train(config: TrainConfig) -> TrainResult:
    """Train the merge model and write its bundle.

    Writes `bundle/`, `history.json`, `tensorboard/`, `model.svg` and `run.json` under `config.out`. Killed and run
    again with the same configuration it goes on from the last finished epoch; finished, it does nothing.

    Raises:
        InputError: if captions or features are missing.
        ConflictError: if the output was made with other options or other inputs, or another run is writing it.
        RaycapError: if the loss is no longer a number.
    """
    config = with_absolute(config, "prepared", "features", "out")
    prepared = Prepared.open(config.prepared)
    features = FeatureSet.open(config.features)
    inputs = {"tokenizer_hash": short_hash(prepared.tokenizer.to_json()), "encoder_hash": features.card.weights_hash}
    elsewhere = ("num_workers", "use_gpu", "cpus_per_worker", "max_restarts")
    run = Run.open(config.out, "train", config, ignore=elsewhere, inputs=inputs)
    if run.result is not None:
        return TrainResult(**run.result)
    num_captions = _check_coverage(prepared, features)
    with sole_writer(config.out):
        run.save()
        connect()
        require_on_every_node(join(config.out, RUN_FILE))
        _fit(config, name=f"train-{short_hash(run.identity)}", num_captions=num_captions)
        result = TrainResult(**_read_outcome(config.out))
        run.save(asdict(result))
        delete_folder(join(config.out, CHECKPOINTS_FOLDER))
        return result


def _check_coverage(prepared: Prepared, features: FeatureSet) -> int:
    """Return the number of training captions whose photo has a feature; say how many have none."""
    present = set(features.image_ids())
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


def _fit(config: TrainConfig, *, name: str, num_captions: int) -> None:
    from ray.train.tensorflow import TensorflowTrainer  # imports TensorFlow, which takes seconds

    now = Capacity.with_at_least(num_gpus=config.num_workers if config.use_gpu else 0)
    cpus = sum(now.cpus)
    threads = config.cpus_per_worker or max(1, int(min(cpus / config.num_workers, max(now.cpus))))
    epochs_said = 0

    with Progress("train", num_captions, unit="captions") as progress:

        def show(state: Mapping[str, Any]) -> None:
            nonlocal epochs_said
            for entry in state["history"][epochs_said:]:
                say(
                    f"epoch {entry['epoch']}: train loss {entry['train_loss']:.3f}, dev loss {entry['dev_loss']:.3f}, "
                    f"{entry['captions_per_s']:.0f} captions/s"
                )
            epochs_said = len(state["history"])
            progress.update(state["done"], label=f"epoch {state['epoch']}/{config.epochs}")

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
                    failure_config=ray.train.FailureConfig(max_failures=config.max_restarts),
                    checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                ),
            )
            trainer.fit()


def _read_outcome(out: str) -> dict[str, Any]:
    outcome: dict[str, Any] = read_json(join(out, HISTORY_FILE))
    last = outcome["history"][-1]
    if not math.isfinite(last["dev_loss"]):
        raise RaycapError(f"the loss is {last['dev_loss']} after epoch {last['epoch']}; lower --learning-rate")
    return outcome
