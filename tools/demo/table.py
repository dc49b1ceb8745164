"""The one table the demo is about."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from tools.demo.measure import Measured


def comparison(
    before: Measured, after: Measured, totals: dict[str, Any], parity: tuple[float, float]
) -> Table:
    """Return the table before / after / ratio.

    Args:
        before: The dense file.
        after: The compressed file.
        totals: Channels, parameters and MACs before and after, from the report.
        parity: Largest difference between torch and onnxruntime, of either file.
    """
    table = Table(title="DigitsNet on 450 scanned digits it has never seen")
    table.add_column("")
    for name in ("before", "after", "ratio"):
        table.add_column(name, justify="right")
    for row in _rows(before, after, totals):
        table.add_row(*row)
    table.add_row("torch - onnxruntime, worst", *(f"{error:.1e}" for error in parity), "")
    return table


def _rows(before: Measured, after: Measured, totals: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    old, new = totals["before"], totals["after"]
    for name, key in (("parameters", "params"), ("MACs", "macs")):
        yield name, f"{old[key]:,}", f"{new[key]:,}", f"{new[key] / old[key]:.2f}"
    size = before.size / 1e3, after.size / 1e3
    yield "file size", *(f"{kilo:,.0f} kB" for kilo in size), f"{size[1] / size[0]:.2f}"
    points = 100 * (after.accuracy - before.accuracy)
    hits = (f"{100 * each.accuracy:.1f} %" for each in (before, after))
    yield "top-1", *hits, f"{points:+.1f} points"
    speed = before.latency, after.latency
    yield "latency (median)", *(f"{ms:.2f} ms" for ms in speed), f"{speed[1] / speed[0]:.2f}"
