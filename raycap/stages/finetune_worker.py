"""The worker of the finetune stage: photos that tasks decode for it, its epochs, and what it writes.

Runs inside Ray Train's process; knows nothing of how it is started.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.train
from numpy.typing import NDArray

from raycap.averaging import load_arrays, save_arrays
from raycap.config import FinetuneConfig
from raycap.errors import InputError, RaycapError, TooManyFailuresError
from raycap.input_sizes import input_size
from raycap.locations import join
from raycap.operators import DecodePhotos, DrawViews, to_images
from raycap.pipeline import run_in_order
from raycap.prepared import Prepared
from raycap.runs import require_record
from raycap.schema import HISTORY_FILE
from raycap.sequences import encode_captions
from raycap.storage import write_bytes, write_json
from raycap.word_shares import mean_shares, word_shares

_STATE, _BEST, _PROGRESS = "state.npz", "best.npz", "progress.json"
_SHOW_EVERY_S: Final = 0.5
_BATCHES_AHEAD: Final = 8  # that are decoded before they are needed


def run_worker(options: dict[str, Any]) -> None:
    """Fine-tune an encoder; what Ray Train runs.

    Args:
        options: `config`; `encoder_file`, where to write the encoder; `num_threads`, None on a GPU; and the `board`
            that is reported to.
    """
    from raycap.devices import configure
    from raycap.encoder import load_trainable
    from raycap.encoder_tuning import EncoderTuner

    config: FinetuneConfig = options["config"]
    require_record(config.out)
    configure(options["num_threads"])
    photos = _Photos(config)
    tuner = EncoderTuner(
        load_trainable(config.encoder, weights=config.weights, seed=config.seed, spatial=config.spatial),
        config.tuning,
        mean_shares=photos.mean_shares,
        num_photos=photos.num_training,
        seed=config.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        worker = _Worker(config, photos, tuner, Path(folder), options["board"])
        worker.resume()
        while worker.goes_on():
            worker.run_epoch()
        worker.finish(options["encoder_file"])


class _Photos:
    """The photos of the splits, and the words that are said of each."""

    def __init__(self, config: FinetuneConfig) -> None:
        self._config = config
        self._size = input_size(config.encoder)
        prepared = Prepared.open(config.prepared)
        self._vocab_size = prepared.tokenizer.vocab_size
        self._captions: dict[str, list[list[int]]] = {}
        self._tables: dict[str, pa.Table] = {}
        self.num_failed: dict[str, int] = {}  # photos that could not be read, when a split was last gone through
        listed = prepared.photos.select(["image_id", "uri"])
        for split in ("train", "dev"):
            encoded = encode_captions(prepared.captions, prepared.tokenizer, split)
            self._captions |= {name: [each[1:-1] for each in captions] for name, captions in encoded.items()}
            self._tables[split] = listed.filter(pc.is_in(listed["image_id"], pa.array(list(encoded), pa.string())))
        train = [self._captions[name] for name in self._tables["train"]["image_id"].to_pylist()]
        said = mean_shares(train, self._vocab_size)
        often = np.argsort(-said, kind="stable")[: config.tuning.finetune_words]
        self._words = often[said[often] > 0]
        if not len(self._words):
            raise InputError(f"{config.prepared} has no words to learn; prepare it with a lower --min-word-count")
        self.mean_shares: NDArray[np.float64] = said[self._words]

    @property
    def num_training(self) -> int:
        return len(self._tables["train"])

    def training(self, epoch: int) -> Iterator[Any]:
        """Yield each training photo once, in an order and a view that the seed and the epoch decide."""
        order = np.random.default_rng([self._config.seed, epoch]).permutation(self.num_training)
        draw = DrawViews(height_px=self._size[0], width_px=self._size[1], seed=self._config.seed, epoch=epoch)
        yield from self._batches("train", self._tables["train"].take(order), draw)

    def dev(self) -> Iterator[Any]:
        yield from self._batches("dev", self._tables["dev"])

    def _batches(self, split: str, photos: pa.Table, *further: Callable[[pa.Table], pa.Table]) -> Iterator[Any]:
        from raycap.encoder_tuning import TuningBatch

        config, size = self._config, self._config.tuning.finetune_batch_size
        height_px, width_px = self._size
        decode = DecodePhotos.asked_for(config, self._size)
        shards = [photos.slice(start, size) for start in range(0, len(photos), size)]
        self.num_failed[split] = 0
        for block in run_in_order(shards, [decode, *further], ahead=_BATCHES_AHEAD):
            good = block.filter(pc.is_null(block["error_type"]))
            self.num_failed[split] += len(block) - len(good)
            if len(good):
                captions = [self._captions[name] for name in good["image_id"].to_pylist()]
                shares = word_shares(captions, self._vocab_size)[:, self._words]
                images = to_images(good["image"].combine_chunks(), height_px, width_px)
                yield TuningBatch(images, shares.astype(np.float32))
        if self.num_failed[split] == len(photos):
            raise TooManyFailuresError.of_all(len(photos), "; raycap extract would say why")


class _Worker:
    """The epochs, and what they leave."""

    def __init__(self, config: FinetuneConfig, photos: _Photos, tuner: Any, folder: Path, board: Any) -> None:
        self._config, self._photos, self._tuner, self._board = config, photos, tuner, board
        self._checkpoint = folder
        self._history: list[dict[str, Any]] = []
        self._shown_at = 0.0

    def resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            checkpoint.to_directory(self._checkpoint)
            self._history = json.loads((self._checkpoint / _PROGRESS).read_text())
            self._tuner.set_state(load_arrays(self._checkpoint / _STATE))

    def goes_on(self) -> bool:
        return len(self._history) < self._config.tuning.finetune_epochs

    @property
    def _best(self) -> Mapping[str, Any]:
        return min(self._history, key=lambda entry: float(entry["dev_loss"]))

    def run_epoch(self) -> None:
        epoch, started, done = len(self._history) + 1, time.monotonic(), 0

        def show(num_photos: int, loss: float) -> None:
            nonlocal done
            done += num_photos
            self._show(epoch, done, f"loss {loss:.2f}")

        train_loss = self._tuner.train_epoch(self._photos.training(epoch), on_step=show)
        wall_s = time.monotonic() - started
        losses = {"train_loss": train_loss, "dev_loss": self._tuner.evaluate(self._photos.dev())}
        if not np.isfinite(list(losses.values())).all():
            raise RaycapError("the loss is no longer a number; lower --finetune-learning-rate")
        entry = {"epoch": epoch, **losses, "num_failed": sum(self._photos.num_failed.values())}
        self._history.append(entry | {"photos_per_s": done / wall_s, "wall_s": wall_s})
        if self._best is self._history[-1]:
            save_arrays(self._checkpoint / _BEST, self._tuner.encoder_weights())
        save_arrays(self._checkpoint / _STATE, self._tuner.state())
        (self._checkpoint / _PROGRESS).write_text(json.dumps(self._history))
        best = {"best_epoch": self._best["epoch"], "best_dev_loss": self._best["dev_loss"]}
        write_json(join(self._config.out, HISTORY_FILE), {**best, "history": self._history})
        self._show(epoch, done, "", now=True)
        ray.train.report(entry, checkpoint=ray.train.Checkpoint.from_directory(str(self._checkpoint)))

    def finish(self, encoder_file: str) -> None:
        """Write the encoder as it was after the best epoch."""
        self._tuner.set_encoder_weights(load_arrays(self._checkpoint / _BEST))
        local = self._checkpoint / "encoder.keras"
        self._tuner.save_encoder(local)
        write_bytes(encoder_file, local.read_bytes())

    def _show(self, epoch: int, done: int, note: str, *, now: bool = False) -> None:
        if now or time.monotonic() - self._shown_at >= _SHOW_EVERY_S:
            self._shown_at = time.monotonic()
            self._board.put.remote({"epoch": epoch, "done": done, "note": note, "history": self._history})
