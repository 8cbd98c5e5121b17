"""What the stages wrote, as pyarrow tables, for notebooks and other programs; knows neither Ray nor TensorFlow.

A location is a local path or a URI: a stage's `--out`, or what is meant inside it. Tables are read whole; for outputs
that do not fit in memory, give `columns`, or open the Parquet files with a tool that streams.
"""

import os
from collections.abc import Sequence

import pyarrow as pa

from raycap.errors import InputError
from raycap.features import FeatureSet
from raycap.locations import absolute, join
from raycap.parquet import list_tables, read_table
from raycap.prepared import CAPTIONS_FILE, PHOTOS_FILE
from raycap.runs import RUN_FILE
from raycap.schema import FAILURES, HYPOTHESES_FILE
from raycap.shards import FAILURES_FOLDER
from raycap.storage import exists, is_folder

Location = str | os.PathLike[str]


def read_manifest(location: Location, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the photos that prepare found, a row each: `image_id`, `uri`, `split`.

    Args:
        location: prepare's `--out`, or the Parquet file.
        columns: only these.

    Raises:
        InputError: if there is none.
        FormatError: if it is damaged, or lacks a column; so do all readers.
    """
    return _file(location, PHOTOS_FILE, columns, what="manifest", stage="prepare")


def read_references(location: Location, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return people's captions, a row each: `image_id`, `split`, `caption`, `clean_caption`.

    Args:
        location: prepare's `--out`, or the Parquet file.
        columns: only these.

    Raises:
        InputError: if there are none.
    """
    return _file(location, CAPTIONS_FILE, columns, what="captions.parquet", stage="prepare")


def read_hypotheses(location: Location, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the captions that evaluate scored, a row a photo: `image_id`, `hypothesis`, `log_prob`, `references`.

    Args:
        location: evaluate's `--out`, or the Parquet file.
        columns: only these.

    Raises:
        InputError: if there are none.
    """
    return _file(location, HYPOTHESES_FILE, columns, what="hypotheses", stage="evaluate")


def read_features(location: Location, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the features that extract computed, a row a photo: `image_id`, `feature` (a fixed-size list).

    A spatial feature is a list of such lists, one a region.

    Args:
        location: extract's `--out`, or its `features` folder.
        columns: only these.

    Raises:
        InputError: if there are none.
        EncoderMismatchError: if they come from different encoders.
    """
    features = FeatureSet.open(absolute(os.fspath(location)))
    return _tables([join(features.folder, name) for name in features.shards], columns)


def read_captions(location: Location, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the captions that `raycap caption` wrote, a row a photo; docs/captioning.md has the columns.

    Args:
        location: caption's `--out`, or its `captions` folder.
        columns: only these.

    Raises:
        InputError: if there are none.
    """
    folder = _inside(absolute(os.fspath(location)), "captions")
    shards = [join(folder, name) for name in list_tables(folder)] if is_folder(folder) else []
    if not shards:
        raise InputError(f"there are no captions in {location}; give the --out of raycap caption")
    return _tables(shards, columns)


def read_failures(location: Location, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the photos that extract or caption could not use, a row each; an empty table if there are none.

    Args:
        location: extract's or caption's `--out`, or its `failures` folder.
        columns: only these.

    Raises:
        InputError: if no stage wrote there.
    """
    where = absolute(os.fspath(location))
    folder = _inside(where, FAILURES_FOLDER)
    shards = [join(folder, name) for name in list_tables(folder)] if is_folder(folder) else []
    if not shards and not exists(join(where, RUN_FILE)):
        raise InputError(f"there are no failures in {location}; give the --out of raycap extract or caption")
    names = list(columns) if columns is not None else FAILURES.names
    return _tables(shards, names) if shards else FAILURES.empty_table().select(names)


def _inside(location: str, name: str) -> str:
    inner = join(location, name)
    return inner if is_folder(inner) else location


def _file(location: Location, name: str, columns: Sequence[str] | None, *, what: str, stage: str) -> pa.Table:
    where = absolute(os.fspath(location))
    inner = join(where, name)
    file = inner if exists(inner) else where
    if not exists(file) or is_folder(file):
        raise InputError(f"there is no {what} in {location}; give the --out of raycap {stage}")
    return _tables([file], columns)


def _tables(files: Sequence[str], columns: Sequence[str] | None) -> pa.Table:
    names = None if columns is None else list(columns)
    return pa.concat_tables(read_table(file, columns=names) for file in files)
