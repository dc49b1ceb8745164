"""The figure of the one-shot experiment: accuracy against work, a panel per network."""

from pathlib import Path
from typing import Any

from tools.experiments.drawing import canvas, save
from tools.experiments.journal import Record
from tools.experiments.verdicts import (
    DEFAULT,
    DENSE,
    OURS,
    THEIRS,
    Cell,
    Way,
    best,
    cells,
)

Line = list[tuple[float, float]]
NAME = "one-shot-frontier"
COLORS = {OURS: "#0b62a4", THEIRS: "#c8511b"}
COLUMNS = 3


def frontiers(found: dict[Way, Cell], tool: str) -> dict[str, Line]:
    """Return accuracy against work of each criterion of a tool, with its best repair.

    Args:
        found: What ways came to.
        tool: Whose.

    Returns:
        By criterion: (share of the work that is left, test accuracy), the least work first.
    """
    result: dict[str, Line] = {}
    for criterion in dict.fromkeys(way.criterion for way in found if way.tool == tool):
        own = {way: cell for way, cell in found.items() if way.criterion == criterion}
        result[criterion] = _frontier(own, tool)
    return {criterion: line for criterion, line in result.items() if line}


def _frontier(found: dict[Way, Cell], tool: str) -> Line:
    """Return the best that a tool has at each share, at the work that it really takes."""
    shares = sorted({way.share for way in found if way.tool == tool})
    ways = [best(found, tool, share) for share in shares]
    return sorted((found[way].macs, found[way].accuracy) for way in ways if way is not None)


def curves(rows: list[Record]) -> dict[str, Line]:
    """Return the lines that matter: the best of each tool, the default, the peer unrepaired."""
    found = cells(rows)
    default = {way: cell for way, cell in found.items() if way[1:3] == DEFAULT}
    bare = {way: cell for way, cell in found.items() if way.repair == "none"}
    lines = {
        "slimgraph, best": _frontier(found, OURS),
        "slimgraph, default": _frontier(default, OURS),
        "Torch-Pruning, best": _frontier(found, THEIRS),
        "Torch-Pruning, not repaired": _frontier(bare, THEIRS),
    }
    return {name: line for name, line in lines.items() if line}


STYLES: dict[str, dict[str, Any]] = {
    "slimgraph, best": {"color": COLORS[OURS], "marker": "o"},
    "slimgraph, default": {"color": COLORS[OURS], "linestyle": "--", "marker": "s"},
    "Torch-Pruning, best": {"color": COLORS[THEIRS], "marker": "o"},
    "Torch-Pruning, not repaired": {"color": COLORS[THEIRS], "linestyle": ":", "marker": "x"},
}


def draw(documents: dict[str, Record], folder: Path) -> list[Path]:
    """Draw one panel per network, and write the figure.

    Args:
        documents: Of the journal, by the name of the network; at least one.
        folder: Where to.

    Returns:
        The files.
    """
    columns = min(COLUMNS, len(documents))
    lines = -(-len(documents) // columns)
    size = (3.4 * columns, 2.8 * lines + 0.7)
    figure, panels = canvas(lines, columns, size, sharey=True)
    for panel in panels.flat:
        panel.set_visible(False)
    for panel, (name, document) in zip(panels.flat, documents.items(), strict=False):
        panel.set_visible(True)
        _panel(panel, name, document["rows"])
    known = {label: line for p in panels.flat for line, label in zip(*_legend(p), strict=True)}
    figure.legend(known.values(), known.keys(), loc="lower center", ncols=2, frameon=False)
    figure.supylabel("test accuracy, percent", fontsize=9)
    figure.tight_layout(rect=(0.01, 0.7 / size[1], 1, 1))
    return save(figure, folder, NAME)


def _legend(panel: Any) -> tuple[list[Any], list[str]]:
    handles, labels = panel.get_legend_handles_labels()
    return list(handles), list(labels)


def _panel(panel: Any, name: str, rows: list[Record]) -> None:
    """Draw one network: every criterion thinly, what matters on top."""
    found = cells(rows)
    for tool, color in COLORS.items():
        for line in frontiers(found, tool).values():
            panel.plot(*_scaled(line), color=color, alpha=0.35, linewidth=0.8)
    for label, line in curves(rows).items():
        panel.plot(*_scaled(line), label=label, markersize=4, linewidth=1.6, **STYLES[label])
    dense = found.get(Way(DENSE, "dense", "none", 1.0))
    if dense is not None:
        panel.axhline(100 * dense.accuracy, color="0.45", linewidth=0.9, label="dense")
    panel.set_title(name, fontsize=10)
    panel.set_ylim(0, 102)
    least = min((cell.macs for cell in found.values()), default=0.5)
    panel.set_xlim(101, 100 * least - 4)
    panel.set_xlabel("multiply-accumulates left, percent", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(color="0.92")
    panel.spines[["top", "right"]].set_visible(False)


def _scaled(line: Line) -> tuple[list[float], list[float]]:
    return [100 * work for work, _ in line], [100 * accuracy for _, accuracy in line]
