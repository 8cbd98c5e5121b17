"""The file in an HTML form, as browsers and curl send it (RFC 7578); knows no server and no photos."""

from email.message import Message

_MAX_PARTS, _MAX_HEAD_BYTES = 32, 16 * 2**10  # a form of a million parts would keep the server from everything else


def photo_in_form(content: bytes, content_type: str) -> bytes | None:
    """Return the first file in a form, None if it has none or is damaged.

    Args:
        content: the request's body.
        content_type: its header, with the boundary between parts.
    """
    boundary = _header("Content-Type", content_type).get_boundary()
    if not boundary:
        return None
    # the body begins with a boundary, and each later one ends the part before it
    _, *parts = (b"\r\n" + content).split(b"\r\n--" + boundary.encode("latin-1", "replace"), _MAX_PARTS)
    for part in parts[:-1]:  # what follows the last boundary is no part
        head, blank, body = part.partition(b"\r\n\r\n")
        if blank and len(head) <= _MAX_HEAD_BYTES and _is_file(head.decode("utf-8", "replace")):
            return body
    return None


def _is_file(head: str) -> bool:
    """Whether the lines before a part's content give it a file name, as those of files do."""
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            header = _header("Content-Disposition", value.strip())
            return header.get_param("filename", header="content-disposition") is not None
    return False


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message
