"""The channel graph as Graphviz text: `dot -Tsvg report.dot -o report.svg`."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from slimgraph.report.colors import group_color
from slimgraph.report.wording import printable, shorten

_HEAD = """digraph slimgraph {
  graph [rankdir=TB, fontname="Helvetica", fontsize=11, color="#b8bec8", style=rounded];
  node [shape=box, style="rounded,filled", fillcolor="#ffffff", color="#5b6270",
        fontname="Helvetica", fontsize=10, margin="0.12,0.05"];
  edge [color="#5b6270", arrowsize=0.6, fontname="Helvetica", fontsize=9];
"""
_WIDEST_NAME = 60
# Graphviz keeps a chain of hidden nodes for every edge that skips nodes: with more than so many,
# as densenet201 has, it would draw for hours unless it is told to be less thorough.
_MANY_SKIPS = 30_000
_HURRY = "  graph [splines=line, nslimit=0.05, nslimit1=0.05, mclimit=0.02];"


def render_dot(report: dict[str, Any]) -> str:
    """Render the graph of a report.

    Boxes are nodes, clustered by top-level module; solid edges are data flow in the colour of the
    group they carry; dashed edges join modules that are tied and name the node that ties them.
    A network with very many skipping edges does without clusters, so that it can be drawn.

    Args:
        report: The report dict.

    Returns:
        Text for Graphviz.
    """
    ids = {node["name"]: f"n{number}" for number, node in enumerate(report["nodes"])}
    lines = [f"  label={_quote(report['model']['name'])};"]
    if _skipped(report) > _MANY_SKIPS:
        lines += [_HURRY, *(f"  {_box(node, ids, report)}" for node in report["nodes"])]
    else:
        lines += _clusters(report, ids)
    lines += [*_flow(report, ids), *_couplings(report, ids)]
    return _HEAD + "\n".join(lines) + "\n}\n"


def _quote(*lines: str) -> str:
    r"""Quote lines for a label: Graphviz reads `\`, `"` and `&` in there."""
    escaped = (
        shorten(line, _WIDEST_NAME).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
        for line in lines
    )
    return '"' + "\\n".join(escaped) + '"'


def _skipped(report: dict[str, Any]) -> int:
    """How many nodes all edges together pass by."""
    at = {node["name"]: position for position, node in enumerate(report["nodes"])}
    return sum(at[node["name"]] - at[i] - 1 for node in report["nodes"] for i in node["inputs"])


def _clusters(report: dict[str, Any], ids: dict[str, str]) -> Iterator[str]:
    tops: dict[str, list[dict[str, Any]]] = {}
    for node in report["nodes"]:
        tops.setdefault(node["module"].partition(".")[0], []).append(node)
    for number, (top, nodes) in enumerate(tops.items()):
        boxes = [f"    {_box(node, ids, report)}" for node in nodes]
        if top:
            boxes = [f"  subgraph cluster_{number} {{", f"    label={_quote(top)};", *boxes, "  }"]
        yield from boxes


def _box(node: dict[str, Any], ids: dict[str, str], report: dict[str, Any]) -> str:
    lines = [node["name"]]
    widths = [_width(report["groups"][group]) for group in node["groups"]]
    if widths:
        lines.append(widths[0] if len(widths) == 1 else f"{len(widths)} groups")
    fields = [f"label={_quote(*lines)}", f"tooltip={_quote(node['source'] or node['kind'])}"]
    if len(node["groups"]) == 1:
        color = group_color(node["groups"][0])
        fields += [f'color="{color}"', f'fillcolor="{color}26"']
    return f"{ids[node['name']]} [{', '.join(fields)}];"


def _width(group: dict[str, Any]) -> str:
    return str(group["size"]) if group["kept"] is None else f"{group['kept']} / {group['size']}"


def _flow(report: dict[str, Any], ids: dict[str, str]) -> Iterator[str]:
    groups = {node["name"]: node["groups"] for node in report["nodes"]}
    for node in report["nodes"]:
        for source in dict.fromkeys(node["inputs"]):
            carried = groups[source]
            style = f' [color="{group_color(carried[0])}"]' if len(carried) == 1 else ""
            yield f"  {ids[source]} -> {ids[node['name']]}{style};"


def _couplings(report: dict[str, Any], ids: dict[str, str]) -> Iterator[str]:
    boxes = _module_boxes(report, ids)
    drawn = set()  # a node that ties several groups names the same modules in each
    for group in report["groups"]:
        for coupling in group["couplings"]:
            tied = [boxes[module] for module in coupling["modules"] if module in boxes]
            place = f"{coupling['op']} {printable(coupling['source'])}".strip()
            label = _quote(coupling["node"], place)
            style = f'color="{group_color(group["id"])}", label={label}'
            for left, right in pairwise(tied):
                line = f"  {left} -> {right} [style=dashed, dir=none, constraint=false, {style}];"
                if (coupling["node"], left, right) not in drawn:
                    yield line
                drawn.add((coupling["node"], left, right))


def _module_boxes(report: dict[str, Any], ids: dict[str, str]) -> dict[str, str]:
    """Module path -> its box; the contraction first where a module has several nodes."""
    boxes: dict[str, str] = {}
    for node in sorted(report["nodes"], key=lambda node: node["kind"] != "contraction"):
        boxes.setdefault(node["module"], ids[node["name"]])
    return boxes
