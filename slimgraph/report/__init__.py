"""Everything people look at: one report dict rendered as text, HTML, DOT or JSON.

The report dict (`graph.to_dict()`, described by `docs/report.schema.json`) is the only input, so
a report saved as JSON renders exactly like a fresh one.
"""

from slimgraph.report.compare import Comparison, load
from slimgraph.report.formats import FORMATS, render
from slimgraph.report.histograms import histogram
from slimgraph.report.summary import html_summary
from slimgraph.report.text import GroupTable, Overview, Reasons, Totals, overview, printed, table

__all__ = [
    "FORMATS",
    "Comparison",
    "GroupTable",
    "Overview",
    "Reasons",
    "Totals",
    "histogram",
    "html_summary",
    "load",
    "overview",
    "printed",
    "render",
    "table",
]
