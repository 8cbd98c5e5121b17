"""What prepare wrote, read back: manifest, captions, tokenizer. Knows neither Ray nor TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from raycap.errors import InputError
from raycap.locations import join
from raycap.parquet import read_table
from raycap.runs import read_run, short_hash
from raycap.storage import exists, read_text
from raycap.text import TOKENIZER_FILE, Tokenizer

PHOTOS_FILE = "photos.parquet"
CAPTIONS_FILE = "captions.parquet"


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    Attributes:
        location: prepare's `--out`.
    """

    location: str

    @classmethod
    def open(cls, location: str) -> "Prepared":
        """Open what prepare wrote.

        Raises:
            InputError: if it is not there, or not whole.
            FormatError: if it is a newer raycap's.
        """
        for name in (PHOTOS_FILE, CAPTIONS_FILE, TOKENIZER_FILE):
            if not exists(join(location, name)):
                raise InputError(f"there is no {name} in {location}; run raycap prepare first")
        read_run(location)  # a newer raycap's ends here
        return cls(location)

    @cached_property
    def photos(self) -> pa.Table:
        """The manifest; `schema.PHOTOS`."""
        return read_table(join(self.location, PHOTOS_FILE), columns=["image_id", "uri", "split"])

    @cached_property
    def captions(self) -> pa.Table:
        """The captions; `schema.CAPTIONS`."""
        columns = ["image_id", "split", "caption", "clean_caption"]
        return read_table(join(self.location, CAPTIONS_FILE), columns=columns)

    def image_ids(self, *splits: str) -> set[str]:
        """Return the photos that have captions in some splits."""
        return set(self._captions_of(splits)["image_id"].to_pylist())

    def captions_hash(self, *splits: str) -> str:
        """Return a short hash of the captions of some splits, and of whose they are."""
        return short_hash([column.to_pylist() for column in self._captions_of(splits).columns])

    def _captions_of(self, splits: Sequence[str]) -> pa.Table:
        return self.captions.filter(pc.is_in(self.captions["split"], pa.array(splits, pa.string())))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary."""
        location = join(self.location, TOKENIZER_FILE)
        return Tokenizer.from_json(read_text(location), source=location)

    def references(self, split: str) -> dict[str, Sequence[str]]:
        """Return the captions of each photo of a split, as people wrote them.

        Raises:
            InputError: if the split has none; the message says which have.
        """
        rows = self.captions.filter(pc.equal(self.captions["split"], split))
        references: dict[str, list[str]] = {}
        for image_id, caption in zip(rows["image_id"].to_pylist(), rows["caption"].to_pylist(), strict=True):
            references.setdefault(image_id, []).append(caption)
        if not references:
            there = sorted(set(self.captions["split"].drop_null().to_pylist()))
            raise InputError(f"{self.location} has no {split} captions; give --split {' or '.join(there)}")
        return dict(references)
