"""The rows of a report's gallery, of one run or of two joined, and which of them are shown. Knows no HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycap.reporting.sources import PHOTO_SCORES, Source

_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A row a photo; where there are two runs, one for each photo of either.

    Attributes:
        image_ids: of the photos.
        uris: where they were, as far as the runs say.
        captions: of each run: a caption a photo, None where the run has none of it.
        references: people's captions of each photo; None where no run has any.
        scores: of each run, by name of the score; NaN where there is none.
    """

    image_ids: Sequence[str]
    uris: Sequence[str | None]
    captions: Sequence[Sequence[str | None]]
    references: Sequence[Sequence[str]] | None
    scores: Mapping[str, Sequence[NDArray[np.float64]]]

    def __len__(self) -> int:
        return len(self.image_ids)

    def as_json(self) -> dict[str, Any]:
        """Return what the page's script reads: a list a column."""
        return {
            "ids": list(self.image_ids),
            "captions": [list(each) for each in self.captions],
            "references": self.references,
            "scores": [
                {"label": PHOTO_SCORES[key], "values": [[_rounded(value) for value in run] for run in runs]}
                for key, runs in self.scores.items()
            ],
        }


@dataclass(frozen=True)
class _Joined:
    """The photos of some runs, each once, and the row that each run has of it."""

    sources: Sequence[Source]
    image_ids: pa.Array
    rows: Sequence[pa.Array]

    @classmethod
    def join(cls, sources: Sequence[Source]) -> "_Joined":
        ids = pc.unique(
            pa.chunked_array((chunk for each in sources for chunk in each.photos["image_id"].chunks), pa.string())
        )
        rows = [pc.index_in(ids, each.photos["image_id"]) for each in sources]
        return cls(sources, ids, rows)

    def scores(self) -> dict[str, list[NDArray[np.float64]]]:
        """Return those scores that every run has: of each run, one a photo."""
        there = [set(source.photos.schema.names) for source in self.sources]
        keys = [key for key in PHOTO_SCORES if all(key in names for names in there)]
        taken = {
            key: [as_floats(source.photos.select([key]).take(rows), key) for source, rows in self._pairs()]
            for key in keys
        }
        return {key: runs for key, runs in taken.items() if any(np.isfinite(values).any() for values in runs)}

    def column(self, name: str, run: int, chosen: pa.Array) -> list[Any]:
        """Return one column of one run for some of the photos, None where the run has none."""
        table = self.sources[run].photos
        if name not in table.schema.names:
            return [None] * len(chosen)
        values: list[Any] = table[name].take(self.rows[run].take(chosen)).to_pylist()
        return values

    def either(self, name: str, chosen: pa.Array) -> list[Any]:
        """Return one column for some of the photos, from the first run that has it."""
        columns = [self.column(name, run, chosen) for run in range(len(self.sources))]
        return [next((value for value in row if value is not None), None) for row in zip(*columns, strict=True)]

    def _pairs(self) -> list[tuple[Source, pa.Array]]:
        return list(zip(self.sources, self.rows, strict=True))


def build_gallery(sources: Sequence[Source], *, max_photos: int) -> tuple[Gallery, int]:
    """Return the gallery of one run or two, and how many photos there are in all.

    Args:
        sources: the runs.
        max_photos: in the gallery at most: see `pick`.
    """
    joined = _Joined.join(sources)
    scores = joined.scores()
    chosen = pick(_ranking(scores, len(joined.image_ids)), max_photos)
    taken = pa.array(chosen)
    references = joined.either("references", taken)
    gallery = Gallery(
        image_ids=joined.image_ids.take(taken).to_pylist(),
        uris=joined.either("uri", taken),
        captions=[joined.column("caption", run, taken) for run in range(len(sources))],
        references=[each or [] for each in references] if any(references) else None,
        scores={key: [values[chosen] for values in runs] for key, runs in scores.items()},
    )
    return gallery, len(joined.image_ids)


def thumbnail_rows(gallery: Gallery, count: int) -> list[int]:
    """Return which of a gallery's photos are shown: see `pick`."""
    return [int(row) for row in pick(_ranking(gallery.scores, len(gallery)), count)]


def _ranking(scores: Mapping[str, Sequence[NDArray[np.float64]]], count: int) -> NDArray[np.float64]:
    """Return what photos are ranked by: the first score, or by how much it differs between two runs."""
    if not scores:
        return np.full(count, np.nan)
    first = next(iter(scores.values()))
    return first[0] if len(first) == 1 else first[1] - first[0]


def pick(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return `count` positions in rising order: a third the lowest values, a third the highest, the rest spread evenly.

    Args:
        values: to go by; NaN counts as neither low nor high.
        count: positions wanted; all, where there are no more.
    """
    if len(values) <= count:
        return np.arange(len(values))
    known = np.isfinite(values)
    order = np.argsort(np.where(known, values, np.median(values[known]) if known.any() else 0.0), kind="stable")
    third = count // 3
    middle = order[third : len(order) - third]
    wanted = count - 2 * third
    spread = middle[((np.arange(wanted) + 0.5) * len(middle) / wanted).astype(np.int64)]
    return np.sort(np.concatenate([order[:third], order[len(order) - third :], spread]))


def as_floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column of numbers, NaN where there is none."""
    if name not in table.schema.names or not _is_number(table.schema.field(name).type):
        return np.full(len(table), np.nan)
    values: NDArray[np.float64] = np.asarray(table[name].cast(pa.float64()).to_numpy(), np.float64)
    return values


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def _rounded(value: float) -> float | None:
    return round(float(value), _DIGITS) if math.isfinite(value) else None
