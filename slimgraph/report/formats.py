"""Which renderer serves which format."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from slimgraph.errors import SlimgraphError
from slimgraph.report.dot import render_dot
from slimgraph.report.html import render_html
from slimgraph.report.json import render_json
from slimgraph.report.text import render_text

SCHEMA = "slimgraph.report/1"

FORMATS: Mapping[str, Callable[[dict[str, Any]], str]] = MappingProxyType(
    {"text": render_text, "html": render_html, "dot": render_dot, "json": render_json}
)


def render(report: dict[str, Any], format: str) -> str:  # noqa: A002, the name users type
    """Render a report.

    Args:
        report: What `graph.to_dict()` returned, or the same read back from JSON.
        format: One of `FORMATS`: "text", "html", "dot" or "json".

    Returns:
        The whole document.

    Raises:
        SlimgraphError: If the format is unknown, or `report` is no report of this version.
    """
    if format not in FORMATS:
        names = ", ".join(f"`{name}`" for name in FORMATS)
        raise SlimgraphError(
            f"no report format is called `{format}`", hint=f"use one of the formats {names}"
        )
    if report.get("schema") != SCHEMA:
        raise SlimgraphError(
            f"cannot render a report of schema `{report.get('schema')}`",
            hint=f"make a new report with this version, which writes `{SCHEMA}`",
        )
    return FORMATS[format](report)
