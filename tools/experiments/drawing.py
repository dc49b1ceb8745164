"""Drawing with matplotlib, which is only imported when something is drawn."""

from pathlib import Path
from typing import Any


def canvas(lines: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """Make an empty figure.

    Args:
        lines: Of panels.
        columns: Of panels.
        size: Width and height in inches.
        options: As for `pyplot.subplots`.

    Returns:
        The figure, and an array of its panels. Shape: (lines, columns).
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, **options)
    return figure, panels


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write a figure as SVG and PNG; the same figure gives the same files.

    Args:
        figure: Drawn.
        folder: Where to.
        name: Without an ending.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = name
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.svg", folder / f"{name}.png"]
    figure.savefig(files[0], metadata={"Date": None})
    figure.savefig(files[1], dpi=150, metadata={"Software": None})
    plt.close(figure)
    return files
