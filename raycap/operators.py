"""What a Ray Data job does to a block of photos: decode, encode, caption, write. Each is a callable over Arrow tables.

Nothing here knows Ray. TensorFlow is imported where a model is held, in the constructor, so only inside its process.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycap.batching import BatchSizer
from raycap.config import DecodingConfig
from raycap.encoder_card import EncoderCard
from raycap.errors import ImageError, ImageFeatureError, InputError, RaycapError
from raycap.features import are_numbers, feature_array, to_array
from raycap.photo_decoder import PhotoDecoder
from raycap.photo_reader import addresses, read_photos
from raycap.runs import require_record
from raycap.schema import ALTERNATIVES, GENERATED, feature_columns, feature_schema
from raycap.shards import ShardedOutput, shard_name
from raycap.sidecars import Sidecars
from raycap.views import MIRRORED, view

Operator = Callable[[pa.Table], pa.Table]

# TensorFlow's, for a core: a thread that has done its share of a layer waits for the last one, and where other
# processes take their turns on the cores that is long. Alone VGG16 gains nothing by it, in a pipeline on two cores 2%.
_THREADS_A_CORE = 2


@dataclass(frozen=True, kw_only=True)
class DecodePhotos(PhotoDecoder):
    """Read and decode photos.

    Reads the columns of `PHOTO_LISTING`, of which all but `image_id` and `uri` may be absent; adds `image` (height x
    width x 3 bytes, RGB), `width`, `height` of the photo as it was, and `error_type` and `error_message`, null for a
    photo that went well.
    """

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return `table` with the columns added."""
        pixels = np.zeros((len(table), self.height_px, self.width_px, 3), np.uint8)
        sizes = np.zeros((len(table), 2), np.int32)
        errors: list[ImageError | None] = []
        for row, image in enumerate(self.decode(read_photos(addresses(table), self.limits))):
            if isinstance(image, ImageError):
                errors.append(image)
            else:
                pixels[row], sizes[row] = image.pixels, (image.width_px, image.height_px)
                errors.append(None)
        columns = {
            "image": _from_images(pixels),
            "width": pa.array(sizes[:, 0]),
            "height": pa.array(sizes[:, 1]),
            "error_type": pa.array([error and type(error).__name__ for error in errors], pa.string()),
            "error_message": pa.array([error and str(error) for error in errors], pa.string()),
        }
        return _with_columns(table, columns)


