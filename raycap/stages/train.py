"""The train stage: features and captions to a bundle, with Ray Train. Knows nothing of photos' pixels."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.compute as pc
import ray

from raycap.cluster import Capacity, Placement, connect, is_own, largest_memory_bytes, own_errors
from raycap.config import TrainConfig
from raycap.errors import InputError, RaycapError
from raycap.features import FeatureSet
from raycap.locations import join, with_absolute
from raycap.matching import fitting_bytes
from raycap.model_card import BUNDLE_FOLDER, is_bundle
from raycap.prepared import Prepared
from raycap.progress import Progress, printable, say
from raycap.runs import Run, short_hash
from raycap.schema import HISTORY_FILE
from raycap.sole_writer import sole_writer
from raycap.stages.train_worker import combine_members, member_folder, run_worker
from raycap.storage import delete_folder, read_json
from raycap.training_job import CHECKPOINTS_FOLDER, run_training


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
            would open ports that nobody allowed, or no node has the memory that `fit_matching` takes at the end.
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
        "features_hash": features.made_hash(),
        "captions_hash": prepared.captions_hash("train", "dev"),
        "photos_hash": short_hash(sorted(present.intersection(prepared.image_ids("train", "dev")))),
    }
    elsewhere = ("prepared", "num_workers", "open_ports", "use_gpu", "cpus_per_worker", "max_restarts")
    num_captions = _check_coverage(prepared, features, present)
    with sole_writer(config.out):
        run = Run.open(config.out, "train", config, ignore=elsewhere, inputs=inputs)
        if run.result is not None and is_bundle(join(config.out, BUNDLE_FOLDER)):
            delete_folder(join(config.out, CHECKPOINTS_FOLDER))  # where a kill came between the record and this
            return TrainResult(**run.result)
        run.save()
        connect()
        if config.fit_matching:
            _check_memory(features.card.dim, prepared.tokenizer.vocab_size)
        if config.num_members == 1:
            _fit(config, features, name=f"train-{short_hash(run.identity)}", num_captions=num_captions)
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


def _check_memory(dim: int, vocab_size: int) -> None:
    """Check that there will be memory for `--fit-matching`, which comes after all epochs."""
    needed, largest = fitting_bytes(dim, vocab_size), largest_memory_bytes()
    if needed > largest:
        raise InputError(
            f"--fit-matching needs {needed / 1e9:.0f} GB for {dim:,} numbers a photo and {vocab_size:,} words, and no "
            f"node has more than {largest / 1e9:.0f}; leave out rare words, with --min-word-count of prepare, or it"
        )


def _fit_members(config: TrainConfig) -> None:
    """Train each member, as far as it is not there, and write the bundle of all."""
    for number in range(1, config.num_members + 1):
        say(f"model {number} of {config.num_members}")
        out = member_folder(config, number)
        alone = replace(config, num_members=1, keep_neighbors=False, fit_matching=False)
        train(replace(alone, seed=config.seed * config.num_members + number - 1, out=out))
    placement = _place(config)
    with own_errors():
        combine = ray.remote(num_cpus=placement.num_cpus, num_gpus=placement.num_gpus)(combine_members)
        ray.get(combine.remote(config, placement.num_threads))


def _place(config: TrainConfig) -> Placement:
    """Return where the workers go: by default they share all cores."""
    num_workers = config.num_workers
    now = Capacity.with_at_least(num_gpus=num_workers if config.use_gpu else 0)
    share = sum(now.cpus) / num_workers
    if config.use_gpu:
        return Placement(num_workers=num_workers, fixed=True, num_gpus=1.0, num_cpus=min(1.0, share), num_threads=None)
    fitting = [each for each in range(1, int(max(now.cpus)) + 1) if now.workers_of(each) >= num_workers]
    largest = fitting[-1] if fitting else share
    threads = config.cpus_per_worker or max(1, int(largest))
    return Placement(
        num_workers=num_workers, fixed=True, num_gpus=0.0, num_cpus=min(threads, largest), num_threads=threads
    )


def _fit(config: TrainConfig, features: FeatureSet, *, name: str, num_captions: int) -> None:
    placement = _place(config)
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

        run_training(
            run_worker,
            {"config": config, "features": features},
            name=name,
            out=config.out,
            placement=placement,
            max_restarts=config.max_restarts,
            show=show,
        )


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
