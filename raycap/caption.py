"""The caption stage: new photos to captions, straight from pixels, in one Ray Data job. Knows no human captions."""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from raycap.cluster import Placement, connect, place
from raycap.config import CaptionConfig
from raycap.datasets import PHOTO_EXTENSIONS
from raycap.errors import InputError, TooManyFailuresError
from raycap.model_card import ModelCard, find_bundle, read_card
from raycap.operators import CaptionFeatures, DecodePhotos, EncodePhotos, LoadEncoder, WriteShards
from raycap.pipeline import ModelStep, Step, photos_per_block, run_blocks, run_shards
from raycap.runs import Run, short_hash
from raycap.schema import GENERATED
from raycap.shards import ShardCounts, ShardedOutput, cut
from raycap.storage import absolute, exists, is_folder, join, list_files, with_absolute

FOLDER = "captions"
_ENCODER_SHARE = 0.7


@dataclass(frozen=True)
class CaptionResult:
    """What came of it.

    Attributes:
        num_captions: photos with a caption.
        num_failures: photos without one.
        num_new: photos that this run finished with, either way.
    """

    num_captions: int
    num_failures: int
    num_new: int


def caption(config: CaptionConfig, *, show: Callable[[dict[str, Any]], None] | None = None) -> CaptionResult:
    """Caption photos.

    With `config.out`, writes `captions/`, `failures/` and `run.json` under it; run again it does what is left. Without,
    writes nothing, and calls `show`.

    Args:
        config: what, with which model, and where to.
        show: called with each photo's row as it is finished, where there is no `config.out`: the columns that
            `captions/` would have, and `error_type` and `error_message`, None for a photo that went well.

    Raises:
        InputError: if a path is wrong, there are no photos, or no model.
        WeightsError: if the encoder's weights cannot be had.
        EncoderMismatchError: if they are not those that the model was trained with.
        ConflictError: if the output was made with another model or other options.
        TooManyFailuresError: if every photo failed, or more than the configuration allows.
    """
    config = with_absolute(config, "model", "out", "encoder_file")
    config = replace(config, photos=tuple(absolute(photo) for photo in config.photos))
    bundle = find_bundle(config.model)
    card = read_card(bundle)
    photos = find_photos(config.photos)
    result = _write(config, bundle, card, photos) if config.out else _show(config, bundle, card, photos, show)
    if result.num_failures and not result.num_captions:
        raise TooManyFailuresError(f"all {result.num_failures} photos failed")
    return result


def find_photos(locations: Sequence[str]) -> pa.Table:
    """Return `image_id` and `uri` of the photos at some files and folders, each photo once.

    A photo's id is its path relative to the folder given, or its name, where it was itself given; where that would
    make two photos one, ids are whole locations.

    Raises:
        InputError: if something is not there, or there is no photo at all.
    """
    found: dict[str, str] = {}
    for location in locations:
        if is_folder(location):
            names = [name for name in list_files(location, recursive=True) if name.lower().endswith(PHOTO_EXTENSIONS)]
            found |= {join(location, name): name for name in names}
        elif exists(location):
            found[location] = posixpath.basename(location)
        else:
            raise InputError(f"there is no photo or folder at {location}")
    if not found:
        raise InputError(f"there are no photos in {', '.join(locations)} ({' '.join(PHOTO_EXTENSIONS)})")
    shared = {name for name, count in Counter(found.values()).items() if count > 1}
    image_ids = [uri if shared else name for uri, name in found.items()]
    return pa.table({"image_id": pa.array(image_ids, pa.string()), "uri": pa.array(list(found), pa.string())})


def _write(config: CaptionConfig, bundle: str, card: ModelCard, photos: pa.Table) -> CaptionResult:
    assert config.out is not None  # noqa: S101 - for mypy: only called with one
    ignored = ("photos", "model", "encoder_file", "max_pixels", "workers")
    run = Run.open(config.out, "caption", config, ignore=ignored, inputs={"model_hash": short_hash(asdict(card))})
    output = ShardedOutput(out=config.out, folder=FOLDER, stage="caption")
    pending = output.pending(photos, retry_failed=config.workers.retry_failed)
    new = ShardCounts()
    if len(pending):
        run.save()
        connect()
        placement = place(config.workers)
        write = WriteShards(
            output=output,
            columns=GENERATED.names,
            constants=(("model", bundle), ("encoder", card.encoder.name)),
        )
        new = run_shards(
            _cut(config, card, pending, placement),
            [*_steps(config, bundle, card, placement), write],
            label="caption",
            before=output.counts(photos),
            max_failure_rate=config.workers.max_failure_rate,
        )
    counts = output.counts(photos)
    result = CaptionResult(counts.done, counts.failed, new.total)
    if len(pending) or run.result is None:
        run.save(asdict(result))
    return result


def _show(
    config: CaptionConfig,
    bundle: str,
    card: ModelCard,
    photos: pa.Table,
    show: Callable[[dict[str, Any]], None] | None,
) -> CaptionResult:
    counts = Counter[bool]()
    for row in _rows(config, bundle, card, photos):
        counts[row["error_type"] is None] += 1
        if show is not None:
            show(row)
    return CaptionResult(counts[True], counts[False], len(photos))


def _rows(config: CaptionConfig, bundle: str, card: ModelCard, photos: pa.Table) -> Iterator[dict[str, Any]]:
    connect()
    placement = place(config.workers)
    for block in run_blocks(_cut(config, card, photos, placement), _steps(config, bundle, card, placement)):
        yield from block.to_pylist()


def _cut(config: CaptionConfig, card: ModelCard, photos: pa.Table, placement: Placement) -> list[pa.Table]:
    photo_bytes = card.encoder.height_px * card.encoder.width_px * 3
    shard_size = min(config.workers.shard_size, photos_per_block(photo_bytes))
    return cut(photos, shard_size=shard_size, num_workers=placement.num_workers)


def _steps(config: CaptionConfig, bundle: str, card: ModelCard, placement: Placement) -> list[Step]:
    threads, batch_size = placement.num_threads, config.workers.batch_size
    decode = DecodePhotos(
        height_px=card.encoder.height_px,
        width_px=card.encoder.width_px,
        exif_orientation=card.encoder.exif_orientation,
        max_pixels=config.max_pixels,
    )
    encode = {
        "load": LoadEncoder(card=card.encoder, file=config.encoder_file),
        "batch_size": batch_size,
        "num_threads": threads,
    }
    speak = {"bundle": bundle, "decoding": config.decoding, "num_threads": threads}
    return [
        decode,
        ModelStep(operator=EncodePhotos, options=encode, placement=placement.share(_ENCODER_SHARE)),
        ModelStep(operator=CaptionFeatures, options=speak, placement=placement.share(1 - _ENCODER_SHARE)),
    ]
