"""The scores of one run or of two as cards and tables; computes none. Knows no files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from raycap.published import PUBLISHED, PublishedScore
from raycap.reporting.markup import Content, Markup, element, fragment, hostile
from raycap.reporting.sources import METRICS, Source, mapping, number, scores_of

_COLUMNS: Final = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider_d")
_CARDS: Final = ("cider_d", "bleu_4", "meteor", "rouge_l")
_BASELINES: Final = ("human ceiling", "constant caption", "shuffled photos")
_DIVERSITY: Final = {
    "num_captions": "captions",
    "distinct_captions": "different captions",
    "distinct_1": "different words, of all words",
    "distinct_2": "different pairs of words, of all pairs",
    "seen_in_training": "captions seen word for word in training, share",
    "repeats_a_word": "captions that say a word of meaning twice, share",
    "unfinished": "captions that are empty or whose last word wants another, share",
    "mean_length": "words a caption",
    "vocabulary_used": "different words",
    "vocabulary_share": "of the vocabulary, share",
}
_NOTHING: Final = "—"
_MINUS: Final = "\N{MINUS SIGN}"


def score_cards(source: Source) -> Markup:
    """Return the standard scores in large figures, each with its 95% interval and its baselines."""
    model = scores_of(source.scores, "model", "standard")
    cards = []
    for metric in [name for name in _CARDS if name in model] or [name for name in METRICS if name in model][:1]:
        others = [
            element("li", f"{whose} ", element("span", f"{value:.3f}", class_="figure"))
            for whose in _BASELINES
            if (value := scores_of(source.scores, whose, "standard").get(metric)) is not None
        ]
        cards.append(
            element(
                "li",
                element("h3", METRICS[metric]),
                element("p", f"{model[metric]:.3f}", class_="big"),
                _interval(source.scores, "standard", metric, tag="p"),
                element("ul", *others) if others else None,
                class_="card",
            )
        )
    return element("ul", *cards, class_="cards")


def score_tables(sources: Sequence[Source]) -> Markup:
    """Return a table a protocol: the model, its baselines and what was published; of two runs, their difference too."""
    scores = [source.scores for source in sources]
    protocols = dict.fromkeys(name for each in scores for name in mapping(mapping(each.get("scores")).get("model")))
    tables = [_table(scores, protocol) for protocol in protocols]
    return fragment(*tables, _notes(scores[-1]), _diversity(scores), *map(_against, scores))


def _table(scores: Sequence[Mapping[str, Any]], protocol: str) -> Markup:
    rows = _rows_of_one(scores[0], protocol) if len(scores) == 1 else _rows_of_two(scores, protocol)
    published = [each for each in PUBLISHED if each.protocol == protocol]
    for each in published:
        name = fragment(each.name, element("small", f"published, {each.dataset} {each.split}"))
        rows.append((name, each.scores, "published"))
    shown = [metric for metric in _COLUMNS if any(metric in values for _, values, kind in rows if kind != "published")]
    signature = mapping(scores[0].get("signatures")).get(protocol)
    body = [_score_row(name, values, shown, kind) for name, values, kind in rows]
    content = [
        scrolling(f"Scores under {protocol}", _score_table(shown, body)),
        element("p", element("code", hostile(str(signature))), class_="note") if signature else None,
        element("p", _sources(published, str(scores[0].get("split"))), class_="note") if published else None,
    ]
    if protocol == "standard":
        return element("div", element("h3", protocol), *content, class_="protocol")
    return element("details", element("summary", f"Scores under {protocol}"), *content, class_="protocol")


def _score_table(shown: Sequence[str], body: Sequence[Markup]) -> Markup:
    """Return the table; roles are said, as a narrow page shows each row as a block, which hides them otherwise."""
    names = [element("th", METRICS[metric], scope="col", role="columnheader") for metric in shown]
    top = element("tr", element("th", "captions", scope="col", role="columnheader"), *names, role="row")
    head, rows = element("thead", top, role="rowgroup"), element("tbody", *body, role="rowgroup")
    return element("table", head, rows, role="table", class_="stacking")


def _score_row(name: Content, values: Mapping[str, Any], shown: Sequence[str], kind: str | None) -> Markup:
    cells = [element("td", _said(values.get(metric)), role="cell", data_label=METRICS[metric]) for metric in shown]
    return element("tr", element("th", name, scope="row", role="rowheader"), *cells, class_=kind, role="row")


def _sources(published: Sequence[PublishedScore], split: str) -> str:
    names: dict[str, list[str]] = {}
    for each in published:
        names.setdefault(each.source, []).append(each.name)
    said = "; ".join(f"{source} ({'; '.join(models)})" for source, models in names.items())
    return f"Published figures compare only on the same photos; this run scored its {split} split. Sources: {said}."


_Row = tuple[Content, Mapping[str, Any], str | None]


def _rows_of_one(scores: Mapping[str, Any], protocol: str) -> list[_Row]:
    model = scores_of(scores, "model", protocol)
    said = {name: fragment(f"{value:.3f}", _interval(scores, protocol, name)) for name, value in model.items()}
    rows: list[_Row] = [("model", said, "model")]
    return rows + [(whose, found, None) for whose in _BASELINES if (found := scores_of(scores, whose, protocol))]


def _rows_of_two(scores: Sequence[Mapping[str, Any]], protocol: str) -> list[_Row]:
    models = [scores_of(each, "model", protocol) for each in scores]
    rows: list[_Row] = []
    for name, each, values in zip("AB", scores, models, strict=True):
        said = {metric: fragment(f"{value:.3f}", _interval(each, protocol, metric)) for metric, value in values.items()}
        rows.append((name, said, "model"))
    change = {metric: models[1][metric] - value for metric, value in models[0].items() if metric in models[1]}
    rows.append((f"B {_MINUS} A", {metric: _signed(value) for metric, value in change.items()}, "difference"))
    for whose in _BASELINES:
        found = [scores_of(each, whose, protocol) for each in scores]
        if found[0] == found[1] and found[0]:
            rows.append((whose, found[0], None))
        elif any(found):
            rows += [(f"{whose}, {name}", each, None) for name, each in zip("AB", found, strict=True) if each]
    return rows


def _said(value: Any) -> str:
    return value if isinstance(value, Markup) else f"{value:.3f}" if number(value) is not None else _NOTHING


def _signed(value: float) -> Markup:
    sign, said = (_MINUS, "worse") if value < -5e-4 else ("+", "better") if value > 5e-4 else ("", "same")
    return element("span", f"{sign}{abs(value):.3f}", class_=said)


def _interval(scores: Mapping[str, Any], protocol: str, metric: str, *, tag: str = "small") -> Markup | None:
    found = mapping(mapping(scores.get("intervals")).get(protocol)).get(metric)
    if not isinstance(found, list) or len(found) != 2 or None in (ends := [number(end) for end in found]):
        return None
    text = f"{ends[0]:.3f} to {ends[1]:.3f}"
    return element(tag, text, class_="interval", title="95% interval, over photos")


def _notes(scores: Mapping[str, Any]) -> Markup:
    notes: list[Content] = []
    if mapping(scores.get("intervals")):
        notes.append("Small figures under a score are its 95% interval, by bootstrap over photos.")
    if constant := scores.get("constant_caption"):
        notes.append(fragment("The constant caption is “", hostile(str(constant)), "”, whatever the photo."))
    if scores.get("keeps_one_letter_words") is False:
        notes.append("The model cannot say “a”, so its standard scores are low: prepare --keep-one-letter-words.")
    notes += [f"{METRICS.get(name, name)} is missing: {reason}" for name, reason in mapping(scores.get("gaps")).items()]
    return element("ul", *(element("li", note) for note in notes), class_="note") if notes else Markup()


def _diversity(scores: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return how varied captions are: a column a run, and one for people's."""
    found = [{whose: mapping(v) for whose, v in mapping(each.get("diversity")).items()} for each in scores]
    columns = {label: each["model"] for label, each in zip(_labels(scores), found, strict=True) if "model" in each}
    if people := next((each["references"] for each in found if "references" in each), None):
        columns["people"] = people
    names = dict.fromkeys(name for values in columns.values() for name in values)
    if not names:
        return None
    rows = [[_DIVERSITY.get(name, name), *(_plain(v.get(name)) for v in columns.values())] for name in names]
    table = scrolling("Diversity", table_of(["captions", *columns], rows))
    return element("div", element("h3", "Diversity"), table, class_="protocol")


