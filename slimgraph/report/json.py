"""The report as JSON: keys in a fixed order, one channel list per line, standard numbers only."""

import json
import math
from typing import Any

# The order people read in. What is not named here (settings) follows in alphabetical order.
_ORDER = (
    "schema slimgraph torch id name type model module totals group groups nodes layers settings "
    "histograms curve errors export path bytes size rung leaves kept prunable frozen "
    "frozen_channels blocks reasons node op target kind source message reason modules members "
    "param dim role inputs outputs shape "
    "dtype before after channels in out params macs couplings scores keep opset parity output "
    "max_abs max_rel tolerance ok latency_ms median min max runs threads"
)
_RANK = {key: rank for rank, key in enumerate(_ORDER.split())}


def render_json(report: dict[str, Any]) -> str:
    """Render the report as JSON, the same bytes for the same content.

    Args:
        report: The report dict.

    Returns:
        The text, valid under `docs/report.schema.json`; a score that is not finite is null.
    """
    return _write(standard(report), 0) + "\n"


def standard(value: Any) -> Any:
    """Copy with keys in order, tuples as lists, and null for what JSON has no number for."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (_RANK.get(key, len(_RANK)), key))
        return {key: standard(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(value: Any, depth: int) -> str:
    """Indent what holds objects or lists; keep what holds plain values on one line."""
    inner, outer = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not any(isinstance(i, dict | list) for i in items):
        return json.dumps(value, allow_nan=False)
    if isinstance(value, list):
        return f"[{','.join(inner + _write(item, depth + 1) for item in value)}{outer}]"
    pairs = (f"{inner}{json.dumps(key)}: {_write(value[key], depth + 1)}" for key in value)
    return f"{{{','.join(pairs)}{outer}}}"
