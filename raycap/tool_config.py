"""Options of the commands that are no stage: their names, types, defaults and help. Knows nothing else."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from raycap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write a report on a run, or on two side by side: one HTML file that needs no network.

    Example: raycap report work/scores

    Example: raycap report work/scores work/other-scores --out comparison.html
    """

    runs: Annotated[tuple[str, ...], Positional]
    """What evaluate or caption wrote, or a folder that holds scores/; two are compared."""
    out: str | None = None
    """File to write; by default report.html inside the first run."""
    title: str | None = None
    """Heading of the report; by default the runs' names."""
    max_thumbnails: int = 1000
    """Photos shown at most: the worst, the best and an even spread; the others get a placeholder."""
    thumbnail_px: int = 256
    """Longer side of a photo as shown, in pixels; each takes 12 kB at most."""
    max_photos: int = 100_000
    """Photos in the gallery at most, chosen likewise; plots and scores are of all."""

    def __post_init__(self) -> None:
        if len(self.runs) not in {1, 2}:
            raise InputError(f"{len(self.runs)} runs are given; give one to report on, or two to compare")
        for name, least in (("max_thumbnails", 0), ("thumbnail_px", 16), ("max_photos", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}; give {least} or more")
