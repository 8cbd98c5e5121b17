"""One worker of the train stage: its stream of batches, its epochs, and what the first worker writes.

Runs inside Ray Train's processes; knows nothing of how they are started.
"""

import itertools
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray.train
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from raycap.cider import CiderD
from raycap.config import TrainConfig
from raycap.diagram import model_svg
from raycap.features import FeatureSet
from raycap.locations import join
from raycap.matching import Matching
from raycap.metrics import PROTOCOLS, Corpus, as_numbers, measure
from raycap.model_card import BUNDLE_FOLDER, ModelCard
from raycap.neighbors import Neighbors
from raycap.prepared import Prepared
from raycap.runs import require_record, versions
from raycap.schema import HISTORY_FILE
from raycap.sequences import PackedBatch, encode_captions, packed_batches, stream_photos
from raycap.storage import read_json, upload_folder, write_json, write_text

TENSORBOARD_FOLDER: Final = "tensorboard"
DIAGRAM_FILE: Final = "model.svg"
_MEMBERS_FOLDER: Final = "members"
_DEV_BATCH_SIZE = 64
_LOGGED = {"train_loss", "train_cider_d", "dev_loss", "cider_d", "bleu_4", "captions_per_s", "input_wait_s"}
_LIKELIHOOD, _CIDER = "likelihood", "cider_d"
_SHOW_EVERY_S = 0.5


def run_worker(options: dict[str, Any]) -> None:
    """Train on one worker; what Ray Train runs in each.

    Args:
        options: `config`; `features`, the same on every worker though extract may add to them; `num_threads`, None on a
            GPU; and the `board` that the first worker reports to.
    """
    import tensorflow as tf

    from raycap.devices import configure
    from raycap.fitting import Fitter

    config: TrainConfig = options["config"]
    require_record(config.out)
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    configure(options["num_threads"])
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if num_workers > 1 else None
    data = _Data(config, options["features"], rank=rank, num_workers=num_workers)
    fitter = Fitter(
        config,
        vocab_size=data.prepared.tokenizer.vocab_size,
        feature_shape=data.features.card.shape,
        moments=data.moments(),
        strategy=strategy,
        steps_an_epoch=data.steps_an_epoch,
        rank=rank,
    )
    with tempfile.TemporaryDirectory() as folder:
        worker = _Worker(config, data, fitter, Path(folder), options["board"] if rank == 0 else None)
        worker.resume()
        while worker.goes_on():
            worker.run_epoch()
        if rank == 0 and worker.is_sound:
            worker.finish()


