"""The file in an HTML form, as browsers and curl send it (RFC 7578); knows no server and no photos."""

from email.message import Message


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
    _, *parts = (b"\r\n" + content).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    for part in parts[:-1]:  # what follows the last boundary is no part
        head, blank, body = part.partition(b"\r\n\r\n")
        for line in head.decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-disposition" and blank:
                header = _header("Content-Disposition", value.strip())
                if header.get_param("filename", header="content-disposition") is not None:
                    return body
    return None


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message
