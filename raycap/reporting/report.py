"""The report command: one HTML file on a run, or on two side by side, from what they left on storage.

Knows neither Ray nor TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycap.locations import absolute, join
from raycap.reporting import facts
from raycap.reporting.charts import distributions, loss_plot, score_strips, text_plots
from raycap.reporting.gallery import Gallery, build_gallery, thumbnail_rows
from raycap.reporting.markup import Content, Markup, element, fragment, hostile
from raycap.reporting.page import Section, render
from raycap.reporting.scoring import score_cards, score_tables
from raycap.reporting.sources import Source, mapping, number, open_source
from raycap.reporting.thumbnails import Thumbnails, make_thumbnails
from raycap.storage import write_bytes
from raycap.tool_config import ReportConfig

REPORT_FILE = "report.html"
_MOST_FAILURES = 50_000  # of each run, in the page; all are counted


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """What was written.

    Attributes:
        location: of the file.
        num_bytes: its size.
        num_photos: that the report is of.
        num_thumbnails: of them, those that are shown.
        num_unreadable: of them, those that should have been shown and could not be read.
        left_out: what the runs no longer have, a sentence each.
    """

    location: str
    num_bytes: int
    num_photos: int
    num_thumbnails: int
    num_unreadable: int
    left_out: list[str]


def report(config: ReportConfig) -> ReportResult:
    """Write a report on one run, or on two side by side; what a run no longer has is left out, and said.

    Raises:
        InputError: if there is no run at a location.
        FormatError: if its table or record is damaged.
        OSError: if the report cannot be written.
    """
    sources = [open_source(location) for location in config.runs]
    location = absolute(config.out) if config.out else join(absolute(config.runs[0]), REPORT_FILE)
    gallery, num_photos = build_gallery(sources, max_photos=config.max_photos)
    chosen = thumbnail_rows(gallery, config.max_thumbnails)
    uris = {row: _moved(sources, uri) for row in chosen if (uri := gallery.uris[row])}
    thumbnails = make_thumbnails(uris, longest_px=config.thumbnail_px, image_column=_image_column(sources))
    sections = _sections(sources, gallery, num_photos, thumbnails)  # reads all that is read of the runs
    left_out = [sentence for source in sources for sentence in source.left_out]
    missing = Section("missing", "Not in this report", _list(left_out))
    title = config.title or " and ".join(source.name for source in sources)
    data = {
        "gallery": gallery.as_json(),
        "thumbnails": thumbnails.pictures,
        "failures": facts.failure_rows(sources, most=_MOST_FAILURES),
    }
    page = render(title, _summary(sources), [*sections, missing], data)
    write_bytes(location, page)
    return ReportResult(
        location=location,
        num_bytes=len(page),
        num_photos=num_photos,
        num_thumbnails=len(thumbnails.pictures),
        num_unreadable=thumbnails.failed.total() + thumbnails.not_tried,
        left_out=left_out,
    )


def _moved(sources: Sequence[Source], uri: str) -> str:
    return next((moved for source in sources if (moved := source.moved(uri)) != uri), uri)


def _image_column(sources: Sequence[Source]) -> str | None:
    """Return the column of Parquet files that captioned photos lay in, if their run says."""
    for source in sources:
        column = mapping(mapping(source.record.get("config")).get("listing")).get("image_column")
        if isinstance(column, str):
            return column
    return None


def _sections(sources: Sequence[Source], gallery: Gallery, num_photos: int, thumbnails: Thumbnails) -> list[Section]:
    scored = [source for source in sources if mapping(source.scores.get("scores"))]
    curves = _plots(loss_plot(sources), facts.training(sources))
    texts = _plots(*text_plots(sources), *distributions(sources))
    return [
        Section("scores", "Scores", _scores(scored) if len(scored) == len(sources) else Markup()),
        Section("training", "Training", curves),
        Section("captions", "Captions", texts),
        Section("gallery", "Gallery", fragment(_about_gallery(gallery, num_photos, thumbnails), _room("photos-here"))),
        Section("failures", "Failures", _failures(sources)),
        Section("options", "Configuration", facts.options(sources)),
        Section("versions", "Versions", facts.versions(sources)),
        Section("time", "Time", facts.timing(sources)),
    ]


def _scores(sources: Sequence[Source]) -> Markup:
    if len(sources) == 2:
        return score_tables(sources)
    head = element("div", score_cards(sources[0]), score_strips(sources[0]), class_="headline")
    return fragment(head, score_tables(sources))


def _plots(*plots: Markup | None) -> Markup:
    shown = [plot for plot in plots if plot]
    return element("div", *shown, class_="plots") if shown else Markup()


def _room(name: str) -> Markup:
    """Return the place that the page's script fills."""
    return element("div", id=name)


def _about_gallery(gallery: Gallery, num_photos: int, thumbnails: Thumbnails) -> Markup:
    said = []
    if len(gallery) < num_photos:
        which = "those with the lowest and the highest score, and an even spread"
        said.append(f"{len(gallery):,} of {num_photos:,} photos: {which} (--max-photos).")
    shown = len(thumbnails.pictures)
    if shown < len(gallery):
        said.append(f"{shown:,} photos are shown, the others by their captions alone (--max-thumbnails).")
    if failed := thumbnails.failed.total():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in thumbnails.failed.most_common())
        more = f"; {thumbnails.not_tried:,} more were not tried, as none could be read" if thumbnails.not_tried else ""
        said.append(f"{failed:,} photos could not be read for their picture: {reasons}{more}.")
    return element("p", " ".join(said), class_="note") if said else Markup()


def _failures(sources: Sequence[Source]) -> Markup:
    counts = facts.failure_counts(sources)
    if not counts:
        return Markup()
    most = max(len(source.failures) for source in sources)
    note = f"The first {_MOST_FAILURES:,} of each run are listed." if most > _MOST_FAILURES else None
    return fragment(counts, element("p", note, class_="note") if note else None, _room("failures-here"))


def _list(sentences: Sequence[str]) -> Markup:
    if not sentences:
        return Markup()
    items = [element("li", hostile(sentence)) for sentence in sentences]
    return element("div", "These could not be read:", element("ul", *items), class_="notice")


def _summary(sources: Sequence[Source]) -> Markup:
    lines = []
    for rank, source in enumerate(sources):
        name = fragment(element("b", "AB"[rank]), " ", hostile(source.location), ": ") if len(sources) == 2 else None
        lines.append(element("li", name, *_about(source)))
    return element("ul", *lines, class_="summary")


def _about(source: Source) -> list[Content]:
    """Return a line on a run: how many photos, which model, when."""
    scores: dict[str, Any] = dict(source.scores)
    said: list[Content] = [element("b", f"{len(source.photos):,}"), f" {scores.get('split') or 'captioned'} photos"]
    if (references := number(scores.get("num_references"))) is not None:
        said += [", ", element("b", f"{references:,.0f}"), " captions by people"]
    if missing := number(scores.get("num_missing")):
        said.append(f", {missing:,.0f} photos left out for want of a feature")
    encoder = mapping(source.card.get("encoder"))
    if encoder.get("name"):
        said += [", encoder ", element("b", hostile(str(encoder["name"]))), f" ({encoder.get('weights')} weights)"]
    if finished := source.record.get("finished_at"):
        said += [", ", element("time", str(finished)[:10])]
    return said