@dataclass(frozen=True, kw_only=True)
class DrawViews:
    """Look at each photo in a view that is drawn at random, another one each epoch.

    Reads `image_id` and `image`, of which it makes another.

    Attributes:
        height_px: of a photo.
        width_px: likewise.
        seed: with the epoch and the photo's id it decides the view: in a quarter of all cases the photo itself, in
            another it mirrored, else a crop.
        epoch: counted from 1.
    """

    height_px: int
    width_px: int
    seed: int
    epoch: int

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return `table` with other photos."""
        images = to_images(table["image"].combine_chunks(), self.height_px, self.width_px)
        views = [self._draw(*each) for each in zip(images, table["image_id"].to_pylist(), strict=True)]
        pixels = np.stack(views) if views else images
        return table.set_column(table.column_names.index("image"), "image", _from_images(pixels))

    def _draw(self, pixels: NDArray[np.uint8], image_id: str) -> NDArray[np.uint8]:
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {image_id}".encode()).digest()
        drawn = int.from_bytes(digest[:8])
        return view(pixels, image_id, drawn % 4 if drawn % 4 <= MIRRORED else drawn)


class _ModelHolder:
    """An operator that holds a model for the life of its process.

    A constructor that raises is started again and again by a cluster, so what goes wrong there is kept, and raised by
    the first call: it then ends the run with its own message.
    """

    def __init__(self, load: Callable[[], Any], num_threads: int | None) -> None:
        self._error: RaycapError | None = None
        try:
            from raycap.devices import configure

            configure(num_threads)
            self._model = load()
        except RaycapError as error:
            self._error = error

    @property
    def model(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._model


class EncodePhotos(_ModelHolder):
    """Compute the feature of each photo.

    Reads `image_id`, `image`, `error_type`; adds `feature`, a fixed-size list, or of a spatial encoder one of such
    lists (zeros where a photo failed), and such a column for each further view; drops `image`. A photo fails here too
    if its feature holds what is no number. The encoder's card goes into the schema's metadata.
    """

    def __init__(
        self,
        load: "LoadEncoder",
        *,
        dtype: str = "float32",
        num_views: int = 1,
        batch_size: int | None = None,
        num_threads: int | None = None,
        expected: EncoderCard | None = None,
    ) -> None:
        """Load the encoder.

        Args:
            load: gives the encoder.
            dtype: `float32` or `float16`, of the features.
            num_views: of each photo; see `views.view`.
            batch_size: photos a model call; None finds it.
            num_threads: cores that it may take; None leaves TensorFlow its choice.
            expected: of the features already there; another encoder's are not added to them.
        """
        self._dtype = pa.float16() if dtype == "float16" else pa.float32()
        self._num_views = num_views
        self._batches = BatchSizer(batch_size)
        self._expected = expected
        super().__init__(load, num_threads and _THREADS_A_CORE * num_threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return `table` with the column added."""
        card: EncoderCard = self.model.card
        if self._expected is not None:
            self._expected.require_same(card, mine="the features already there", others="this run's encoder")
        images = to_images(table["image"].combine_chunks(), card.height_px, card.width_px)
        good = np.flatnonzero(pc.is_null(table["error_type"]).to_numpy(zero_copy_only=False))
        image_ids = table["image_id"].to_pylist()
        schema = feature_schema(card.shape, self._dtype, card.to_json().encode(), num_views=self._num_views)
        table = table.drop_columns(["image"])
        unusable = np.zeros(len(table), bool)
        for number, name in enumerate(feature_columns(self._num_views)):

            def encode(rows: NDArray[np.intp], number: int = number) -> NDArray[np.float32]:
                seen = images[rows] if number == 0 else [view(images[row], image_ids[row], number) for row in rows]
                encoded: NDArray[np.float32] = self.model.encode(np.asarray(seen))
                return encoded

            features = np.zeros((len(table), *card.shape), self._dtype.to_pandas_dtype())
            with np.errstate(over="ignore"):  # what is too large for float16 becomes infinite
                for rows, encoded in self._batches.run(encode, good):
                    features[rows] = encoded
            unusable |= ~are_numbers(features)
            table = table.append_column(schema.field(name), feature_array(features, self._dtype))
        if unusable.any():
            table = _failed(
                table,
                unusable,
                ImageFeatureError(f"its feature holds what is no number in {np.dtype(self._dtype.to_pandas_dtype())}"),
            )
        return table.replace_schema_metadata(schema.metadata)


@dataclass(frozen=True, kw_only=True)
class LoadEncoder:
    """Gives an encoder, by name or by the card of the features that a model was trained on.

    Attributes:
        name: see `raycap.encoder.load_encoder`.
        weights: likewise.
        seed: likewise.
        exif_orientation: likewise.
        fast_decode: likewise.
        spatial: likewise.
        precision: likewise.
        card: if given, decides all of these.
        file: with `card`, where the encoder's file is now.
    """

    name: str = ""
    weights: str = ""
    seed: int = 0
    exif_orientation: bool = False
    fast_decode: bool = False
    spatial: bool = False
    precision: str = "float32"
    card: EncoderCard | None = None
    file: str | None = None

    def __call__(self) -> Any:
        """Return the encoder."""
        from raycap.encoder import load_encoder, reload_encoder

        if self.card is not None:
            return reload_encoder(self.card, file=self.file)
        return load_encoder(
            self.name,
            weights=self.weights,
            seed=self.seed,
            exif_orientation=self.exif_orientation,
            fast_decode=self.fast_decode,
            spatial=self.spatial,
            precision=self.precision,
        )


