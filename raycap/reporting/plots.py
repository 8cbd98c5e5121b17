"""Small plots as SVG, drawn from numbers; colours are the page's. Knows nothing of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raycap.reporting.markup import Markup, element, fragment

_WIDTH, _HEIGHT = 360, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 44
_LABEL_WIDTH, _ROW_HEIGHT = 96, 22

Style = str
"""A class of the page's: `accent`, `quiet`, and with `dashed` behind it a broken line."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One set of numbers of a plot.

    Attributes:
        name: for the legend.
        style: how it is drawn.
        values: what is drawn, one for each place along the axis; None where there is nothing.
        marked: place of the value that is pointed out.
    """

    name: str
    style: Style
    values: Sequence[float | None]
    marked: int | None = None


def line_plot(
    title: str, about: str, series: Sequence[Series], *, x_label: str, y_label: str, first: int = 1
) -> Markup:
    """Return lines over places numbered from `first`."""
    values = [value for each in series for value in each.values if value is not None]
    last = max(first + len(each.values) - 1 for each in series)
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)

    def place(position: int, value: float) -> tuple[float, float]:
        across = (position - first) / max(1, last - first)
        return _x(across), _y((value - low) / ((high - low) or 1))

    drawn = [_y_axis(ticks, low, high, y_label), _x_axis(_whole_ticks(first, last), first, last, x_label)]
    for each in series:
        points = [(first + at, value) for at, value in enumerate(each.values) if value is not None]
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        drawn.append(element("polyline", points=path, class_=f"line {each.style}"))
        for position, value in points:
            x, y = place(position, value)
            label = element("title", f"{each.name}, {x_label} {position}: {value:.4g}")
            big = position - first == each.marked
            drawn.append(element("circle", label, cx=f"{x:.1f}", cy=f"{y:.1f}", r=5 if big else 2, class_=each.style))
    return _figure(title, about, drawn, series)


def bar_plot(
    title: str, about: str, labels: Sequence[str], series: Sequence[Series], *, x_label: str, y_label: str
) -> Markup:
    """Return upright bars, those of each place side by side."""
    high = max((value or 0 for each in series for value in each.values), default=0) or 1
    ticks = _ticks(0, high)
    high = max(high, ticks[-1])
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    width = step * (0.86 if step > 8 else 1) / len(series)
    drawn = [_y_axis(ticks, 0, high, y_label)]
    for rank, each in enumerate(series):
        for at, value in enumerate(each.values):
            if value:
                top = _y(value / high)
                x = _LEFT + at * step + (step - width * len(series)) / 2 + rank * width
                label = element("title", f"{each.name}, {labels[at]}: {value:.4g}")
                size = {"x": f"{x:.2f}", "y": f"{top:.1f}", "width": f"{width:.2f}", "height": f"{_y(0) - top:.1f}"}
                drawn.append(element("rect", label, class_=f"bar {each.style}", **size))
    every = math.ceil(len(labels) / 8)
    shown = range(0, len(labels), every)
    drawn += [_text(labels[at], _LEFT + (at + 0.5) * step, _y(0) + 16, "middle") for at in shown]
    drawn.append(_text(x_label, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "middle"))
    return _figure(title, about, drawn, series)


def word_plot(title: str, about: str, labels: Sequence[str], series: Sequence[Series]) -> Markup:
    """Return lying bars, a row a label, those of each row under one another."""
    high = max((value or 0 for each in series for value in each.values), default=0) or 1
    height = len(labels) * _ROW_HEIGHT + 8
    thick = (_ROW_HEIGHT - 7) / len(series)
    drawn = []
    for at, word in enumerate(labels):
        top = 4 + at * _ROW_HEIGHT
        shown = word if len(word) <= 14 else word[:13] + "…"
        drawn.append(_text(shown, _LABEL_WIDTH - 8, top + _ROW_HEIGHT / 2 + 1, "end"))
        for rank, each in enumerate(series):
            value = each.values[at] or 0
            label = element("title", f"{each.name}, {word}: {value:.3g}")
            width = (_WIDTH - _LABEL_WIDTH - 50) * value / high
            size = {"x": _LABEL_WIDTH, "y": f"{top + 2 + rank * thick:.1f}", "width": f"{width:.1f}"}
            drawn.append(element("rect", label, class_=f"bar {each.style}", height=f"{thick:.1f}", **size))
        most = max(each.values[at] or 0 for each in series)
        end = _LABEL_WIDTH + (_WIDTH - _LABEL_WIDTH - 50) * most / high + 6
        drawn.append(_text(f"{most:.3g}", end, top + _ROW_HEIGHT / 2 + 1, "start"))
    return _figure(title, about, drawn, series, height=height)


def strip_plot(title: str, about: str, rows: Mapping[str, Sequence[tuple[str, Style, float]]]) -> Markup:
    """Return a row a score, its values marked along a line from 0 to 1, or to the largest where that is more.

    Args:
        title: of the plot.
        about: what it says, in words.
        rows: name, style and value of each mark, by the score's name.
    """
    drawn = []
    for at, (label, marks) in enumerate(rows.items()):
        y = 20 + at * 36
        high = max(1.0, *(value for _, _, value in marks))
        high = high if high == 1 else math.ceil(high)
        start, length = _LABEL_WIDTH - 20, _WIDTH - _LABEL_WIDTH - 20
        drawn.append(_text(label, start - 10, y + 4, "end"))
        drawn.append(element("line", x1=start, x2=start + length, y1=y, y2=y, class_="grid"))
        drawn.append(_text(f"{high:g}", start + length + 8, y + 4, "start"))
        for name, style, value in marks:
            said = element("title", f"{label}, {name}: {value:.3f}")
            drawn.append(_mark(style, start + length * min(1.0, max(0.0, value / high)), y, said))
    named = {name: style for marks in rows.values() for name, style, _ in marks}
    series = [Series(name=name, style=f"mark {style}", values=()) for name, style in named.items()]
    return _figure(title, about, drawn, series, height=len(rows) * 36 + 8)


def _mark(style: Style, x: float, y: float, label: Markup) -> Markup:
    size = 8 if style == "accent" else 6
    if style == "human":
        path = f"M{x:.1f} {y - 7}l7 7-7 7-7-7z"
        return element("path", label, d=path, class_=f"mark {style}")
    return element("circle", label, cx=f"{x:.1f}", cy=y, r=size, class_=f"mark {style}")


def _figure(
    title: str, about: str, drawn: Sequence[Markup], series: Sequence[Series], *, height: int = _HEIGHT
) -> Markup:
    name = "plot-" + "".join(character if character.isalnum() else "-" for character in title.lower())
    svg = element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", about, id=f"{name}-desc"),
        *drawn,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    keys = [element("li", element("span", class_=f"key {each.style}"), each.name) for each in series]
    legend = element("ul", *keys, class_="legend") if len(series) > 1 else None
    return element(
        "figure", element("figcaption", title), svg, legend, class_="plot tall" if height > _HEIGHT * 1.5 else "plot"
    )


def _y_axis(ticks: Sequence[float], low: float, high: float, label: str) -> Markup:
    drawn = []
    for tick in ticks:
        y = _y((tick - low) / ((high - low) or 1))
        drawn.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        drawn.append(_text(f"{tick:.6g}", _LEFT - 8, y + 4, "end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f"translate(11 {middle:g}) rotate(-90)"
    return fragment(*drawn, element("text", label, class_="axis middle", transform=turned))


def _x_axis(ticks: Sequence[int], first: int, last: int, label: str) -> Markup:
    drawn = [_text(str(tick), _x((tick - first) / max(1, last - first)), _y(0) + 16, "middle") for tick in ticks]
    return fragment(*drawn, _text(label, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "middle"))


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=f"axis {anchor}")


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from at most `low` to at least near `high`."""
    step = round_step(low, high, 4)
    start = math.floor(low / step)
    end = max(start + 1, math.ceil(high / step - 1e-9))
    return [at * step for at in range(start, end + 1)]


def round_step(low: float, high: float, most: int) -> float:
    """Return the least round number of which at most `most` lead from `low` to `high`."""
    rough = ((high - low) or abs(low) or 1.0) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _whole_ticks(first: int, last: int) -> list[int]:
    every = max(1, math.ceil((last - first) / 7))
    return [first, *(at for at in range(first + 1, last + 1) if at % every == 0)]
