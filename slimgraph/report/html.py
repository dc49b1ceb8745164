"""The report as one HTML page that needs no network and runs no foreign text."""

import base64
import hashlib
import html
import json
from importlib import resources
from string import Template
from typing import Any

from slimgraph.report.colors import PALETTE
from slimgraph.report.json import standard
from slimgraph.report.wording import printable

# In the order they build on each other; together they are one script.
_SCRIPTS = (
    "page_dom.js",
    "page_layout.js",
    "page_view.js",
    "page_graph.js",
    "page_panel.js",
    "page_lists.js",
    "page_charts.js",
)
# These would end the script element, open a comment, or end a line in older JavaScript.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render_html(report: dict[str, Any]) -> str:
    """Render the report as a self-contained page.

    The page's own script and style are allowed by their digests, everything else is forbidden by
    its content security policy; the report travels as JSON and reaches the page as text only.

    Args:
        report: The report dict.

    Returns:
        The page.
    """
    style = _read("page.css")
    script = "\n".join(_read(name) for name in (*_SCRIPTS, "page.js"))
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}"
    return Template(_read("page.html")).substitute(
        title=html.escape(printable(report["model"]["name"])),
        policy=f"{policy}; img-src data:; base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=embed({"report": standard(_rounded(report)), "palette": PALETTE}),
    )


def embed(value: Any) -> str:
    """Write JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    """Cut scores to the digits a picture can show: they are most of a page's bytes."""
    groups = [
        group | {"scores": group["scores"] and [_digits(score) for score in group["scores"]]}
        for group in report["groups"]
    ]
    return report | {"groups": groups}


def _digits(score: float | None) -> float | None:
    return None if score is None else float(f"{score:.5g}")


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _read(name: str) -> str:
    return resources.files("slimgraph.report").joinpath(name).read_text(encoding="utf-8")
