"""The finetune stage: an encoder whose last layers learn the words of the captions, with Ray Train."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from raycap.cluster import connect, place
from raycap.config import FinetuneConfig, ModelWorkersConfig
from raycap.encoder_choice import encoder_hash, with_absolute_encoder
from raycap.errors import InputError
from raycap.input_sizes import SAVED_MODEL_SUFFIX, input_size, is_saved
from raycap.locations import absolute, file_name, join, with_absolute
from raycap.prepared import Prepared
from raycap.progress import Progress, counted, say
from raycap.runs import Run, short_hash
from raycap.schema import HISTORY_FILE
from raycap.sole_writer import sole_writer
from raycap.stages.finetune_worker import run_worker
from raycap.storage import delete_folder, exists, read_json
from raycap.training_job import CHECKPOINTS_FOLDER, run_training

_ALL_CORES = 1 << 16  # of a node: as many threads as it has


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning came to.

    Attributes:
        encoder: location of the encoder, for extract.
        best_epoch: whose weights it has, counted from 1.
        best_dev_loss: nats a photo, over all words that are predicted.
        history: an entry an epoch.
    """

    encoder: str
    best_epoch: int
    best_dev_loss: float
    history: list[dict[str, Any]]


def finetuned_encoder(config: FinetuneConfig) -> str:
    """Return where the stage writes the encoder."""
    name = PurePosixPath(file_name(config.encoder)).stem if is_saved(config.encoder) else config.encoder.lower()
    return join(absolute(config.out), f"{name}-finetuned{SAVED_MODEL_SUFFIX}")


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune an encoder to the captions of the training photos, and write it as a saved model.

    Writes `ENCODER-finetuned.keras`, `history.json` and `run.json` under `config.out`. Killed and run again with the
    same configuration it goes on from the last finished epoch; finished, it does nothing, unless the encoder is gone.
    Photos that cannot be read are left out, and counted.

    Raises:
        InputError: if captions are missing, or there is no such encoder.
        WeightsError: if the encoder's weights cannot be had.
        ConflictError: if the output was made with other options or other inputs, or another run is writing it.
        TooManyFailuresError: if no photo of a split can be read.
        RaycapError: if the loss is no longer a number.
        WorkerDiedError: if the worker cannot be started.
    """
    config = with_absolute_encoder(with_absolute(config, "prepared", "out"))
    prepared = Prepared.open(config.prepared)
    input_size(config.encoder)  # an unknown encoder ends here
    num_photos = {split: len(prepared.image_ids(split)) for split in ("train", "dev")}
    for split, number in num_photos.items():
        if not number:
            raise InputError(f"{prepared.location} has no {split} captions; fine-tuning needs train and dev")
    inputs = {
        "tokenizer_hash": short_hash(prepared.tokenizer.to_json()),
        "captions_hash": prepared.captions_hash("train", "dev"),
        "encoder_hash": encoder_hash(config),
    }
    elsewhere = ("prepared", "limits", "use_gpu", "cpus_per_worker", "max_restarts")
    with sole_writer(config.out):
        run = Run.open(config.out, "finetune", config, ignore=elsewhere, inputs=inputs)
        if run.result is not None and exists(finetuned_encoder(config)):
            delete_folder(join(config.out, CHECKPOINTS_FOLDER))  # where a kill came between the record and this
            return FinetuneResult(**{**run.result, "encoder": finetuned_encoder(config)})
        run.save()
        connect()
        _fit(config, name=f"finetune-{short_hash(run.identity)}", num_photos=num_photos["train"])
        outcome = read_json(join(config.out, HISTORY_FILE))
        result = FinetuneResult(encoder=finetuned_encoder(config), **outcome)
        run.save(asdict(result))
        delete_folder(join(config.out, CHECKPOINTS_FOLDER))
        return result


def _fit(config: FinetuneConfig, *, name: str, num_photos: int) -> None:
    threads, num_gpus = config.cpus_per_worker or _ALL_CORES, float(config.use_gpu)
    placement = place(ModelWorkersConfig(num_workers=1, num_gpus=num_gpus, cpus_per_worker=threads))
    epochs_said = 0
    with Progress("finetune", num_photos, unit="photos") as progress:

        def show(state: Mapping[str, Any]) -> None:
            nonlocal epochs_said
            for entry in state["history"][epochs_said:]:
                losses = f"train loss {entry['train_loss']:.2f}, dev loss {entry['dev_loss']:.2f}"
                failed = f"; {counted(entry['num_failed'], 'photo')} cannot be read" if entry["num_failed"] else ""
                say(f"epoch {entry['epoch']}: {losses}, {entry['photos_per_s']:.0f} photos/s{failed}")
            epochs_said = len(state["history"])
            label = f"epoch {state['epoch']}/{config.tuning.finetune_epochs}"
            progress.update(state["done"], note=state["note"], label=label)

        run_training(
            run_worker,
            {"config": config, "encoder_file": finetuned_encoder(config)},
            name=name,
            out=config.out,
            placement=placement,
            max_restarts=config.max_restarts,
            show=show,
        )
