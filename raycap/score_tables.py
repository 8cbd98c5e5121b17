"""Scores as a person reads them in a terminal: tables and lines. Knows nothing of how they came about."""

from collections.abc import Mapping
from typing import Any

from raycap.metrics import METRICS
from raycap.progress import printable
from raycap.scores import EvaluateResult


def evaluation_text(result: EvaluateResult) -> str:
    """Return the scores as a table, what could not be computed, how varied the captions are, and any comparison."""
    head = f"{result.split}: {result.num_photos:,} photos, {result.num_references:,} references"
    if result.num_missing:
        head += f"; {result.num_missing:,} photos left out, as they have no feature"
    lines = [head, _row("protocol", "captions", METRICS)]
    for protocol in result.signatures:
        for whose, scores in result.scores.items():
            lines.append(_row(protocol, whose, _numbers(scores[protocol])))
            if whose == "model" and protocol in result.intervals:
                lines.append(_row("", "  95% interval, ±", _numbers(_half_widths(result.intervals[protocol]))))
    lines += _gap_lines(result.gaps)
    if result.diversity:
        lines += _diversity_lines(result.diversity)
    if not result.keeps_one_letter_words:
        lines.append('the model cannot say "a": standard scores need prepare --keep-one-letter-words')
    return "\n".join(lines if result.comparison is None else [*lines, *_comparison_lines(result.comparison)])


def _row(protocol: str, whose: str, cells: Mapping[str, str]) -> str:
    return f"{protocol:<10}{whose:<20}" + "".join(f"{cells.get(name, '-'):>8}" for name in METRICS)


def _numbers(scores: Mapping[str, float], sign: str = "") -> dict[str, str]:
    return {name: f"{score:{sign}.3f}" for name, score in scores.items()}


def _half_widths(intervals: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: (high - low) / 2 for name, (low, high) in intervals.items()}


def _diversity_lines(diversity: Mapping[str, Mapping[str, float]]) -> list[str]:
    model, people = diversity["model"], diversity["references"]
    varied = (
        f"captions (people's): {model['distinct_captions']:,.0f} ({people['distinct_captions']:,.0f}) of "
        f"{model['num_captions']:,.0f} differ, {model['seen_in_training']:.0%} ({people['seen_in_training']:.0%}) "
        f"as in training, {model['mean_length']:.1f} ({people['mean_length']:.1f}) words each, "
        f"{model['vocabulary_used']:,.0f} ({people['vocabulary_used']:,.0f}) words in all"
    )
    if "unfinished" not in model:  # an older raycap wrote it
        return [varied]
    return [
        varied,
        f"  {model['repeats_a_word']:.1%} ({people['repeats_a_word']:.1%}) say a word of meaning twice, "
        f"{model['unfinished']:.1%} ({people['unfinished']:.1%}) are unfinished",
    ]


def _comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    lines = [
        f"against {printable(comparison['against'])}, on the {comparison['num_photos']:,} photos that both have:",
        _row("protocol", "difference", METRICS),
    ]
    for protocol, metrics in comparison["differences"].items():
        for part, label in (("difference", "model - other"), ("low", "  95% from"), ("high", "  to")):
            values = {name: each[part] for name, each in metrics.items()}
            lines.append(_row(protocol if part == "difference" else "", label, _numbers(values, sign="+")))
        lines.append(_row("", "  p", _numbers({name: each["p"] for name, each in metrics.items()})))
    return lines + _gap_lines(comparison.get("gaps", {}))


def _gap_lines(gaps: Mapping[str, str]) -> list[str]:
    return [f"{METRICS.get(name, name)}: none, {printable(reason)}" for name, reason in gaps.items()]
