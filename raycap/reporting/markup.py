"""HTML and SVG elements from Python values, escaped by construction; knows nothing of what they show."""

from html import escape


class Markup(str):
    """Text that is HTML already; any other text is escaped before it becomes part of a page."""

    __slots__ = ()


Content = Markup | str | int | float | None


def fragment(*content: Content) -> Markup:
    """Return pieces one after another: what is not `Markup` is escaped, None is nothing."""
    pieces = (each if isinstance(each, Markup) else escape(str(each)) for each in content if each is not None)
    return Markup("".join(pieces))


def element(name: str, *content: Content, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: its tag, such as `td`.
        content: what is inside it, as for `fragment`.
        attributes: `class_` is class, `aria_label` is aria-label; True is an attribute without a value, None and False
            are no attribute.
    """
    said = [
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    return Markup(f"<{name}{''.join(said)}>{fragment(*content)}</{name}>")


def hostile(text: str) -> Markup:
    """Return text that came with a photo: on its own in the direction of writing, so that it can turn no other text."""
    return element("bdi", text)
