"""A drawing of a Keras model, as SVG, from its layers and their order; needs no drawing program. Knows no framework."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 230, 52, 24, 36


class _Node(NamedTuple):
    name: str
    kind: str
    shape: str
    num_parameters: int
    sources: tuple[str, ...]


def model_svg(model: Any) -> str:
    """Return a drawing of a functional model: a box an operation, inputs at the top, with shapes and parameters."""
    nodes = [_node(operation) for operation in model.operations]
    rows: dict[str, int] = {}
    for node in nodes:
        rows[node.name] = max((rows[source] + 1 for source in node.sources), default=0)
    return _draw(nodes, rows, f"{model.name}, {model.count_params():,} parameters")


def _node(operation: Any) -> _Node:
    sources: list[str] = []
    for inbound in operation._inbound_nodes[:1]:
        sources += [parent.operation.name for parent in inbound.parent_nodes]
    count = operation.count_params() if hasattr(operation, "count_params") else 0
    return _Node(operation.name, type(operation).__name__, str(operation.output.shape), count, tuple(sources))


def _draw(nodes: Sequence[_Node], rows: Mapping[str, int], title: str) -> str:
    across: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for node in nodes:
        row = rows[node.name]
        column = across.get(row, 0)
        across[row] = column + 1
        place[node.name] = (_GAP_X + column * (_BOX_WIDTH + _GAP_X), _GAP_Y * 2 + row * (_BOX_HEIGHT + _GAP_Y))
    width = max(across.values()) * (_BOX_WIDTH + _GAP_X) + _GAP_X
    height = max(y for _, y in place.values()) + _BOX_HEIGHT + _GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}" font-family="sans-serif" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{width / 2}" y="{_GAP_Y}" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for node in nodes:
        x, y = place[node.name]
        for source in node.sources:
            from_x, from_y = place[source]
            parts.append(
                f'<line x1="{from_x + _BOX_WIDTH / 2}" y1="{from_y + _BOX_HEIGHT}" x2="{x + _BOX_WIDTH / 2}" y2="{y}" '
                'stroke="#555" marker-end="url(#tip)"/>'
            )
    for node in nodes:
        x, y = place[node.name]
        count = f" · {node.num_parameters:,}" if node.num_parameters else ""
        parts.append(
            f'<g transform="translate({x} {y})"><rect width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6" '
            f'fill="#eef3fb" stroke="#3b6ea8"/><text x="{_BOX_WIDTH / 2}" y="21" font-size="13">{escape(node.name)} '
            f'({escape(node.kind)})</text><text x="{_BOX_WIDTH / 2}" y="40" font-size="12" fill="#444">'
            f"{escape(node.shape)}{count}</text></g>"
        )
    return "\n".join([*parts, "</svg>\n"])
