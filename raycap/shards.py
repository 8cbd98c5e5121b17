"""A stage's output as Parquet shards: what is finished, what is pending, and how a shard is written.

Knows neither Ray nor TensorFlow.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from raycap.errors import ConflictError, InputError
from raycap.locations import join
from raycap.parquet import list_tables, read_table, write_table
from raycap.schema import FAILURES
from raycap.storage import delete_file, delete_folder, walk_files

FAILURES_FOLDER = "failures"
ERROR_COLUMNS = ("error_type", "error_message")
_SHARD_NAME = re.compile(r"part-[0-9a-f]{20}\.parquet")


@dataclass(frozen=True)
class ShardCounts:
    """How many photos a shard, or a run, holds.

    Attributes:
        done: photos with a row.
        failed: photos with a row in the failures table.
    """

    done: int = 0
    failed: int = 0

    def __add__(self, other: "ShardCounts") -> "ShardCounts":
        return ShardCounts(self.done + other.done, self.failed + other.failed)

    @property
    def total(self) -> int:
        """Photos that are finished with, either way."""
        return self.done + self.failed


@dataclass(frozen=True, kw_only=True)
class ShardedOutput:
    """The output of one stage: a row for each photo, in `folder`, or a row in the failures table.

    A shard appears whole or not at all, and is named after the photos it is about, so that a task that is run again
    overwrites its own shard and nothing else.

    Attributes:
        out: the stage's output.
        folder: where its rows go, inside `out`.
        stage: its name, for the failures table.
        key: the column that tells photos apart. With `uri`, an `image_id` that is there for another photo is an error,
            not that photo.
    """

    out: str
    folder: str
    stage: str
    key: Literal["image_id", "uri"] = "image_id"

    @property
    def rows(self) -> str:
        """Where the shards are."""
        return join(self.out, self.folder)

    @property
    def failures(self) -> str:
        """Where the shards of the failures table are."""
        return join(self.out, FAILURES_FOLDER)

    def pending(self, photos: pa.Table, *, retry_failed: bool = False) -> pa.Table:
        """Return the photos that still have neither a row nor a failure, in their order.

        Args:
            photos: with `image_id`, each once.
            retry_failed: failed photos are pending too; `forget_failures` before they are tried.

        Raises:
            ConflictError: if the `image_id` of a pending photo is there for a photo from another place.
        """
        folders = [self.rows] if retry_failed else [self.rows, self.failures]
        finished = [key for folder in folders for key in self._keys(folder, self.key)]
        pending = photos.filter(pc.invert(pc.is_in(photos[self.key], pa.array(finished, pa.string()))))
        if self.key != "image_id":
            names = [name for folder in folders for name in self._keys(folder, "image_id")]
            taken = pending.filter(pc.is_in(pending["image_id"], pa.array(names, pa.string())))
            if len(taken):
                raise ConflictError(
                    f"{self.out} already holds a photo called {taken['image_id'][0]} from another place than "
                    f"{taken['uri'][0]}; give another --out, or --if-exists overwrite"
                )
        return pending

    def counts(self, photos: pa.Table) -> ShardCounts:
        """Return how many of `photos` have a row and how many failed; a row counts where there are both."""
        wanted = set(photos[self.key].to_pylist())
        done = wanted.intersection(self._keys(self.rows, self.key))
        return ShardCounts(len(done), len(wanted.intersection(self._keys(self.failures, self.key)) - done))

    def reasons(self, photos: pa.Table) -> dict[str, int]:
        """Return how many of `photos` failed for each reason, a name of an `errors.ImageError`."""
        wanted = set(photos[self.key].to_pylist())
        reasons: Counter[str] = Counter()
        for name in list_tables(self.failures):
            rows = read_table(join(self.failures, name), columns=[self.key, "error_type"])
            pairs = zip(rows[self.key].to_pylist(), rows["error_type"].to_pylist(), strict=True)
            reasons.update(reason for key, reason in pairs if key in wanted)
        return dict(reasons)

    def settle(self, photos: pa.Table, *, left: int = 0) -> ShardCounts:
        """Return the `counts` of a run that is done, once every photo is there once.

        A run that was killed may have had a shard in flight that appeared after the next run had looked what was
        pending, and cut it otherwise. So what a second shard says of a photo is removed, and the failure of a photo
        that has a row; both say the same, as a photo's row does not depend on the photos beside it.

        Args:
            photos: all of them.
            left: how many of them the run did not try.

        Raises:
            InputError: if more are not there, which workers have written.
        """
        seen: dict[str, set[str]] = {self.rows: set(), self.failures: set()}
        for folder in seen:
            for name in list_tables(folder):
                location = join(folder, name)
                keys = read_table(location, columns=[self.key])[self.key].to_pylist()
                new = [not any(key in each for each in seen.values()) for key in keys]
                if not all(new):
                    _keep(location, pa.array(new))
                seen[folder].update(keys)
        wanted = set(photos[self.key].to_pylist())
        done = wanted & seen[self.rows]
        counts = ShardCounts(len(done), len((wanted & seen[self.failures]) - done))
        if len(wanted) - counts.total > left:
            raise InputError(
                f"{len(wanted) - counts.total - left} photos that were finished are not in {self.out}; give an --out "
                "that every node of the cluster reaches, such as s3://... or a shared folder"
            )
        return counts

    def forget_failures(self, photos: pa.Table) -> None:
        """Remove `photos` from the failures table; they are pending from then on."""
        tried = photos[self.key].combine_chunks()
        for name in list_tables(self.failures):
            location = join(self.failures, name)
            again = pc.is_in(read_table(location, columns=[self.key])[self.key], tried)
            if pc.any(again).as_py():
                _keep(location, pc.invert(again))

    def delete(self) -> None:
        """Remove all rows and failures, and nothing else that may lie beside them."""
        for folder in (self.rows, self.failures):
            if all(_SHARD_NAME.fullmatch(file.name) for file in walk_files(folder, hidden=True)):
                delete_folder(folder)
                continue
            for name in filter(_SHARD_NAME.fullmatch, list_tables(folder)):
                delete_file(join(folder, name))

    def write(self, table: pa.Table, *, columns: Sequence[str]) -> ShardCounts:
        """Write the shards of some photos: one of rows, one of failures, either only if it is not empty.

        Args:
            table: `image_id`, `uri`, `error_type` (null where a photo went well), `error_message`, and `columns`. The
                schema's metadata is kept.
            columns: what a row holds.
        """
        name = shard_name(table["image_id"].to_pylist())
        failed = pc.is_valid(table["error_type"])
        rows = table.filter(pc.invert(failed)).select(list(columns))
        failures = table.filter(failed).select(["image_id", "uri", *ERROR_COLUMNS])
        failures = failures.add_column(2, "stage", pa.array([self.stage] * len(failures), pa.string()))
        if len(failures):
            write_table(join(self.failures, name), failures.cast(FAILURES))
        if len(rows):
            write_table(join(self.rows, name), rows)
        return ShardCounts(len(rows), len(failures))

    def _keys(self, folder: str, column: str) -> Iterable[str]:
        for name in list_tables(folder):
            yield from read_table(join(folder, name), columns=[column])[column].to_pylist()


def _keep(location: str, rows: pa.Array | pa.ChunkedArray) -> None:
    """Write a shard anew with some of its rows, or remove it if there are none."""
    kept = read_table(location).filter(rows)
    if len(kept):
        write_table(location, kept)
    else:
        delete_file(location)


def shard_name(image_ids: Sequence[str]) -> str:
    """Return the file name of the shard about these photos: the same for the same photos in the same order."""
    digest = hashlib.sha256("\0".join(image_ids).encode("utf-8", "surrogatepass")).hexdigest()
    return f"part-{digest[:20]}.parquet"


def cut(photos: pa.Table, *, shard_size: int, num_workers: int) -> list[pa.Table]:
    """Cut photos into shards of even size, in order.

    Args:
        photos: at least one.
        shard_size: photos a shard at most.
        num_workers: each gets four shards or more, so that none waits long for the last; but of no fewer than 16
            photos, below which a file is not worth its while.
    """
    enough_for_workers = min(4 * num_workers, len(photos) // min(16, shard_size))
    num_shards = max(ceil(len(photos) / shard_size), enough_for_workers)
    bounds = [len(photos) * index // num_shards for index in range(num_shards + 1)]
    return [photos.slice(start, stop - start) for start, stop in pairwise(bounds)]
