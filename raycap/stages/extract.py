"""The extract stage: photos to features, with a Ray Data job. Knows nothing of captions or models trained on them."""

from collections import Counter
from dataclasses import asdict, dataclass
from urllib.parse import quote

import pyarrow as pa

from raycap.cluster import connect, place
from raycap.config import ExtractConfig
from raycap.encoder_choice import encoder_hash, with_absolute_encoder
from raycap.errors import FormatError, InputError, TooManyFailuresError
from raycap.features import FOLDER, FeatureSet
from raycap.input_sizes import input_size
from raycap.locations import split_query, with_absolute
from raycap.operators import DecodePhotos, EncodePhotos, LoadEncoder, WriteShards
from raycap.parquet import read_table
from raycap.pipeline import ModelStep, Step, plan_shards, run_shards
from raycap.runs import Run
from raycap.schema import feature_columns
from raycap.shards import ShardCounts, ShardedOutput
from raycap.sole_writer import sole_writer
from raycap.storage import exists, list_files

_NUMBERS_A_PIXEL = 2  # of a spatial feature, for each of the photo's


@dataclass(frozen=True)
class ExtractResult:
    """What the output holds.

    Attributes:
        num_features: photos with a feature.
        num_failures: photos in the failures table.
        num_new: photos that this run finished with, either way.
        reasons: how many photos failed for each reason.
    """

    num_features: int
    num_failures: int
    num_new: int
    reasons: dict[str, int]


def extract(config: ExtractConfig) -> ExtractResult:
    """Compute the feature of every photo of a manifest that has none yet.

    Writes `features/` (Parquet: `image_id`, `feature`, and `view_1` and so on of further views; the encoder's card in
    its metadata), `failures/` and `run.json` under `config.out`. Run again it does what is left; killed at any moment,
    it loses what was in flight.

    Raises:
        InputError: if there is no manifest, no such encoder, or a node does not see the output.
        WeightsError: if the encoder's weights cannot be had.
        ConflictError: if the output was made with another encoder, or with another file in its place, or of photos
            of another folder, or another run is writing it.
        TooManyFailuresError: if every photo failed, or more than the configuration allows.
    """
    config = with_absolute_encoder(with_absolute(config, "manifest", "out"))
    photos = read_manifest(config.manifest)
    size = input_size(config.encoder)
    with sole_writer(config.out):
        return _extract(config, photos, size)


def _extract(config: ExtractConfig, photos: pa.Table, size: tuple[int, int]) -> ExtractResult:
    inputs = {"encoder_hash": encoder_hash(config), "photos_folder": _photos_folder(photos)}
    run = Run.open(config.out, "extract", config, ignore=("manifest", "workers", "limits"), inputs=inputs)
    output = ShardedOutput(out=config.out, folder=FOLDER, stage="extract")
    pending = output.pending(photos, retry_failed=config.workers.retry_failed)
    new = ShardCounts()
    if len(pending):
        run.save()
        if config.workers.retry_failed:
            output.forget_failures(pending)
        new = _run(config, output, photos, pending, size)
    counts = output.settle(photos)
    result = ExtractResult(counts.done, counts.failed, new.total, output.reasons(photos))
    if len(pending) or run.result is None:
        run.save(asdict(result))
    if counts.failed and not counts.done:
        raise TooManyFailuresError.of_all(counts.failed, f"; {output.failures} says why")
    return result


def _photos_folder(photos: pa.Table) -> str:
    """Return the folder that most photos lie in, by their image_ids, which are paths inside it; empty if none is.

    Another folder may have photos of the same names, which are others.
    """
    folders: Counter[str] = Counter()
    for name, uri in zip(photos["image_id"].to_pylist(), photos["uri"].to_pylist(), strict=True):
        path = split_query(uri)[0]
        for end in ("/" + name, "/" + quote(name)):
            if path.endswith(end):
                folders[path.removesuffix(end)] += 1
                break
    return max(folders, key=folders.__getitem__, default="")


def read_manifest(location: str) -> pa.Table:
    """Return the `image_id` and `uri` of a manifest.

    Raises:
        InputError: if there is none, or it is empty.
        FormatError: if it is not a manifest, or names a photo twice.
    """
    if not exists(location):
        raise InputError(f"there is no manifest at {location}; run raycap prepare first")
    photos = read_table(location, columns=["image_id", "uri"])
    if not len(photos):
        raise InputError(f"{location} lists no photo")
    if len(photos["image_id"].unique()) != len(photos):
        raise FormatError(f"{location} lists a photo twice; each image_id must be there once")
    return photos


def _photo_bytes(config: ExtractConfig, size: tuple[int, int]) -> int:
    """Return how large a photo is between two steps: decoded, or its spatial feature.

    The latter is not known here, where no encoder is loaded: those of keras.applications have about 2,048 numbers for
    each 32 x 32 pixels, or fewer; the largest EfficientNets a quarter more. NASNetLarge has twice as many: there Ray
    Data cuts a block in two.
    """
    pixels = size[0] * size[1]
    number_bytes = 2 if config.dtype == "float16" else 4
    return pixels * max(3, _NUMBERS_A_PIXEL * number_bytes * config.num_views) if config.spatial else pixels * 3


def _run(
    config: ExtractConfig, output: ShardedOutput, photos: pa.Table, pending: pa.Table, size: tuple[int, int]
) -> ShardCounts:
    workers = config.workers
    connect()
    placement = place(workers)
    expected = FeatureSet.open(config.out).card if list_files(output.rows) else None
    load = LoadEncoder(
        name=config.encoder,
        weights=config.weights,
        seed=config.seed,
        exif_orientation=config.exif_orientation,
        fast_decode=config.fast_decode,
        spatial=config.spatial,
        precision=config.precision,
    )
    encode = {
        "load": load,
        "dtype": config.dtype,
        "num_views": config.num_views,
        "batch_size": workers.batch_size,
        "num_threads": placement.num_threads,
        "expected": expected,
    }
    decode = DecodePhotos.asked_for(config, size)
    steps: list[Step] = [
        decode,
        ModelStep(operator=EncodePhotos, options=encode, placement=placement),
        WriteShards(output=output, columns=("image_id", *feature_columns(config.num_views))),
    ]
    photo_bytes = _photo_bytes(config, size)
    return run_shards(
        plan_shards(pending, workers, placement, photo_bytes=photo_bytes),
        steps,
        photo_bytes=photo_bytes,
        label="extract",
        before=output.counts(photos),
        max_failure_rate=workers.max_failure_rate,
    )
