"""The page docs/results/slimming.md, made from the rows."""

import statistics
from collections.abc import Iterator
from typing import Any

from tools.experiments.journal import ROOT, circumstances_said

Record = dict[str, Any]
PAGE = ROOT / "docs" / "results" / "slimming.md"
STAGES = {"sparse": "sparsity-trained", "compress": "pruned", "tune": "fine-tuned"}
INTRODUCTION = """# Network Slimming

The tables of Liu et al., Network Slimming, ICCV 2017, on smaller networks: sparsity training with
an L1 penalty on the scales of norms, a threshold over all channels by the rule of its code, then
fine-tuning. This page is made by

```shell
python -m tools.experiments.slimming
```

Work is multiply-accumulates of convolutions and linear layers per image, one for each product.
"""


def page(documents: dict[str, Record]) -> str:
    """Render what was measured as Markdown.

    Args:
        documents: Of the journal, by the name of the network.
    """
    lines = [INTRODUCTION]
    for name, document in documents.items():
        lines += [f"## {name}\n", *_network(document), ""]
    return "\n".join(lines)


def _network(document: Record) -> list[str]:
    rows, settings = document["rows"], document["settings"]
    full = [row for row in rows if row["stage"] == "baseline"]
    used = sorted({row["run"] for row in rows})
    lines = [
        _said(settings),
        *(f"{circumstances_said(document['runs'][index])}\n" for index in used),
        _line(["model", "error in percent", "parameters", "left", "work", "left"]),
        _line(["---", *["---:"] * 5]),
    ]
    lines += [_row("baseline", full, full)] if full else []
    for share, passes in dict.fromkeys((r["share"], r["passes"]) for r in rows if r["passes"]):
        own = [row for row in rows if (row["share"], row["passes"]) == (share, passes)]
        lines += _run(own, full, share, passes)
    failed = [row for row in rows if "failed" in row]
    said = (f"- {r['share']:.0%}, seed {r['seed']}: {r['failed']}" for r in failed)
    return [*lines, "", *said]


def _said(settings: Record) -> str:
    return (
        f"{settings['data']}, width {settings['width']}, {settings['epochs']} epochs of training, "
        f"{settings['tune_epochs']} of fine-tuning, penalty {settings['strength']:g}.\n"
    )


def _run(own: list[Record], full: list[Record], share: float, passes: int) -> Iterator[str]:
    """Yield the lines of a run: all stages of one pass, or the end of each of several."""
    for number in sorted({row["pass"] for row in own if "failed" not in row}):
        for stage in STAGES if passes == 1 else ("tune",):
            found = [row for row in own if (row["pass"], row["stage"]) == (number, stage)]
            name = f"pass {number} of {passes}, {share:.0%} each" if passes > 1 else f"{share:.0%}"
            if found:
                yield _row(f"{name}, {STAGES[stage]}", found, full)


def _row(name: str, rows: list[Record], full: list[Record]) -> str:
    errors = [100 * row["error"] for row in rows]
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    cells = [name, f"{statistics.mean(errors):.2f}{spread}"]
    for key in ("params", "macs"):
        cells.append(f"{_mean(rows, key):,.0f}")
        cells.append(f"{_mean(rows, key) / _mean(full, key):.1%}" if full else "-")
    return _line(cells)


def _mean(rows: list[Record], key: str) -> float:
    return float(statistics.mean(row[key] for row in rows))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
