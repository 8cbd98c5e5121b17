"""The page of `raycap serve`, and what a browser may do with it; knows no server."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Final

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def page(*, max_bytes: int) -> str:
    """Return the page: one file, without anything from elsewhere; it sends no photo of more than `max_bytes`."""
    text = resources.files("raycap").joinpath("serve_page.html").read_text(encoding="utf-8")
    return text.replace('data-max-bytes=""', f'data-max-bytes="{max_bytes}"')


def _policy() -> str:
    """Return what the page may load: itself, the photo that is picked, and nothing of another's."""
    digests = {kind: hashlib.sha256(code.encode()).digest() for kind, code in _INLINE.findall(page(max_bytes=0))}
    allowed = {kind: f"'sha256-{base64.b64encode(digest).decode()}'" for kind, digest in digests.items()}
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; img-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


PAGE_HEADERS: Final = {"Content-Security-Policy": _policy(), "Referrer-Policy": "no-referrer"}
