"""Column names, Arrow schemas and special tokens that every stage agrees on; and which versions of files are read."""

from typing import Final

import pyarrow as pa

from raycap.errors import FormatError

FORMAT_VERSION: Final = 1
"""Version of everything raycap writes; a reader refuses a newer one, and reads all older ones."""

SPLITS: Final = ("train", "dev", "test")

SCORES_FILE: Final = "scores.json"
HYPOTHESES_FILE: Final = "hypotheses.parquet"
HISTORY_FILE: Final = "history.json"
CAPTIONS_FOLDER: Final = "captions"
"""What evaluate, train and caption call what they write, for whoever reads it."""

START_TOKEN: Final = "startseq"
END_TOKEN: Final = "endseq"
PAD_ID: Final = 0
"""Token id of padding; words are numbered from 1."""

CARD_KEY: Final = b"raycap.encoder"
"""Key of the encoder's card (JSON) in the schema metadata of a feature shard."""

PHOTOS: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string()),
    ]
)
"""The manifest: one row a photo. `split` is null for a photo that is in no split."""

CAPTIONS: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("clean_caption", pa.string(), nullable=False),
    ]
)
"""One row a reference caption: as written by a person, and cleaned for training (words joined by spaces)."""

PHOTO_LISTING: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("container", pa.string()),
        pa.field("column", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("num_bytes", pa.int64()),
        pa.field("problem", pa.string()),
    ]
)
"""What is to be captioned: one row a photo. A photo inside a tar file has its `container`, the `position` of its first
byte and `num_bytes`; one inside a Parquet file its `container`, `column` and row (`position`). `problem` says why one
cannot be had."""

FAILURES: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_type", pa.string(), nullable=False),
        pa.field("error_message", pa.string(), nullable=False),
    ]
)
"""One row a photo that could not be used, and why."""

GENERATED: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("log_prob", pa.float32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("encoder", pa.string(), nullable=False),
    ]
)
"""What `caption` writes: one row a photo; width and height in pixels, of the photo as it was."""

ALTERNATIVES: Final = pa.field(
    "alternatives",
    pa.list_(
        pa.struct(
            [
                pa.field("caption", pa.string(), nullable=False),
                pa.field("log_prob", pa.float32(), nullable=False),
                pa.field("num_tokens", pa.int32(), nullable=False),
            ]
        )
    ),
    nullable=False,
)
"""With `--num-captions` above 1, a column of `GENERATED`: the captions after the first, best first."""

HYPOTHESES: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("hypothesis", pa.string(), nullable=False),
        pa.field("log_prob", pa.float32(), nullable=False),
        pa.field("num_tokens", pa.int32()),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("bleu_4", pa.float32()),
        pa.field("rouge_l", pa.float32()),
        pa.field("cider_d", pa.float32()),
        pa.field("meteor", pa.float32()),
    ]
)
"""What `evaluate` writes: one row a photo of the scored split, with its own scores under the `standard` protocol, of
which BLEU-4 is smoothed. Null is what could not be computed, or what an older raycap did not note."""


def check_version(version: object, *, source: str) -> None:
    """Check that a file of ours is of a version that this raycap reads.

    Args:
        version: what the file says.
        source: the file, for the message.

    Raises:
        FormatError: if it is a newer raycap's.
        TypeError: if it is no version.
    """
    if type(version) is not int:
        raise TypeError(f"its format_version is {version!r:.40}")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{source} was written by a newer raycap; upgrade raycap to use it (its format is {version}, this raycap "
            f"reads up to {FORMAT_VERSION})"
        )


def feature_type(shape: tuple[int, ...], dtype: pa.DataType) -> pa.DataType:
    """Return the type of the `feature` column: a plain fixed-size list, or one of such lists.

    Args:
        shape: of a feature, `(dim,)` or `(num_regions, dim)`.
        dtype: of its numbers, `pa.float32()` or `pa.float16()`.
    """
    kind = dtype
    for size in reversed(shape):
        kind = pa.list_(pa.field("item", kind, nullable=False), size)
    return kind


def neighbors_schema(dim: int) -> pa.Schema:
    """Return the schema of a bundle's training photos: a vector of `dim` numbers and people's captions of each."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("vector", feature_type((dim,), pa.float16()), nullable=False),
            pa.field("captions", pa.list_(pa.string()), nullable=False),
        ]
    )


def feature_columns(num_views: int) -> list[str]:
    """Return the columns of a shard that hold features: of the photo, and of further views of it."""
    return ["feature", *(f"view_{number}" for number in range(1, num_views))]


def feature_schema(shape: tuple[int, ...], dtype: pa.DataType, card_json: bytes, *, num_views: int = 1) -> pa.Schema:
    """Return the schema of a feature shard.

    Args:
        shape: of a feature, `(dim,)` or `(num_regions, dim)`.
        dtype: `pa.float32()` or `pa.float16()`.
        card_json: the encoder's card, kept in the schema's metadata under `CARD_KEY`.
        num_views: of each photo.

    Returns:
        `image_id` and `feature`, with further views `view_1` and so on; plain fixed-size lists, which pandas, DuckDB
        and polars all read.
    """
    fields = [pa.field("image_id", pa.string(), nullable=False)]
    fields += [pa.field(name, feature_type(shape, dtype), nullable=False) for name in feature_columns(num_views)]
    return pa.schema(fields, metadata={CARD_KEY: card_json})
