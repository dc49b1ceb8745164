"""The page docs/results/scales.md, made from the rows."""

import statistics
from collections.abc import Iterable, Iterator

from tools.experiments.journal import ROOT, Record, circumstances_said

PAGE = ROOT / "docs" / "results" / "scales.md"
FIGURES = {
    "scales-histogram": "Scales of all norms, by strength of the penalty",
    "scales-epochs": "Scales of one layer, epoch by epoch",
    "scales-curves": "Error against the share of channels that left",
}
INTRODUCTION = """# Scales of norms under a penalty

The figures of Liu et al., Network Slimming, ICCV 2017, on a smaller network and data set: what an
L1 penalty does to the scales of norms, and how many channels can leave afterwards by a threshold
over all scales. This page and its figures are made by

```shell
python -m tools.experiments.scales
python -m tools.experiments.figures
```

The paper trains for 160 epochs; the penalty here is stronger in proportion, since training is
shorter. Scales start at a half. No group loses more than 95 % of its channels.
"""


def page(documents: dict[str, Record]) -> str:
    """Render what was measured as Markdown.

    Args:
        documents: Of the journal, by the name of the network.
    """
    lines = [INTRODUCTION]
    for name, document in documents.items():
        rows, settings, runs = document["rows"], document["settings"], document["runs"]
        lines += [
            f"## {name}\n",
            _said(settings, sorted({row["seed"] for row in rows})),
            *(f"{circumstances_said(runs[i])}\n" for i in sorted({row["run"] for row in rows})),
            "Test error in percent; small scales are below a twentieth of the largest.\n",
            *_trained(rows),
            "",
            *_pruned(rows),
            "",
        ]
    there = (name for name in FIGURES if documents and (PAGE.parent / f"{name}.svg").exists())
    return "\n".join([*lines, *(f"![{FIGURES[name]}]({name}.svg)\n" for name in there)])


def _said(settings: Record, seeds: list[int]) -> str:
    return (
        f"{settings['data']}, width {settings['width']}, {settings['epochs']} epochs of training, "
        f"{settings['tune_epochs']} of fine-tuning; seeds {', '.join(map(str, seeds))}.\n"
    )


def by_strength(rows: Iterable[Record]) -> dict[float, list[Record]]:
    """Sort rows by the strength of the penalty."""
    found: dict[float, list[Record]] = {}
    for row in rows:
        found.setdefault(row["strength"], []).append(row)
    return dict(sorted(found.items()))


def _trained(rows: list[Record]) -> Iterator[str]:
    yield _line(["penalty", "error", "small scales"])
    yield _line(["---", "---:", "---:"])
    for strength, own in by_strength(row for row in rows if row["share"] == 0).items():
        counts = [row["scales"]["counts"] for row in own]
        small = statistics.mean(sum(c[: len(c) // 20]) / sum(c) for c in counts)
        yield _line([f"{strength:g}", _errors(own, "error"), f"{small:.0%}"])


def _pruned(rows: list[Record]) -> Iterator[str]:
    yield _line(["penalty", "channels that left", "pruned", "fine-tuned", "parameters"])
    yield _line(["---", *["---:"] * 4])
    for strength, own in by_strength(row for row in rows if row["share"]).items():
        for share in sorted({row["share"] for row in own}):
            found = [row for row in own if row["share"] == share]
            params = statistics.mean(row["params"] for row in found)
            errors = [_errors(found, key) for key in ("error", "tuned")]
            yield _line([f"{strength:g}", f"{share:.0%}", *errors, f"{params:,.0f}"])


def _errors(rows: list[Record], key: str) -> str:
    errors = [100 * row[key] for row in rows]
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{statistics.mean(errors):.2f}{spread}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
