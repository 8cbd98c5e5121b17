"""What evaluate writes, `scores.json` and `hypotheses.parquet`, and how it is read back. Knows no captioner."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycap.errors import FormatError, InputError
from raycap.locations import join
from raycap.parquet import read_schema, read_table
from raycap.runs import read_run
from raycap.schema import HYPOTHESES_FILE, SCORES_FILE
from raycap.storage import read_json

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of a split, under every protocol.

    Files written before a field was there are read with its default.

    Attributes:
        split: what was scored.
        num_photos: photos scored.
        num_missing: photos of the split left out for want of a feature.
        num_references: human captions in all.
        scores: of the `model`, of the `human ceiling` and of each baseline (`constant caption`, `shuffled photos`): by
            protocol, by metric (`raycap.metrics.METRICS`).
        signatures: how each protocol computes.
        constant_caption: what the baseline of that name says of every photo.
        keeps_one_letter_words: whether the model can say "a", without which `standard` scores are low.
        decode_s: seconds spent on captioning.
        gaps: what could not be computed, a metric or the human ceiling, and why.
        intervals: of the model: by protocol, by metric, the two ends of the 95% interval.
        diversity: of the captions of the `model`, and of `references`, the first of each photo; see
            `raycap.diversity`.
        comparison: with the run that `--against` named: `against`, `num_photos` that both have, `differences` by
            protocol, by metric (`difference`, `low`, `high`, `p`), and its own `gaps`; None without one.
    """

    split: str
    num_photos: int
    num_missing: int
    num_references: int
    scores: dict[str, Scores]
    signatures: dict[str, str]
    constant_caption: str
    keeps_one_letter_words: bool
    decode_s: float
    gaps: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    diversity: dict[str, dict[str, float]] = field(default_factory=dict)
    comparison: dict[str, Any] | None = None


def read_result(out: str) -> EvaluateResult:
    """Return what evaluate wrote to `out`.

    Raises:
        FormatError: if it is damaged.
    """
    location = join(out, SCORES_FILE)
    values = read_json(location)
    names = {each.name for each in dataclasses.fields(EvaluateResult)}
    try:
        return EvaluateResult(**{name: value for name, value in values.items() if name in names})
    except (TypeError, AttributeError) as error:
        raise FormatError(f"{location} is damaged: {error}") from error


def read_rows(out: str) -> list[dict[str, Any]]:
    """Return the captions that evaluate wrote to `out`, with what `scoring.score_rows` reads of each photo.

    Raises:
        FormatError: if they are damaged.
    """
    location = join(out, HYPOTHESES_FILE)
    noted = {"num_tokens"} & set(read_schema(location).names)  # older ones did not
    rows = read_table(location, columns=["image_id", "hypothesis", "log_prob", "references", *noted])
    return [{"num_tokens": None} | row for row in rows.to_pylist()]


def check_against(other: str, split: str) -> None:
    """Check that `other` is a finished evaluation of a split.

    Raises:
        InputError: if it is not.
        FormatError: if it is a newer raycap's, or damaged.
    """
    run = read_run(other)
    if run is None or run["stage"] != "evaluate" or run["result"] is None:
        raise InputError(f"{other} holds no finished evaluation; give --against what raycap evaluate wrote")
    theirs = read_result(other).split
    if theirs != split:
        raise InputError(f"{other} holds scores of {theirs}, not {split}; only scores of one split can be compared")
