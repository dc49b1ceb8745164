"""A small fragment of HTML for notebooks."""

import html
from typing import Any

from slimgraph.report import wording
from slimgraph.report.colors import group_color

_MOST = 12  # groups shown before "and n more"
_CELL = (
    "padding:2px 14px 2px 0;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"
)
_NAME = "padding:2px 14px 2px 0;text-align:left;font-family:ui-monospace,monospace"


def html_summary(report: dict[str, Any]) -> str:
    """Render totals and the largest groups for `_repr_html_`.

    Args:
        report: The report dict.

    Returns:
        One `<div>` with inline styles only: no script, nothing from the network, legible on light
        and dark pages alike.
    """
    groups = sorted(report["groups"], key=lambda group: -group["macs"]["before"])
    rows = [_row(group) for group in groups[:_MOST]]
    more = len(groups) - len(rows)
    if more:
        rows.append(f"<tr><td style='{_NAME};opacity:.7'>and {more} more</td></tr>")
    heads = ("group", "", "channels", "parameters", "MACs")
    head = "".join(
        f"<th style='{_CELL if i > 1 else _NAME};opacity:.7;font-weight:400'>{text}</th>"
        for i, text in enumerate(heads)
    )
    return (
        "<div style='font:13px/1.5 system-ui,sans-serif;color:inherit'>"
        f"<b>{_text(report['model']['name'])}</b> {_facts(report)}"
        f"<table style='font:inherit;color:inherit;border-collapse:collapse;margin-top:6px'>"
        f"<tr>{head}</tr>{''.join(rows)}</table></div>"
    )


def _text(name: str) -> str:
    return html.escape(wording.shorten(name, 48))


def _facts(report: dict[str, Any]) -> str:
    facts = [f"{len(report['groups'])} groups"]
    for name, before, after in wording.totals(report):
        ratio = "" if after is None else f" ({wording.share(after, before)})"
        facts.append(f"{name} {wording.change(before, after)}{ratio}")
    return "".join(f"<span style='opacity:.8'> · {fact}</span>" for fact in facts)


def _row(group: dict[str, Any]) -> str:
    kept = group["size"] if group["kept"] is None else group["kept"]
    color, filled = group_color(group["id"]), 100 * kept / max(group["size"], 1)
    bar = (
        f"<div style='width:90px;height:8px;border-radius:4px;background:{color}33'>"
        f"<div style='width:{filled:.0f}%;height:8px;border-radius:4px;background:{color}'>"
        "</div></div>"
    )
    width = f"{group['size']}" if group["kept"] is None else f"{kept} / {group['size']}"
    costs = [wording.change(group[c]["before"], group[c]["after"]) for c in ("params", "macs")]
    numbers = "".join(f"<td style='{_CELL}'>{text}</td>" for text in (width, *costs))
    name = f"<td style='{_NAME}' title='{html.escape(wording.printable(group['name']))}'>"
    return f"<tr>{name}{_text(group['name'])}</td><td style='{_NAME}'>{bar}</td>{numbers}</tr>"
