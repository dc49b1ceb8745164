"""The page docs/speed.md, made from what `tools.bench.compile` measured."""

from pathlib import Path
from typing import Any

Record = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
INTRODUCTION = """# Speed

How long it takes from an eager model to a smaller one that works: trace, group, score (l2), choose
the better half of every group, compress. Beside slimgraph stands Torch-Pruning at ratio 0.5, used
as its README says, on every torchvision model for classes, segments and videos that it can do. The
limit is what can hardly be left out: one `torch.fx.symbolic_trace`, one pass on meta
tensors and a copy of the kept weights. This page and `tools/bench/results/compile.json` are made by

```shell
python -m tools.bench.compile
```

Times are seconds of processor time on one thread; extra memory is the peak during the run, the
bound the weights of the smaller model and 100 MB.
"""


def page(document: Record) -> str:
    """Render what was measured as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    networks = document["networks"]
    peers = sum("torch-pruning" in record["medians"] for record in networks.values())
    lines = [
        INTRODUCTION,
        (
            f"Measured {document['date'][:10]} on {document['machine']['processor']}, "
            f"{document['machine']['cores']} cores; {versions}.\n"
        ),
        (
            f"Geometric mean over {peers} models: "
            f"{document['times_faster_geometric_mean']:.2f} times faster than Torch-Pruning.\n"
        ),
        "| model | slimgraph | Torch-Pruning | times faster | limit | times limit | extra MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(name, record) for name, record in networks.items()),
        "",
        "One dense block of growing depth:\n",
        *(_growth(tool, record) for tool, record in document["dense_block"].items()),
        "",
        "Goals:\n",
        *(f"- {'reached' if g['reached'] else '**missed**'}: {g['goal']}" for g in _told(document)),
    ]
    return "\n".join(lines) + "\n"


def _told(document: Record) -> list[Record]:
    """Leave out what is reached on every network: the table shows it."""
    common = ("never slower", "extra memory")
    return [
        g for g in document["goals"] if not (g["reached"] and any(c in g["goal"] for c in common))
    ]


def _row(name: str, record: Record) -> str:
    medians, ratios = record["medians"], record["ratios"]
    peer, limit = medians.get("torch-pruning"), medians.get("limit")
    cells = [
        name,
        f"{medians['slimgraph']['cpu']:.3f}",
        f"{peer['cpu']:.3f}" if peer else "-",
        f"{ratios['torch-pruning']['median']:.1f}" if peer else "-",
        f"{limit['cpu']:.3f}" if limit else "cannot be traced so",
        f"{1 / ratios['limit']['median']:.2f}" if limit else "-",
        f"{record['memory']['extra_peak_mb']:.0f} of {record['memory_bound_mb']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _growth(tool: str, record: Record) -> str:
    times = ", ".join(f"{d} layers {t:.3f} s" for d, t in record["cpu_seconds"].items())
    return f"- {tool}: {times}; it grows as L^{record['exponent']:.2f}"