class _Data:
    """One worker's batches, streamed from storage."""

    def __init__(self, config: TrainConfig, features: FeatureSet, *, rank: int, num_workers: int) -> None:
        self._config = config
        self._part = {"rank": rank, "num_workers": num_workers}
        self.prepared = Prepared.open(config.prepared)
        self.features = features
        captions, tokenizer = self.prepared.captions, self.prepared.tokenizer
        self._train = encode_captions(captions, tokenizer, "train")
        self._dev = encode_captions(captions, tokenizer, "dev")

    @property
    def steps_an_epoch(self) -> int:
        """Steps; 0 where the learning rate does not ask for it, as features are listed to know."""
        if self._config.schedule == "constant":
            return 0
        num_photos = len(self._train.keys() & set(self.features.image_ids()))
        return -(-num_photos // self._config.global_batch_size)

    def moments(self) -> Any:
        if self._config.model.normalization != "standardize":
            return None
        return self.features.moments(self._train.keys())

    def train_batches(self, epoch: int) -> Iterator[PackedBatch]:
        """Every training photo once, in an order that the seed and the epoch decide."""
        rng = np.random.default_rng([self._config.seed, epoch])
        photos = stream_photos(self.features, self._train, window=self._config.shuffle_window, rng=rng)
        return packed_batches(photos, global_batch_size=self._config.global_batch_size, **self._part)

    def dev_batches(self) -> Iterator[PackedBatch]:
        photos = stream_photos(self.features, self._dev, window=_DEV_BATCH_SIZE)
        return packed_batches(photos, global_batch_size=_DEV_BATCH_SIZE, **self._part)

    def dev_captions(self, fitter: Any) -> tuple[list[str], list[Sequence[str]]]:
        """Return a caption of each dev photo, and people's."""
        references = self.prepared.references("dev")
        image_ids: list[str] = []

        def features() -> Iterator[NDArray[np.float32]]:
            for shard in self.features.iter_shards(wanted=references.keys()):
                if shard.image_ids:
                    image_ids.extend(shard.image_ids)
                    yield shard.features

        hypotheses = fitter.caption(features(), self.prepared.tokenizer)
        return hypotheses, [references[image_id] for image_id in image_ids]

    def kept(self) -> dict[str, Any]:
        """Return what a bundle is to hold of the training photos, by its attributes' names."""
        config = self._config
        if not (config.keep_neighbors or config.fit_matching):
            return {}
        known = Neighbors.of(self.features, self._train)
        vocab_size = self.prepared.tokenizer.vocab_size
        return {
            "neighbors": known if config.keep_neighbors else None,
            "matching": Matching.fit(known, vocab_size=vocab_size) if config.fit_matching else None,
        }

    @cached_property
    def reward(self) -> CiderD:
        """CIDEr-D of token ids, their weights by the training captions."""
        return CiderD([sequence[1:] for sequence in sequences] for sequences in self._train.values())


class _Timed:
    """An iterator over batches that knows how long it was waited for.

    Attributes:
        waited_s: so far.
    """

    def __init__(self, batches: Iterator[PackedBatch]) -> None:
        self._batches = batches
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[PackedBatch]:
        return self

    def __next__(self) -> PackedBatch:
        started = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self.waited_s += time.monotonic() - started


class _Worker:
    """The epochs of one worker; the first one, which has the board, also writes."""

    def __init__(self, config: TrainConfig, data: _Data, fitter: Any, folder: Path, board: Any) -> None:
        self._config, self._data, self._fitter, self._board = config, data, fitter, board
        self._checkpoint = folder / "checkpoint"
        self._checkpoint.mkdir()
        self._logs = folder / "tensorboard"
        self._history: list[dict[str, Any]] = []
        self._shown_at = 0.0

    @property
    def _best(self) -> dict[str, Any]:
        select_by = self._config.select_by
        if select_by == "dev_loss":
            return min(self._history, key=lambda entry: entry["dev_loss"])
        return max(self._history, key=lambda entry: entry[select_by])

    def resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        checkpoint.to_directory(self._checkpoint)
        self._history = self._fitter.load_progress(self._checkpoint)["history"]
        if self._history[-1]["objective"] == _CIDER:
            self._fitter.begin_tuning()
        self._fitter.load_state(self._checkpoint)

    @property
    def is_sound(self) -> bool:
        """Whether the loss is a number still; otherwise there is nothing to go on with, or to write."""
        return not self._history or math.isfinite(self._history[-1]["dev_loss"])

    @property
    def _objective(self) -> str | None:
        """What the next epoch is for; None if there is none."""
        done = [entry["objective"] for entry in self._history]
        if not self.is_sound:
            return None
        num_likelihood, num_cider = done.count(_LIKELIHOOD), done.count(_CIDER)
        impatient = self._history and len(done) - self._best["epoch"] >= self._config.patience
        if not num_cider and num_likelihood < self._config.epochs and not impatient:
            return _LIKELIHOOD
        return _CIDER if num_cider < self._config.cider_epochs else None

    def goes_on(self) -> bool:
        return self._objective is not None

    def run_epoch(self) -> None:
        epoch = len(self._history) + 1
        objective = self._objective
        started = time.monotonic()
        num_captions = 0
        num_workers = ray.train.get_context().get_world_size()
        batches = _Timed(self._data.train_batches(epoch))
        entry: dict[str, Any] = {"epoch": epoch, "objective": objective}

        def count(captions: int, note: str) -> None:
            nonlocal num_captions
            num_captions += captions
            self._show(epoch, num_captions, note)

        if objective == _CIDER:
            if not any(each["objective"] == _CIDER for each in self._history):
                self._fitter.load_best(self._checkpoint)
                self._fitter.begin_tuning()
            reward = self._fitter.tune_epoch(
                epoch,
                batches,
                self._data.reward,
                self._data.prepared.tokenizer,
                on_step=lambda captions, reward: count(captions, f"CIDEr-D {reward:.3f}"),
            )
            entry["train_cider_d"] = self._fitter.sum_over_workers(reward) / num_workers
        else:
            train_loss = self._fitter.train_epoch(
                epoch,
                batches,  # the others' loss is about the same
                on_step=lambda captions, loss: count(captions, f"loss {num_workers * loss.mean:.3f}"),
            )
            entry |= {"train_loss": train_loss.mean, "train_targets": train_loss.num_targets}
        wall_s = time.monotonic() - started
        dev_loss = self._fitter.evaluate(self._data.dev_batches())
        entry |= {
            "dev_loss": dev_loss.mean,
            "dev_targets": dev_loss.num_targets,
            "captions_per_s": num_captions * num_workers / wall_s,
            "wall_s": wall_s,
            "input_wait_s": batches.waited_s,
        }
        if self._config.select_by != "dev_loss":
            entry |= self._dev_scores() if math.isfinite(dev_loss.mean) else dict.fromkeys(("cider_d", "bleu_4"), 0.0)
        self._history.append(entry)
        if entry is self._best:  # every worker goes back to it, where epochs that compare captions follow
            self._fitter.keep_best(self._checkpoint)
        checkpoint = None
        if self._board is not None:
            self._write(entry)
            self._show(epoch, num_captions, "", now=True)
            checkpoint = ray.train.Checkpoint.from_directory(str(self._checkpoint))
        ray.train.report(entry, checkpoint=checkpoint)

    def _dev_scores(self) -> dict[str, float]:
        """Return CIDEr-D and BLEU-4 of dev, by the first worker: all must agree on which epoch is the best."""
        scores = {"cider_d": 0.0, "bleu_4": 0.0}
        if self._board is not None:
            corpus = Corpus.prepare(*self._data.dev_captions(self._fitter), PROTOCOLS["standard"])
            [statistics], _ = measure([corpus], meteor_timeout_s=0)
            found = as_numbers(statistics.scores())
            scores = {name: found[name] for name in scores}
        return {name: self._fitter.sum_over_workers(value) for name, value in scores.items()}

    def finish(self) -> None:
        """Write the bundle, with the weights of the best epoch."""
        from raycap.decoders import build_model
        from raycap.model import Bundle

        features, tokenizer = self._data.features, self._data.prepared.tokenizer
        model = build_model(self._config.model, vocab_size=tokenizer.vocab_size, feature_shape=features.card.shape)
        model.load_weights(self._fitter.best_weights(self._checkpoint))
        card = ModelCard(
            encoder=features.card,
            max_length=tokenizer.max_length,
            vocab_size=tokenizer.vocab_size,
            training=asdict(self._config),
            metrics=self._best,
            versions=versions(),
        )
        Bundle(model, tokenizer, card, **self._data.kept()).save(join(self._config.out, BUNDLE_FOLDER))
        write_text(join(self._config.out, DIAGRAM_FILE), model_svg(model))

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._fitter.save_state(self._checkpoint, {"history": self._history})
        outcome = {
            "best_epoch": self._best["epoch"],
            "best_dev_loss": self._best["dev_loss"],
            "history": self._history,
            "peak_memory_bytes": _peak_memory_bytes(),
        }
        write_json(join(self._config.out, HISTORY_FILE), outcome)
        self._log(entry)

    def _log(self, entry: Mapping[str, Any]) -> None:
        # a file an epoch: only closing a writer waits for it, and TensorBoard reads them as one
        with SummaryWriter(str(self._logs), filename_suffix=f".epoch-{entry['epoch']:04d}") as writer:
            for name in entry.keys() & _LOGGED:
                writer.add_scalar(name, entry[name], entry["epoch"])
        upload_folder(self._logs, join(self._config.out, TENSORBOARD_FOLDER))

    def _show(self, epoch: int, num_captions: int, note: str, *, now: bool = False) -> None:
        if self._board is None or (not now and time.monotonic() - self._shown_at < _SHOW_EVERY_S):
            return
        self._shown_at = time.monotonic()
        done = num_captions * ray.train.get_context().get_world_size()
        self._board.put.remote({"epoch": epoch, "done": done, "note": note, "history": self._history})


def member_folder(config: TrainConfig, number: int) -> str:
    """Return what the member with a number, from 1, writes."""
    return join(config.out, _MEMBERS_FOLDER, str(number))


def combine_members(config: TrainConfig, num_threads: int | None) -> None:
    """Write the bundle of all members as one model, and a history of all; what runs in a process of its own.

    Args:
        config: whose members are trained.
        num_threads: that TensorFlow may take; None leaves it its choice.
    """
    import tensorflow as tf

    from raycap.decoders import decoder_of, ensemble
    from raycap.dev_loss import DevLoss
    from raycap.devices import configure
    from raycap.model import Bundle

    configure(num_threads)
    folders = [member_folder(config, number) for number in range(1, config.num_members + 1)]
    histories = [read_json(join(folder, HISTORY_FILE)) for folder in folders]
    bundles = [Bundle.load(folder) for folder in folders]
    model = ensemble.combine([bundle.model for bundle in bundles])
    kernel, bias = map(tf.constant, ensemble.vocabulary_weights(ensemble.members(model)))
    data = _Data(config, FeatureSet.open(config.features), rank=0, num_workers=1)
    loss = DevLoss(decoder_of(model).forcing(model), lambda: (kernel, bias), data.features.card.shape)
    dev_loss = loss(data.dev_batches()).mean
    entries = [{**entry, "member": n} for n, each in enumerate(histories, start=1) for entry in each["history"]]
    history = [{**entry, "epoch": epoch} for epoch, entry in enumerate(entries, start=1)]
    firsts = itertools.accumulate((len(each["history"]) for each in histories[:-1]), initial=0)
    metrics = {"dev_loss": dev_loss, "members": [bundle.card.metrics for bundle in bundles]}
    card = replace(bundles[0].card, training=asdict(config), metrics=metrics, versions=versions())
    Bundle(model, bundles[0].tokenizer, card, **data.kept()).save(join(config.out, BUNDLE_FOLDER))
    write_text(join(config.out, DIAGRAM_FILE), model_svg(model))
    kept = [n + each["best_epoch"] for n, each in zip(firsts, histories, strict=True)]
    outcome = {
        "best_epoch": min(kept, key=lambda epoch: history[epoch - 1]["dev_loss"]),
        "best_dev_loss": dev_loss,
        "history": history,
        "peak_memory_bytes": max(_peak_memory_bytes(), *(each["peak_memory_bytes"] for each in histories)),
    }
    write_json(join(config.out, HISTORY_FILE), outcome)


def _peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