def _labels(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["model"] if len(scores) == 1 else ["A", "B"]


def _against(scores: Mapping[str, Any]) -> Markup | None:
    """Return the differences that evaluate --against found, with what chance would make of them."""
    comparison = mapping(scores.get("comparison"))
    rows: list[list[Content]] = []
    for protocol, metrics in mapping(comparison.get("differences")).items():
        for metric in _COLUMNS:
            found = mapping(mapping(metrics).get(metric))
            values = [number(found.get(name)) for name in ("difference", "low", "high", "p")]
            if None not in values:
                change, low, high, p = (float(value or 0) for value in values)
                rows.append([f"{protocol}, {METRICS[metric]}", _signed(change), f"{low:.3f} to {high:.3f}", f"{p:.3f}"])
    if not rows:
        return None
    title = fragment("Against ", hostile(str(comparison.get("against"))))
    table = table_of(["score", "difference", "95% interval", "p"], rows)
    return element("div", element("h3", title), scrolling("Differences from another run", table), class_="protocol")


def _plain(value: object) -> str:
    shown = number(value)
    return _NOTHING if shown is None else f"{shown:,.0f}" if isinstance(value, int) else f"{shown:.3f}"


def scrolling(label: str, table: Markup) -> Markup:
    """Return a table that scrolls by itself where the page is narrow, by keys too."""
    return element("div", table, class_="scroll", role="region", tabindex=0, aria_label=label)


def table_of(head: Iterable[Content], rows: Iterable[Iterable[Content]]) -> Markup:
    """Return a table whose first column names its rows."""
    top = element("tr", *(element("th", each, scope="col") for each in head))
    body = []
    for first, *others in rows:
        cells = (element("td", each) for each in others)
        body.append(element("tr", element("th", first, scope="row"), *cells))
    return element("table", element("thead", top), element("tbody", *body))
