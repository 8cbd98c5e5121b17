"""Captions as NAME.txt files, beside photos or in a mirrored tree, and the record of which are ours. Knows no Ray.

For each shard of captions whose sidecars are written there is a shard of the record, of the same name. It is written
last, so a run that was killed writes again what it may not have written.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from raycap.errors import InputError
from raycap.locations import absolute, join, split_query, without_suffix
from raycap.parquet import list_tables, read_table, write_table
from raycap.runs import short_hash
from raycap.storage import delete_file, exists, is_folder, is_local, read_text, write_small_text

BESIDE: Final = "beside"
_FOLDER = "sidecars"
_SUFFIX = ".txt"
_RECORD = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sidecar", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("written", pa.bool_(), nullable=False),
    ]
)
"""`written` is false where somebody else's file was there, which was kept."""


@dataclass(frozen=True, kw_only=True)
class SidecarCounts:
    """What became of the sidecars.

    Attributes:
        written: hold the photo's caption.
        kept: hold something else, which raycap did not write.
    """

    written: int = 0
    kept: int = 0


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """The sidecars of one output.

    Attributes:
        out: the stage's output.
        where: `beside`, or a folder.
        overwrite: replace files that raycap did not write.
    """

    out: str
    where: str
    overwrite: bool = False

    @property
    def record(self) -> str:
        """The folder with the record."""
        return join(self.out, _FOLDER, BESIDE if self.where == BESIDE else short_hash(absolute(self.where)))

    def place(self, photos: pa.Table) -> list[str]:
        """Return where the sidecar of each photo of a listing goes: no two photos' in one place.

        It is the photo's name with .txt in place of its extension; where that would be two photos' (a.jpg and a.png),
        of an earlier listing too, or a photo itself, .txt comes after the extension.

        Raises:
            InputError: if a photo has no place beside it.
        """
        uris = photos["uri"].to_pylist()
        if self.where == BESIDE:
            inside = next((uri for uri, each in zip(uris, photos["container"].to_pylist(), strict=True) if each), None)
            if inside is not None:
                raise InputError(f"there is no place beside {inside}; give a folder: --sidecars FOLDER")
            full = uris
        else:
            full = [join(self.where, *_parts(image_id)) for image_id in photos["image_id"].to_pylist()]
        whole, queries = zip(*map(split_query, full), strict=True)
        originals = {split_query(uri)[0] for uri in uris} | self._places_of_others(uris)
        chosen = _if_free([without_suffix(each) for each in whole], whole, originals)
        hashed = [
            f"{each}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}" for each, uri in zip(whole, uris, strict=True)
        ]
        chosen = _if_free(chosen, hashed, originals)
        return [name + _SUFFIX + query for name, query in zip(chosen, queries, strict=True)]

    def _places_of_others(self, uris: Sequence[str]) -> set[str]:
        """Return where there are sidecars of photos that are not in this listing, without the URIs' queries."""
        listed = set(uris)
        tables = [read_table(join(self.record, name), columns=["uri", "sidecar"]) for name in list_tables(self.record)]
        return {
            split_query(sidecar)[0]
            for table in tables
            for uri, sidecar in zip(table["uri"].to_pylist(), table["sidecar"].to_pylist(), strict=True)
            if uri not in listed
        }

    def write(self, name: str, uris: Sequence[str], places: Sequence[str], captions: Sequence[str]) -> None:
        """Write the sidecars of a shard, and then the record of them.

        Args:
            name: the shard's.
            uris: of its photos.
            places: where the sidecars go.
            captions: what they hold.

        Raises:
            InputError: if one cannot be written.
        """
        written = [self._write_one(*each) for each in zip(places, captions, strict=True)]
        rows = {"uri": uris, "sidecar": places, "caption": captions, "written": written}
        write_table(join(self.record, name), pa.Table.from_pydict(rows, _RECORD))

    def _write_one(self, place: str, caption: str) -> bool:
        try:
            if not self.overwrite and exists(place):
                if read_text(place).strip() != caption:
                    return False
                if is_local(place):
                    return True
                # an object store copies an upload to its name: writing again removes the one that a kill left
            write_small_text(place, caption + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write {place}: {error.strerror or error}; --sidecars FOLDER writes them elsewhere"
            ) from error
        return True

    def catch_up(self, captions: str, photos: pa.Table, places: Sequence[str]) -> None:
        """Write the sidecars of shards that have no record: of a run without sidecars, or one that was killed.

        Args:
            captions: folder with the shards.
            photos: the listing; captions of photos that are not in it are left alone.
            places: of its sidecars.
        """
        missing = [name for name in list_tables(captions) if not self._has_all(name)]
        if not missing:
            return
        place_of = dict(zip(photos["uri"].to_pylist(), places, strict=True))
        for name in missing:
            rows = read_table(join(captions, name), columns=["uri", "caption"]).to_pylist()
            known = [row for row in rows if row["uri"] in place_of]
            if len(known) == len(rows):
                uris = [row["uri"] for row in rows]
                self.write(name, uris, [place_of[uri] for uri in uris], [row["caption"] for row in rows])
            else:
                for row in known:
                    self._write_one(place_of[row["uri"]], row["caption"])

    def _has_all(self, name: str) -> bool:
        """Whether the sidecars of a shard are as they should be: written, or kept if those of others are to be."""
        location = join(self.record, name)
        return exists(location) and not (self.overwrite and not all(map(_is_ours, read_table(location).to_pylist())))

    def counts(self) -> SidecarCounts:
        """Return what became of the sidecars of this output."""
        tables = [read_table(join(self.record, name), columns=["written"]) for name in list_tables(self.record)]
        written = [value for table in tables for value in table["written"].to_pylist()]
        return SidecarCounts(written=sum(written), kept=len(written) - sum(written))


def delete_written_sidecars(out: str) -> None:
    """Remove every sidecar that raycap wrote for an output and that is still as it was, and the record of them."""
    folder = join(out, _FOLDER)
    for name in list_tables(folder, recursive=True):
        for row in read_table(join(folder, *name.split("/"))).to_pylist():
            if _is_ours(row):
                delete_file(row["sidecar"])
        delete_file(join(folder, *name.split("/")))


def _is_ours(row: dict[str, Any]) -> bool:
    """Whether a sidecar is there, is raycap's, and is as it was written; whatever the record says, only a .txt file."""
    place = row["sidecar"]
    if not row["written"] or not split_query(place)[0].endswith(_SUFFIX):
        return False
    return exists(place) and not is_folder(place) and read_text(place).strip() == row["caption"]


def _if_free(names: Sequence[str], others: Sequence[str], originals: set[str]) -> list[str]:
    """Return each name, or the other one where its sidecar would be another photo's too, or a photo itself."""
    counts = Counter(names)
    return [
        name if counts[name] == 1 and name + _SUFFIX not in originals else other
        for name, other in zip(names, others, strict=True)
    ]


def _parts(image_id: str) -> list[str]:
    """Return the steps from the mirrored tree's root to a photo: never out of it, and names that files can have."""
    steps = [step for step in image_id.replace("://", "/").split("/") if step not in {"", "."}]
    return ["%2E%2E" if step == ".." else step.replace("\0", "%00") for step in steps] or ["%2E"]
