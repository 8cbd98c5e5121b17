"""The caption stage: new photos to captions, straight from pixels, in one Ray Data job. Knows no human captions."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.caption_formats import EXPORT_FILES, export, export_location
from raycap.cluster import Placement, connect, place
from raycap.config import CaptionConfig
from raycap.errors import ConflictError, InputError, TooManyFailuresError
from raycap.locations import absolute, join, with_absolute
from raycap.model_card import ModelCard, find_bundle, read_card
from raycap.operators import CaptionFeatures, DecodePhotos, EncodePhotos, LoadEncoder, WriteShards, WriteSidecars
from raycap.photo_sources import STANDARD_INPUT, find_photos
from raycap.pipeline import ModelStep, Step, plan_shards, run_blocks, run_shards
from raycap.runs import RUN_FILE, Run, read_run, short_hash
from raycap.schema import ALTERNATIVES, CAPTIONS_FOLDER, GENERATED
from raycap.shards import ShardCounts, ShardedOutput
from raycap.sidecars import BESIDE, SidecarCounts, Sidecars, delete_written_sidecars
from raycap.sole_writer import sole_writer
from raycap.storage import delete_file, exists, is_folder, is_local, num_bytes, walk_files

STAGE = "caption"
_ENCODER_SHARE = 0.7
# what does not change what captions are; all the rest does
_IGNORED = ("photos", "model", "preset", "encoder_file", "limit", "dry_run", "listing", "output", "limits", "workers")
_STATS_AT_ONCE, _STATS_A_CALL = 32, 256


@dataclass(frozen=True, kw_only=True)
class CaptionResult:
    """What came of it.

    Attributes:
        num_photos: that were listed.
        num_captions: of them, with a caption.
        num_failures: of them, without one, as the failures table says why.
        num_left: of them, not tried: beyond `limit`.
        num_new: that this run finished with, either way.
        sidecars: what became of .txt files, if any were asked for.
        reasons: how many photos failed for each reason.
    """

    num_photos: int
    num_captions: int
    num_failures: int
    num_left: int
    num_new: int
    sidecars: SidecarCounts | None = None
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class CaptionPlan:
    """What a run would do.

    Attributes:
        num_photos: that are listed.
        num_captions: of them, that have a caption already.
        num_failures: of them, that have failed and are not tried again.
        num_pending: that would be captioned.
        pending_bytes: of their files, as far as that is known: rows of Parquet files have no size of their own.
        photos_per_shard: photos an output file at most.
    """

    num_photos: int
    num_captions: int
    num_failures: int
    num_pending: int
    pending_bytes: int
    photos_per_shard: int


def caption(config: CaptionConfig, *, show: Callable[[dict[str, Any]], None] | None = None) -> CaptionResult:
    """Caption photos.

    With `config.out`, writes `captions/`, `failures/` and `run.json` under it, and what `config.output` asks for; run
    again it does what is left. Without, writes nothing, and calls `show`.

    Args:
        config: what, with which model, and where to.
        show: called with each photo's row as it is finished, where there is no `config.out`: the columns that
            `captions/` would have, and `error_type` and `error_message`, None for a photo that went well.

    Raises:
        InputError: if a path is wrong, there are no photos, or no model.
        WeightsError: if the encoder's weights cannot be had.
        EncoderMismatchError: if they are not those that the model was trained with.
        ConflictError: if the output was made with another model or other options, is there and must not be, or another
            run is writing it.
        TooManyFailuresError: if every photo failed, or more than the configuration allows.
    """
    job = _Job.prepare(config)
    result = job.write() if job.config.out else job.show(show)
    if result.num_failures and not result.num_captions:
        raise TooManyFailuresError.of_all(result.num_failures)
    return result


def plan(config: CaptionConfig) -> CaptionPlan:
    """Return what `caption` would do, without doing any of it; raises what it would raise before its first photo."""
    job = _Job.prepare(config)
    pending, counts = job.photos, ShardCounts()
    if job.config.out:
        job.open_run()
        if job.sidecars is not None:
            job.sidecars.place(job.photos)
        output = job.output
        if job.config.output.if_exists != "overwrite":
            counts = output.counts(job.photos)
            pending = output.pending(job.photos, retry_failed=job.config.workers.retry_failed)
    pending = pending.slice(0, job.config.limit)
    return CaptionPlan(
        num_photos=len(job.photos),
        num_captions=counts.done,
        num_failures=0 if job.config.workers.retry_failed else counts.failed,
        num_pending=len(pending),
        pending_bytes=_total_bytes(pending),
        photos_per_shard=job.config.workers.shard_size,
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One call of the stage.

    Attributes:
        config: with absolute locations.
        bundle: location of the model.
        card: of the model.
        photos: the listing.
    """

    config: CaptionConfig
    bundle: str
    card: ModelCard
    photos: pa.Table

    @classmethod
    def prepare(cls, config: CaptionConfig) -> "_Job":
        """Check what can be checked, and list the photos."""
        config = with_absolute(config, "model", "out", "encoder_file")
        output = config.output
        if output.sidecars not in {None, BESIDE}:
            config = replace(config, output=with_absolute(output, "sidecars"))
        config = replace(
            config, photos=tuple(each if each == STANDARD_INPUT else absolute(each) for each in config.photos)
        )
        bundle = find_bundle(config.model)
        card = read_card(bundle)
        card.require_kept(config.decoding)
        return cls(config=config, bundle=bundle, card=card, photos=find_photos(config.photos, config.listing))

    @property
    def out(self) -> str:
        """Where to write."""
        if self.config.out is None:
            raise InputError("there is nowhere to write: give --out")
        return self.config.out

    @property
    def output(self) -> ShardedOutput:
        """The shards."""
        return ShardedOutput(out=self.out, folder=CAPTIONS_FOLDER, stage=STAGE, key="uri")

    @property
    def sidecars(self) -> Sidecars | None:
        """The sidecars, if any are asked for."""
        options = self.config.output
        if options.sidecars is None:
            return None
        return Sidecars(out=self.out, where=options.sidecars, overwrite=options.overwrite_sidecars)

    def open_run(self) -> Run:
        """Return the run's record, if what is there allows the run."""
        policy = self.config.output.if_exists
        if policy == "fail" and is_folder(self.out) and next(walk_files(self.out), None) is not None:
            raise ConflictError(f"{self.out} is not empty, and --if-exists is fail; give another --out")
        inputs = {"model_hash": short_hash(self.card.to_fields())}
        over = policy == "overwrite"
        earlier = [] if over else self._recorded_formats()
        formats = tuple(dict.fromkeys((*self.config.output.formats, *earlier)))
        config = replace(self.config, output=replace(self.config.output, formats=formats))
        try:
            run = Run.open(self.out, STAGE, config, ignore=_IGNORED, inputs=inputs, start_over=over)
        except ConflictError as error:
            if over:
                raise
            raise ConflictError(f"{error}; or start over with --if-exists overwrite") from error
        own, asked_for = self._own_exports(), self.config.output.formats
        for location in (export_location(self.out, each) for each in EXPORT_FILES if each in asked_for):
            if location not in own and exists(location):
                raise ConflictError(
                    f"{location} is there, and nothing says that raycap wrote it; move it away, or give another --out"
                )
        return run

    def _recorded_formats(self) -> list[Any]:
        """Return the formats that the output has been written in, by its record."""
        record = read_run(self.out)
        if record is None or record["stage"] != STAGE:
            return []
        recorded: list[Any] = record.get("config", {}).get("output", {}).get("formats", [])
        return recorded

    def _own_exports(self) -> list[str]:
        """Return where there are captions as one file that raycap wrote: a person may call his own `captions.csv`."""
        own = (export_location(self.out, each) for each in EXPORT_FILES if each in self._recorded_formats())
        return [location for location in own if exists(location)]

    def write(self) -> CaptionResult:
        """Caption what is pending, and write it."""
        with sole_writer(self.out):
            return self._write()

    def _write(self) -> CaptionResult:
        run, output, sidecars, config = self.open_run(), self.output, self.sidecars, self.config
        places = sidecars.place(self.photos) if sidecars else []
        if config.output.if_exists == "overwrite":
            self._start_over()
        photos = self.photos.append_column("sidecar", pa.array(places, pa.string())) if sidecars else self.photos
        pending = output.pending(photos, retry_failed=config.workers.retry_failed)
        left = len(pending)
        pending = pending.slice(0, config.limit)
        left -= len(pending)
        if sidecars:
            sidecars.catch_up(output.rows, self.photos, places)
        new = ShardCounts()
        own = self._own_exports()
        exports = [
            each for each in EXPORT_FILES if each in config.output.formats or export_location(self.out, each) in own
        ]
        if len(pending):
            run.save()
            for location in own:
                delete_file(location)  # what is there would be taken for whole if this run were killed
            if config.workers.retry_failed:
                output.forget_failures(pending)
            new = self._run(pending, output, sidecars)
        elif not {*exports} <= {*self._recorded_formats()}:
            run.save(run.result)  # that they are raycap's is on record before they are there
        counts = output.settle(self.photos, left=left)
        for file_format in exports:
            if not exists(export_location(self.out, file_format)):
                export(output.rows, self.out, file_format, self.photos)
        result = CaptionResult(
            num_photos=len(self.photos),
            num_captions=counts.done,
            num_failures=counts.failed,
            num_left=len(self.photos) - counts.total,
            num_new=new.total,
            sidecars=sidecars.counts() if sidecars else None,
            reasons=output.reasons(self.photos),
        )
        if len(pending) or run.result is None:
            run.save(asdict(result))
        return result

    def _start_over(self) -> None:
        """Remove all that raycap wrote, the record last."""
        delete_written_sidecars(self.out)
        self.output.delete()
        for location in self._own_exports():
            delete_file(location)
        if exists(join(self.out, RUN_FILE)):
            delete_file(join(self.out, RUN_FILE))

    def _run(self, pending: pa.Table, output: ShardedOutput, sidecars: Sidecars | None) -> ShardCounts:
        connect()
        placement = place(self.config.workers)
        alternatives = (ALTERNATIVES.name,) if self.config.decoding.num_captions > 1 else ()
        write = WriteShards(
            output=output,
            columns=(*GENERATED.names[:5], *alternatives, *GENERATED.names[5:]),
            constants=(("model", self.bundle), ("encoder", self.card.encoder.name)),
            then=WriteSidecars(sidecars) if sidecars else None,
        )
        return run_shards(
            self._shards(pending, placement),
            [*self._steps(placement), write],
            photo_bytes=self._photo_bytes,
            label=STAGE,
            before=output.counts(self.photos),
            max_failure_rate=self.config.workers.max_failure_rate,
        )

    def show(self, show: Callable[[dict[str, Any]], None] | None) -> CaptionResult:
        """Caption the photos, and show what comes."""
        counts = Counter[str | None]()
        for row in self._rows():
            counts[row["error_type"]] += 1
            if show is not None:
                show(row)
        return CaptionResult(
            num_photos=len(self.photos),
            num_captions=counts[None],
            num_failures=counts.total() - counts[None],
            num_left=len(self.photos) - counts.total(),
            num_new=counts.total(),
            reasons={reason: count for reason, count in counts.items() if reason is not None},
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        connect()
        placement = place(self.config.workers)
        pending = self.photos.slice(0, self.config.limit)
        shards = self._shards(pending, placement)
        for block in run_blocks(shards, self._steps(placement), photo_bytes=self._photo_bytes):
            yield from block.to_pylist()

    def _shards(self, photos: pa.Table, placement: Placement) -> list[pa.Table]:
        return plan_shards(photos, self.config.workers, placement, photo_bytes=self._photo_bytes)

    @property
    def _photo_bytes(self) -> int:
        """Of a photo between two steps at its largest: decoded, or its feature."""
        encoder = self.card.encoder
        feature_bytes = 4 * math.prod(encoder.shape) * self.config.decoding.num_views
        return max(encoder.height_px * encoder.width_px * 3, feature_bytes)

    def _steps(self, placement: Placement) -> list[Step]:
        config, encoder = self.config, self.card.encoder
        decode = DecodePhotos.of(encoder, config.limits, fast=config.fast_decode)
        common = {"batch_size": config.workers.batch_size, "num_threads": placement.num_threads}
        card = replace(encoder, precision=config.precision or encoder.precision)
        load = LoadEncoder(card=card, file=config.encoder_file)
        encode = {"load": load, "num_views": config.decoding.num_views, **common}
        speak = {"bundle": self.bundle, "decoding": config.decoding, **common}
        return [
            decode,
            ModelStep(operator=EncodePhotos, options=encode, placement=placement.share(_ENCODER_SHARE)),
            ModelStep(operator=CaptionFeatures, options=speak, placement=placement.share(1 - _ENCODER_SHARE)),
        ]


def _total_bytes(photos: pa.Table) -> int:
    """Return how large the files of some photos are together, asking storage where the listing did not say."""
    known = pc.sum(photos["num_bytes"]).as_py() or 0
    unknown = photos.filter(pc.and_(pc.is_null(photos["num_bytes"]), pc.is_null(photos["container"])))
    uris = unknown["uri"].to_pylist()
    if all(map(is_local, uris[:1])):  # where threads would only wait for one another
        return known + sum(map(_size, uris))
    parts = [uris[start : start + _STATS_A_CALL] for start in range(0, len(uris), _STATS_A_CALL)]
    with ThreadPoolExecutor(_STATS_AT_ONCE) as threads:
        return known + sum(threads.map(lambda part: sum(map(_size, part)), parts))


def _size(location: str) -> int:
    try:
        return num_bytes(location) or 0
    except (OSError, ValueError, InputError):
        return 0
