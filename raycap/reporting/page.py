"""The page itself: sections and data put into the template, which nothing in them can break out of. Knows no runs."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from string import Template
from typing import Any, NamedTuple

from raycap import __version__
from raycap.reporting.markup import Markup, element, fragment

# what would end a script, or begin a comment in one; and two line ends that JSON allows and old JavaScript does not
_BREAKING = re.compile("[<>&\u2028\u2029]")


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        name: its id, which links lead to.
        heading: its heading.
        content: what it shows; without any it is left out.
    """

    name: str
    heading: str
    content: Markup


def render(title: str, summary: Markup, sections: Sequence[Section], data: Any) -> bytes:
    """Return the page.

    Args:
        title: plain text.
        summary: below the title.
        sections: in their order.
        data: what the script shows; JSON can hold it.
    """
    style, script = _file("report.css"), _file("report.js")
    shown = [section for section in sections if section.content]
    links = [element("li", element("a", section.heading, href=f"#{section.name}")) for section in shown]
    page = Template(_file("template.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        version=fragment(__version__),
        title=fragment(title),
        style=style,
        summary=summary,
        links=fragment(*links),
        sections=fragment(*map(_section, shown)),
        today=datetime.now(UTC).strftime("%Y-%m-%d"),
        data=as_script_data(data),
        script=script,
    )
    return page.encode("utf-8", errors="replace")  # JSON files can hold half characters, which UTF-8 cannot


def as_script_data(data: Any) -> str:
    """Return JSON that may stand inside a script element, whatever strings it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _BREAKING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _section(section: Section) -> Markup:
    heading = element("h2", section.heading, id=f"{section.name}-heading")
    return element("section", heading, section.content, id=section.name, aria_labelledby=f"{section.name}-heading")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Return the source expression that allows this content, and no other, in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
