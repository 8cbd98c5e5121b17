"""Which plots a report shows of its runs; draws none itself. Knows no HTML."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycap.reporting.gallery import as_floats
from raycap.reporting.markup import Markup
from raycap.reporting.plots import Series, bar_plot, line_plot, round_step, strip_plot, word_plot
from raycap.reporting.sources import METRICS, PHOTO_SCORES, Source, number, scores_of
from raycap.text import standard_words

_NUM_BINS = 20
_NUM_WORDS = 20
_LONGEST = 40  # words; longer captions share the last bar
_ROWS_AT_ONCE = 4096


def score_strips(source: Source) -> Markup | None:
    """Return the model's standard scores beside its baselines."""
    styles = {"shuffled photos": "quiet", "constant caption": "second", "model": "accent", "human ceiling": "human"}
    of = {whose: scores_of(source.scores, whose, "standard") for whose in styles}
    rows = {
        label: [(whose, style, of[whose][metric]) for whose, style in styles.items() if metric in of[whose]]
        for metric, label in METRICS.items()
        if metric in of["model"]
    }
    if not rows:
        return None
    about = "; ".join(f"{label}: " + ", ".join(f"{n} {v:.3f}" for n, _, v in marks) for label, marks in rows.items())
    return strip_plot("Beside the baselines", about, rows)


def loss_plot(sources: Sequence[Source]) -> Markup | None:
    """Return the loss of each epoch, on training and dev captions."""
    styles = ("quiet", "accent") if len(sources) == 1 else ("quiet dashed", "quiet", "accent dashed", "accent")
    series, said = [], []
    for rank, source in enumerate(sources):
        epochs = source.history.get("history", [])
        best = source.history.get("best_epoch")
        for at, split in enumerate(("train", "dev")):
            values = [number(epoch.get(f"{split}_loss")) for epoch in epochs]
            if any(value is not None for value in values):
                marked = best - 1 if split == "dev" and isinstance(best, int) else None
                name = split if len(sources) == 1 else f"{'AB'[rank]} {split}"
                series.append(Series(name=name, style=styles[2 * rank + at], values=values, marked=marked))
                lowest = min(value for value in values if value is not None)
                said.append(f"{name} loss over {len(values)} epochs, lowest {lowest:.3f}")
                if marked is not None:
                    said.append(f"best epoch {best}, marked")
    if not series:
        return None
    return line_plot("Loss", "; ".join(said), series, x_label="epoch", y_label="nats a word")


@dataclass(frozen=True)
class _Texts:
    """What captions are made of.

    Attributes:
        name: whose they are.
        style: how they are drawn.
        lengths: captions by their number of words.
        words: how often each is used.
    """

    name: str
    style: str
    lengths: Counter[int]
    words: Counter[str]

    @classmethod
    def count(cls, name: str, style: str, captions: Iterable[str]) -> "_Texts":
        lengths: Counter[int] = Counter()
        words: Counter[str] = Counter()
        for caption in captions:
            said = standard_words(caption)
            lengths[min(len(said), _LONGEST)] += 1
            words.update(said)
        return cls(name, style, lengths, words)


def text_plots(sources: Sequence[Source]) -> list[Markup]:
    """Return how long captions are and what words they use, the runs' beside people's."""
    names = ["model"] if len(sources) == 1 else ["A", "B"]
    styles = ["accent"] if len(sources) == 1 else ["quiet", "accent"]
    texts = [
        _Texts.count(name, style, _strings(source.photos["caption"]))
        for name, style, source in zip(names, styles, sources, strict=True)
    ]
    written = next(
        (source.photos["references"] for source in sources if "references" in source.photos.schema.names), None
    )
    if written is not None:
        texts.append(
            _Texts.count(
                "people",
                "quiet" if len(sources) == 1 else "second",
                (text for each in _lists(written) for text in each),
            )
        )
    texts = [each for each in texts if each.lengths]
    return [_length_plot(texts), _word_plot(texts)] if texts else []


def _length_plot(texts: Sequence[_Texts]) -> Markup:
    low = min(min(each.lengths) for each in texts)
    high = max(max(each.lengths) for each in texts)
    labels = [f"{length}+" if length == _LONGEST else str(length) for length in range(low, high + 1)]
    series, said = [], []
    for each in texts:
        total = each.lengths.total()
        values = [100 * each.lengths[length] / total for length in range(low, high + 1)]
        series.append(Series(name=each.name, style=each.style, values=values))
        mean = sum(length * count for length, count in each.lengths.items()) / total
        said.append(f"{each.name}: {mean:.1f} words on average")
    about = "; ".join(said)
    return bar_plot("Caption length", about, labels, series, x_label="words", y_label="% of captions")


def _word_plot(texts: Sequence[_Texts]) -> Markup:
    shares: defaultdict[str, float] = defaultdict(float)
    for each in texts:
        for word, count in each.words.items():
            shares[word] += count / each.words.total()
    common = [word for word, _ in sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_NUM_WORDS]]
    series = [
        Series(
            name=each.name,
            style=each.style,
            values=[100 * each.words[word] / max(1, each.words.total()) for word in common],
        )
        for each in texts
    ]
    about = "; ".join(
        f"{each.name}: {each.words.total():,} words, {len(each.words):,} different ones" for each in texts
    )
    return word_plot("Most frequent words, %", about, common, series)


def distributions(sources: Sequence[Source]) -> list[Markup]:
    """Return how each score is spread over the photos."""
    styles = ["accent"] if len(sources) == 1 else ["quiet", "accent"]
    plots = []
    for key, label in PHOTO_SCORES.items():
        found = {}
        for name, style, source in zip("AB", styles, sources, strict=False):
            values = as_floats(source.photos, key)
            values = values[np.isfinite(values)]
            if len(values):
                found["photos" if len(sources) == 1 else name] = (style, values)
        if found:
            plots.append(_histogram(label, found))
    return plots


def _histogram(label: str, found: Mapping[str, tuple[str, NDArray[np.float64]]]) -> Markup:
    everything = np.concatenate([values for _, values in found.values()])
    low, high = float(everything.min()), float(everything.max())
    if low >= 0:
        low, high = 0.0, max(1.0, high)
    step = round_step(low, high, _NUM_BINS)
    first = math.floor(low / step)
    edges = np.arange(first, max(first + 1, math.ceil(high / step)) + 1) * step
    labels = [f"{edge:.6g}" for edge in edges[:-1]]
    series, said = [], []
    for name, (style, values) in found.items():
        counts = np.histogram(values, edges)[0]
        series.append(Series(name=name, style=style, values=[100 * int(each) / len(values) for each in counts]))
        said.append(f"{name}: median {np.median(values):.3f}, mean {values.mean():.3f}")
    return bar_plot(f"{label} of each photo", "; ".join(said), labels, series, x_label=label, y_label="% of photos")


def _strings(column: pa.ChunkedArray) -> Iterable[str]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), _ROWS_AT_ONCE):
            yield from (each or "" for each in chunk.slice(start, _ROWS_AT_ONCE).to_pylist())


def _lists(column: pa.ChunkedArray) -> Iterable[Sequence[str]]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), _ROWS_AT_ONCE):
            yield from ([text for text in each or () if text] for each in chunk.slice(start, _ROWS_AT_ONCE).to_pylist())
