"""Figures of the experiments, as SVG and PNG: `python -m tools.experiments.figures`.

Needs matplotlib: `pip install 'slimgraph[bench]'`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.experiments import frontier, sparsity_figures
from tools.experiments.journal import ROOT, Record
from tools.experiments.networks import NETWORKS

RESULTS = Path(__file__).parent / "results"
FOLDER = ROOT / "docs" / "results"
Draw = Callable[[dict[str, Record], Path], list[Path]]
DRAWN: dict[str, Draw] = {
    "one-shot": frontier.draw,
    "scales": sparsity_figures.draw_scales,
    "oicsr": sparsity_figures.draw_energies,
}


def main(words: Sequence[str] | None = None) -> int:
    """Draw from the JSON files there are.

    Args:
        words: Of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiments.figures",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON folders")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the figures")
    asked = parser.parse_args(words)
    files = []
    for name, drawn in DRAWN.items():
        paths = {n: asked.results / name / f"{n}.json" for n in NETWORKS}
        documents = {n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()}
        if documents:
            files += drawn(documents, asked.output)
    for path in files:
        print(f"wrote {path.name}")
    if not files:
        print("there is nothing to draw: run `python -m tools.experiments.one_shot` first")
    return 0 if files else 1


if __name__ == "__main__":
    sys.exit(main())
