"""How much longer a training step takes with a regulariser, on ResNet-18.

    python -m tools.bench.regularizers

One process trains torchvision's ResNet-18 on random images by SGD with momentum, on one thread:
steps without a penalty and with each take turns, in both forms a regulariser has, as a term of the
loss and as `step(optimizer)`. Each is compared with the plain step of its round, in processor time.
Exits with 1 if the median of one is above the goal.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import resnet18

import slimgraph as sg
from slimgraph.graph import DependencyGraph
from tools.bench.compile import processor

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "regularizers.json"
PAGE = ROOT / "docs" / "regularizer-cost.md"
MOST = 1.10  # times a plain step
BATCH, SIDE = 16, 224
Record = dict[str, Any]
Step = Callable[[Tensor, Tensor], None]


def steps(graph: DependencyGraph, optimizer: torch.optim.Optimizer) -> dict[str, Step]:
    """Return one training step for each regulariser and form, and the plain one."""
    model, regularize = graph.traced, sg.regularize

    def best(scores: Tensor) -> Tensor:
        return sg.select(graph, scores, sg.Budget.of(channels=0.5))

    made = {
        "OICSR": regularize.OICSR(graph),
        "GroupLasso": regularize.GroupLasso(graph),
        "L1": regularize.L1(graph),
        "NetworkSlimming": regularize.NetworkSlimming(graph),
        "GroupPull": regularize.GroupPull(graph),
        "GReg-1": regularize.GrowingRegularizer(graph, ~best(sg.score(graph, "l1"))),
        "GReg-2": regularize.SeparatingRegularizer(graph, best),
    }
    found = {"none": _plain(model, optimizer)}
    for name, regularizer in made.items():
        found[f"{name}, in the loss"] = _plain(model, optimizer, regularizer)
        found[f"{name}, step"] = _plain(model, optimizer, stepped=regularizer)
    proximal = regularize.OICSR(graph, proximal=True)
    found["OICSR, proximal step"] = _plain(model, optimizer, stepped=proximal)
    flow = regularize.FeatureFlow(graph)
    found["FeatureFlow, in the loss"] = _plain(flow.model, optimizer, flow)
    return found


def _plain(
    model: Any, optimizer: Any, penalty: Callable[[], Tensor] | None = None, stepped: Any = None
) -> Step:
    """Make a training step, with a term in the loss or a regulariser that steps."""

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        (loss if penalty is None else loss + penalty()).backward()
        if stepped is None:
            optimizer.step()
        else:
            stepped.step(optimizer)

    return step


def measure(rounds: int, batch: int = BATCH, side: int = SIDE) -> dict[str, Record]:
    """Let all steps take turns; the first round does not count.

    Args:
        rounds: That count.
        batch: Images per step.
        side: Of an image, in pixels.

    Returns:
        Per step its times in CPU seconds, and the ratios to the plain step of the same round.
    """
    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    traced = sg.trace(model, torch.randn(1, 3, side, side)).train()
    optimizer = torch.optim.SGD(traced.parameters(), lr=1e-3, momentum=0.9)
    own = steps(sg.analyze(traced), optimizer)
    images, labels = torch.randn(batch, 3, side, side), torch.randint(0, 10, (batch,))
    times: dict[str, list[float]] = {name: [] for name in own}
    for _ in range(rounds + 1):
        for name, step in own.items():
            begun = time.process_time()
            step(images, labels)
            times[name].append(time.process_time() - begun)
    found: dict[str, Record] = {}
    for name, every in times.items():
        ratios = sorted(a / b for a, b in zip(every[1:], times["none"][1:], strict=True))
        found[name] = {
            "seconds": statistics.median(every[1:]),
            "ratio": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
        }
    return found


def page(document: Record) -> str:
    """Render what was measured as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    rows = document["steps"]
    lines = [
        "# What a regulariser costs\n",
        "How much longer a training step of torchvision's ResNet-18 takes with one: processor time",
        f"on one thread, {document['batch']} images of {document['side']} pixels, SGD with",
        f"momentum, {document['rounds']} rounds in which all steps take turns. The goal is at most",
        f"{MOST:.2f} times the plain step. This page is made by\n",
        "```shell\npython -m tools.bench.regularizers\n```\n",
        f"Measured {document['date'][:10]} on {document['machine']['processor']}; {versions}.\n",
        "| step with | CPU seconds | times the plain step | goal |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, row in rows.items():
        ratio = row["ratio"]
        spread = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
        verdict = "reached" if ratio["median"] <= MOST else "**missed**"
        lines.append(f"| {name} | {row['seconds']:.3f} | {spread} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, write JSON and page, and say which goals are reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "torchvision")},
        "batch": asked.batch,
        "side": asked.side,
        "rounds": asked.rounds,
        "steps": measure(asked.rounds, asked.batch, asked.side),
    }
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if asked.output == RESULTS:
        PAGE.write_text(page(document), encoding="utf-8")
    print(page(document))
    slow = [name for name, row in document["steps"].items() if row["ratio"]["median"] > MOST]
    print(f"above {MOST:.2f} times the plain step: {', '.join(slow) or 'none'}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
