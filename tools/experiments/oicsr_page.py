"""The page docs/results/oicsr.md, made from the rows."""

import statistics
from collections.abc import Iterable, Iterator

from tools.experiments.journal import ROOT, Record, circumstances_said

PAGE = ROOT / "docs" / "results" / "oicsr.md"
FIGURE = "oicsr-energy"
NAMES = {
    "none": "no penalty", "oicsr": "OICSR", "lasso": "separated group lasso", "l1": "L1",
}  # fmt: skip
INTRODUCTION = """# Out-in-channel sparsity

The comparison of Li et al., OICSR, CVPR 2019, on a small network: group lasso over all weights that
make or read a channel, against group lasso over each layer on its own and L1 on weights. After
training, channels leave in order of their energy, over all layers, until a share of the work is
left. This page is made by

```shell
python -m tools.experiments.oicsr
```

Work is multiply-accumulates of convolutions and linear layers per image. The paper's strengths are
not public: each penalty has two, and the tables show both. Energy is the sum of squares of the
weights that make or read a channel (out-in), or of those that make it (each layer).
"""

COLUMNS = """Test error in percent, right after pruning and fine-tuned; the share of all energy that
the strongest half of the channels holds.
"""


def page(documents: dict[str, Record]) -> str:
    """Render what was measured as Markdown.

    Args:
        documents: Of the journal, by the name of the network.
    """
    lines = [INTRODUCTION]
    for name, document in documents.items():
        rows, settings, runs = document["rows"], document["settings"], document["runs"]
        seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
        lines += [
            f"## {name}\n",
            _said(settings, seeds),
            *(f"{circumstances_said(runs[i])}\n" for i in sorted({row["run"] for row in rows})),
            COLUMNS,
            *_table(rows),
            "",
        ]
    picture = (PAGE.parent / f"{FIGURE}.svg").exists() and documents
    shown = [f"![Energy of the strongest channels]({FIGURE}.svg)", ""] if picture else []
    return "\n".join([*lines, *shown])


def _said(settings: Record, seeds: str) -> str:
    return (
        f"{settings['data']}, width {settings['width']}, {settings['epochs']} epochs of training, "
        f"{settings['tune_epochs']} of fine-tuning; seeds {seeds}. At most "
        f"{settings['max_removed']:.0%} of a group leaves.\n"
    )


def ways(rows: list[Record]) -> dict[tuple[str, float, str], list[Record]]:
    """Sort rows by penalty, strength and criterion."""
    found: dict[tuple[str, float, str], list[Record]] = {}
    for row in rows:
        found.setdefault((row["penalty"], row["strength"], row["criterion"]), []).append(row)
    return found


def _table(rows: list[Record]) -> Iterator[str]:
    shares = sorted({row["share"] for row in rows if row["share"] < 1}, reverse=True)
    stages = [(share, stage) for share in shares for stage in ("pruned", "fine-tuned")]
    head = [f"{share:.0%}, {stage}" for share, stage in stages]
    yield _line(["trained with", "chosen by energy", "dense", "half holds", *head])
    yield _line(["---", "---", *["---:"] * (2 + len(head))])
    for (kind, strength, criterion), own in ways(rows).items():
        name = NAMES[kind] + (f" {strength:g}" if strength else "")
        full = [row for row in own if row["stage"] == "trained"]
        half = statistics.mean(row["concentration"][9] for row in full)
        cells = (_errors(r for r in own if (r["share"], r["stage"]) == s) for s in stages)
        energy = "out-in" if criterion == "oicsr" else "each layer"
        yield _line([name, energy, _errors(full), f"{half:.0%}", *cells])


def _errors(rows: Iterable[Record]) -> str:
    errors = [100 * row["error"] for row in rows]
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{statistics.mean(errors):.2f}{spread}" if errors else "-"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
