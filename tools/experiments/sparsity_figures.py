"""Figures of what penalties do: scales of norms, error of pruned networks, energy of channels."""

from pathlib import Path
from typing import Any

import numpy as np

from tools.experiments.drawing import canvas, save
from tools.experiments.journal import Record
from tools.experiments.oicsr_page import FIGURE as ENERGY
from tools.experiments.oicsr_page import NAMES, ways
from tools.experiments.scales_page import by_strength

WHITE = {"color": "0.92"}
ORDER = ("#0b62a4", "#c8511b", "#2e7d4f", "#7a4fa3", "#8a6d1d", "#4a4a4a", "#b0307a")


def draw_scales(documents: dict[str, Record], folder: Path) -> list[Path]:
    """Draw the histogram, the map over epochs and the curves of the first network.

    Args:
        documents: Of the journal of `scales`, by the name of the network.
        folder: Where to.

    Returns:
        The files.
    """
    name, document = next(iter(documents.items()))
    first = min(row["seed"] for row in document["rows"])
    rows = by_strength(row for row in document["rows"] if row["seed"] == first)
    return [
        *_histograms(name, rows, folder),
        *_epochs(name, rows, folder),
        *_curves(name, rows, folder),
    ]


def _histograms(name: str, rows: dict[float, list[Record]], folder: Path) -> list[Path]:
    figure, panels = canvas(1, len(rows), (2.9 * len(rows), 2.7))
    for panel, (strength, own) in zip(panels.flat, rows.items(), strict=True):
        found = own[0]["scales"]
        edges = np.linspace(0, found["top"], len(found["counts"]) + 1)
        panel.stairs(found["counts"], edges, fill=True, color=ORDER[0])
        _plain(panel, f"penalty {strength:g}", "size of the scale")
        panel.set_xlim(0)
    panels[0, 0].set_ylabel("channels", fontsize=8)
    figure.suptitle(f"{name}: scales of all norms", fontsize=10)
    figure.tight_layout()
    return save(figure, folder, "scales-histogram")


def _epochs(name: str, rows: dict[float, list[Record]], folder: Path) -> list[Path]:
    """Show each scale of a layer as a column of colours, the first epoch at the top."""
    figure, panels = canvas(len(rows), 1, (7.5, 1.1 * len(rows) + 0.9))
    top = max(scale for own in rows.values() for line in own[0]["epochs"] for scale in line)
    for panel, (strength, own) in zip(panels.flat, rows.items(), strict=True):
        history = np.array(own[0]["epochs"])
        shown = history[:, np.argsort(-history[-1])]
        image = panel.imshow(shown, aspect="auto", vmin=0, vmax=top, cmap="viridis")
        panel.set_ylabel("epoch", fontsize=8)
        panel.set_title(f"penalty {strength:g}", fontsize=9)
        panel.tick_params(labelsize=7)
        panel.set_xticks([])
    panels[-1, 0].set_xlabel("channels of one layer, the largest scales first", fontsize=8)
    figure.suptitle(f"{name}: scales of the middle norm", fontsize=10)
    figure.tight_layout()
    bar = figure.colorbar(image, ax=panels.ravel().tolist(), pad=0.02)
    bar.ax.tick_params(labelsize=7)
    return save(figure, folder, "scales-epochs")


def _curves(name: str, rows: dict[float, list[Record]], folder: Path) -> list[Path]:
    """Show error against the share that left, at each strength that was pruned."""
    pruned = {strength: own for strength, own in rows.items() if len(own) > 1}
    figure, panels = canvas(1, len(pruned), (3.9 * len(pruned), 3.1), sharey=True)
    dense = 100 * next(iter(rows.values()))[0]["error"]
    for panel, (strength, own) in zip(panels.flat, pruned.items(), strict=True):
        shares = [100 * row["share"] for row in own[1:]]
        panel.axhline(dense, color="0.45", linewidth=1, label="baseline, no penalty")
        if strength:
            trained = {"color": ORDER[2], "linestyle": "--", "linewidth": 1}
            panel.axhline(100 * own[0]["error"], **trained, label="trained with the penalty")
        for key, label, color in (("error", "pruned", ORDER[1]), ("tuned", "fine-tuned", ORDER[0])):
            errors = [100 * row[key] for row in own[1:]]
            panel.plot(shares, errors, marker="o", markersize=4, color=color, label=label)
        _plain(panel, f"penalty {strength:g}", "channels that left, percent")
        panel.set_yscale("log")
        panel.set_yticks([5, 10, 20, 50, 90], ["5", "10", "20", "50", "90"])
        panel.minorticks_off()
        panel.legend(fontsize=7, frameon=False)
    panels[0, 0].set_ylabel("test error, percent", fontsize=8)
    figure.suptitle(name, fontsize=10)
    figure.tight_layout()
    return save(figure, folder, "scales-curves")


def draw_energies(documents: dict[str, Record], folder: Path) -> list[Path]:
    """Draw how much of all energy the strongest channels hold, by penalty.

    Args:
        documents: Of the journal of `oicsr`, by the name of the network.
        folder: Where to.

    Returns:
        The files.
    """
    figure, panels = canvas(1, len(documents), (4.6 * len(documents), 3.4), sharey=True)
    for panel, (name, document) in zip(panels.flat, documents.items(), strict=True):
        trained = [row for row in document["rows"] if row["stage"] == "trained"]
        found = {k: own for k, own in ways(trained).items() if k[2] == "oicsr"}
        for color, ((kind, strength, _), own) in zip(ORDER, found.items(), strict=False):
            mean = np.mean([row["concentration"] for row in own], axis=0)
            places = np.linspace(0, 100, len(mean) + 1)
            label = NAMES[kind] + (f" {strength:g}" if strength else "")
            panel.plot(places, [0, *(100 * mean)], label=label, color=color, linewidth=1.4)
        _plain(panel, name, "strongest channels, percent of all")
        panel.legend(fontsize=7, frameon=False, loc="lower right")
    panels[0, 0].set_ylabel("share of all energy, percent", fontsize=8)
    figure.tight_layout()
    return save(figure, folder, ENERGY)


def _plain(panel: Any, title: str, label: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(label, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(**WHITE)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