class CaptionFeatures(_ModelHolder):
    """Caption each photo from its feature.

    Reads `image_id`, `feature`, `view_1` if mirrored photos are to be seen too, and `error_type` if there is one; adds
    `caption`, `log_prob`, `num_tokens`, and with more than one caption a photo `alternatives`; drops features.
    """

    def __init__(
        self, bundle: str, decoding: DecodingConfig, *, batch_size: int | None = None, num_threads: int | None = None
    ) -> None:
        """Load the bundle.

        Args:
            bundle: its location.
            decoding: how a caption is found.
            batch_size: photos searched together; None finds it.
            num_threads: that it may take; None for one a core.
        """
        self._decoding = decoding
        self._batches = BatchSizer(batch_size)

        def load() -> Any:
            from raycap.captioner import Captioner

            return Captioner.load(bundle, num_threads=num_threads)

        super().__init__(load, num_threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return `table` with the columns added."""
        columns = feature_columns(self._decoding.num_views)
        features, mirrored = to_array(table[columns[0]]), to_array(table[columns[-1]])
        image_ids = np.array(table["image_id"].to_pylist(), object)
        good = np.arange(len(table))
        if "error_type" in table.column_names:
            good = np.flatnonzero(pc.is_null(table["error_type"]).to_numpy(zero_copy_only=False))
        found: list[list[Any]] = [[] for _ in range(len(table))]

        def speak(rows: NDArray[np.intp]) -> list[list[Any]]:
            captions: list[list[Any]] = self.model.caption_features(
                features[rows],
                self._decoding,
                image_ids=image_ids[rows],
                mirrored=mirrored[rows] if self._decoding.mirrored else None,
            )
            return captions

        for rows, captions in self._batches.run(speak, good):
            for row, each in zip(rows, captions, strict=True):
                found[row] = each
        best = [each[0] if each else ("", 0.0, 0) for each in found]
        added = {
            name: pa.array([each[index] for each in best], GENERATED.field(name).type)
            for index, name in enumerate(("caption", "log_prob", "num_tokens"))
        }
        if self._decoding.num_captions > 1:
            others = [[each._asdict() for each in captions[1:]] for captions in found]
            added[ALTERNATIVES.name] = pa.array(others, ALTERNATIVES.type)
        return _with_columns(table.drop_columns(columns), added)


@dataclass(frozen=True)
class WriteSidecars:
    """Write the .txt files of a shard's photos, where `sidecar` says.

    Attributes:
        sidecars: of the output.
    """

    sidecars: Sidecars

    def __call__(self, name: str, rows: pa.Table) -> None:
        """Write the sidecars of `rows`, the shard called `name`: reads `uri`, `sidecar`, `caption`."""
        columns = (rows[column].to_pylist() for column in ("uri", "sidecar", "caption"))
        self.sidecars.write(name, *columns)


@dataclass(frozen=True, kw_only=True)
class WriteShards:
    """Write the block's shards; leaves one row, `done` and `failed`, of how many photos they hold.

    Attributes:
        output: where to.
        columns: what a row holds.
        constants: string columns that are the same for every photo.
        then: called with the shard's name and rows once they are written, if there are any.
    """

    output: ShardedOutput
    columns: Sequence[str]
    constants: tuple[tuple[str, str], ...] = ()
    then: Callable[[str, pa.Table], None] | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write `table`; return the counts.

        Raises:
            InputError: if this node does not see the output.
        """
        require_record(self.output.out)
        constants = {name: pa.array([value] * len(table), pa.string()) for name, value in self.constants}
        counts = self.output.write(_with_columns(table, constants), columns=self.columns)
        if self.then is not None and counts.done:
            self.then(shard_name(table["image_id"].to_pylist()), table.filter(pc.is_null(table["error_type"])))
        return pa.table({"done": [counts.done], "failed": [counts.failed]})


def _failed(table: pa.Table, rows: NDArray[np.bool_], error: ImageError) -> pa.Table:
    """Return a table some of whose photos have an error."""
    for name, value in (("error_type", type(error).__name__), ("error_message", str(error))):
        if name in table.column_names:
            values = pc.if_else(pa.array(rows), value, table[name])
            table = table.set_column(table.column_names.index(name), name, values)
    return table


def _with_columns(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _from_images(pixels: NDArray[np.uint8]) -> pa.FixedSizeBinaryArray:
    """Return photos, `(photos, height, width, 3)`, as an `image` column, without a copy."""
    kind = pa.binary(math.prod(pixels.shape[1:]))
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))])


def to_images(column: pa.FixedSizeBinaryArray, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Return the photos of an `image` column as `(photos, height, width, 3)` uint8, without a copy.

    Raises:
        InputError: if they are of another size.
    """
    size = height_px * width_px * 3
    if column.type.byte_width != size:
        raise InputError(f"the encoder takes {height_px} x {width_px} photos; they were decoded otherwise")
    pixels = np.frombuffer(column.buffers()[1], np.uint8, len(column) * size, column.offset * size)
    return pixels.reshape(len(column), height_px, width_px, 3)
