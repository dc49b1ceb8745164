"""How well latency is predicted, and what a budget of time gains over one of work.

    python -m tools.bench.latency                       # all networks
    python -m tools.bench.latency resnet50 --settings 4

Per network of torchvision with random weights: masks of random widths are predicted, then exported
and profiled. At half of the multiply-accumulates, what `slim` leaves is timed in turns with the
dense network and with as much work left by a budget of time, whose share of the time is what the
former takes. With a budget of half of the time, the share that is measured by another process is
reported. Rows are written as they come. Exits with 1 if a goal is missed.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import slimgraph as sg
from slimgraph.cost import CostModel
from slimgraph.graph import DependencyGraph
from slimgraph.latency import (
    LatencyModel,
    Table,
    TimeBudget,
    choose_in_time,
    in_turns,
    latency_model,
    profile,
)
from slimgraph.latency.build import feeds
from tools.experiments.journal import Journal, Record

RESULTS = Path(__file__).parent / "results" / "latency"
NETWORKS = (
    "resnet50", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf", "densenet121", "resnet18",
)  # fmt: skip
OFF = 0.10  # the median of predictions may be off by so much
HALF, NEAR = 0.5, 0.03
STEPS = (1, 4, 8, 16)  # masks keep multiples of it


class Bench:
    """One network: its groups, and its files.

    Args:
        name: Of torchvision.
        threads: Of onnxruntime.
        folder: For files.
    """

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        from torchvision import models

        torch.manual_seed(0)
        model = getattr(models, name)(weights=None).eval()
        self.graph: DependencyGraph = sg.analyze(sg.trace(model, torch.randn(1, 3, 224, 224)))
        self.threads, self.folder = threads, folder
        self.scores = sg.score(self.graph, "l2")

    def exported(self, keep: Tensor, name: str) -> tuple[Path, Any]:
        """Export what a choice leaves; return the file and its inputs."""
        small = sg.compress(self.graph, sg.Mask.of_channels(self.graph, keep))
        path = self.folder / f"{name}.onnx"
        sg.export_onnx(small, path, verify=False, dynamic_batch=False)
        return path, feeds(small)

    def predictions(self, model: LatencyModel, count: int) -> Iterator[Record]:
        """Predict masks of all widths and alignments; yield what each really takes."""
        for number in range(count):
            share, step = 0.3 + 0.6 * number / count, STEPS[number % len(STEPS)]
            scores = sg.score(self.graph, "random", seed=number)
            budget = sg.Budget.of(channels=share)
            keep = sg.select(self.graph, scores, budget, round_to=step, order="score")
            predicted = model.predict(keep, exact=True)
            found = profile(*self.exported(keep, "setting"), self.threads)
            yield {"what": "prediction", "number": number, "step": step, "predicted": predicted,
                   "measured": found.ms, "dense": model.dense}  # fmt: skip

    def half(self) -> Iterator[Record]:
        """Halve the work and the time; yield shares of the dense network's time."""
        everything = torch.ones_like(self.graph.frozen)
        plain = sg.select(self.graph, self.scores, sg.Budget.of(macs=HALF))
        sixteens = sg.select(self.graph, self.scores, sg.Budget.of(macs=HALF), round_to=16)
        timed = choose_in_time(self.graph, self.scores, TimeBudget.of(HALF, self.threads)).keep
        both = choose_in_time(
            self.graph, self.scores, TimeBudget.of(1.0, self.threads), caps=sg.Budget.of(macs=HALF)
        ).keep
        ways = {"dense": everything, "work": plain, "work, sixteens": sixteens,
                "work, by time": both, "time": timed}  # fmt: skip
        files = [self.exported(keep, name.replace(", ", "-")) for name, keep in ways.items()]
        times = in_turns(files, self.threads, rounds=21)
        costs = CostModel(self.graph)
        whole = costs.totals(everything).macs
        for (name, keep), own in zip(ways.items(), times, strict=True):
            yield {"what": "half", "way": name, "ms": own.ms, "share": own.share_of(times[0]),
                   "quartiles": own.shares_of(times[0]),
                   "macs": costs.totals(keep).macs / whole}  # fmt: skip


def measure(name: str, threads: int, settings: int, journal: Journal) -> None:
    """Do what was not done yet of one network."""
    facts = {"network": name, "threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, threads, Path(folder))
        if not journal.has(**facts, what="prediction"):
            table = Table(threads)
            model = latency_model(bench.graph, threads=threads, table=table)
            journal.add_all([facts | row for row in bench.predictions(model, settings)])
            table.save()
        if not journal.has(**facts, what="half"):
            journal.add_all([facts | row for row in bench.half()])


def goals(rows: list[Record]) -> list[tuple[str, bool]]:
    """Say of each goal whether it is reached."""
    found = []
    off = [abs(r["predicted"] / r["measured"] - 1) for r in rows if r["what"] == "prediction"]
    if off:
        middle = statistics.median(off)
        found.append((f"{len(off)} predictions are off by {middle:.1%} (median)", middle <= OFF))
    halves = [row for row in rows if row["what"] == "half"]
    for row in (row for row in halves if row["way"] == "time"):
        text = f"{row['network']}, {row['threads']} threads: half of the time is {row['share']:.3f}"
        found.append((text, abs(row["share"] - HALF) <= NEAR))
    by_time = [row for row in halves if row["way"] == "work, by time"]
    for row in by_time:
        (plain,) = (other for other in halves if other["way"] == "work" and all(
            other[key] == row[key] for key in ("network", "threads")))  # fmt: skip
        text = f"{row['network']}, {row['threads']} threads: half of the work by time takes"
        text += f" {row['share']:.3f}, by work {plain['share']:.3f}"
        found.append((text, row["share"] <= plain["share"]))
    if by_time:
        faster = statistics.median(1 / row["share"] for row in by_time)
        found.append((f"half of the work by time: {faster:.2f} times faster (median)",
                      faster >= 1.7))  # fmt: skip
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows, and say which goals are reached.

    Args:
        words: Of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.latency", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="of torchvision")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--settings", type=int, default=10, help="random masks per network")
    parser.add_argument("--resume", action="store_true", help="keep the rows there are")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    asked = parser.parse_args(words)
    journal = Journal(
        asked.output / "latency.json", {"settings": asked.settings}, resume=asked.resume
    )
    for threads in asked.threads:
        for name in asked.networks:
            measure(name, threads, asked.settings, journal)
            print(f"{name}, {threads} threads: done", flush=True)
    reached = goals(journal.rows)
    for text, good in reached:
        print(f"{'reached' if good else 'MISSED'}: {text}")
    return 0 if all(good for _, good in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
