"""How long tracing, grouping and compressing take, and how much memory.

    python -m tools.bench.compile                   # all networks, as in docs
    python -m tools.bench.compile resnet50 --runs 5

Each measurement runs in a process of its own, on one thread; tools take turns. Every group keeps
the better half of its channels (l2). Beside slimgraph stand Torch-Pruning at ratio 0.5, and the
limit: one `torch.fx.symbolic_trace`, one pass on meta tensors and a copy of the kept weights.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

NETWORKS = ("resnet50", "densenet121", "vgg16_bn", "mobilenet_v2", "densenet201")
DEPTHS = (12, 24, 48, 96)
RESULTS = Path(__file__).parent / "results" / "compile.json"
Record = dict[str, Any]


def measure(tool: str, network: str) -> Record:
    """Run one measurement in a fresh process."""
    command = [sys.executable, "-m", "tools.bench.measure", tool, network]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"failed": last}
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def take_turns(tools: Sequence[str], network: str, runs: int) -> dict[str, list[Record]]:
    """Measure the tools one after the other, and again."""
    found: dict[str, list[Record]] = {tool: [] for tool in tools}
    for _ in track(range(runs), description=network, transient=True):
        for tool in tools:
            found[tool].append(measure(tool, network))
    return found


def summary(records: dict[str, list[Record]]) -> Record:
    """Return medians, and the ratios to slimgraph run by run with their spread."""
    clean = {t: [r for r in rs if "failed" not in r] for t, rs in records.items()}
    medians = {
        tool: {
            key: statistics.median(r[key] for r in rs) for key in ("wall", "cpu", "extra_peak_mb")
        }
        for tool, rs in clean.items()
        if rs
    }
    ratios: Record = {}
    for tool in set(medians) - {"slimgraph"}:
        pairs = zip(clean[tool], clean["slimgraph"], strict=False)
        found = sorted(other["cpu"] / own["cpu"] for other, own in pairs)
        ratios[tool] = {"median": statistics.median(found), "min": found[0], "max": found[-1]}
    ours = clean["slimgraph"]
    bound = ours[0]["slim_mb"] + 100
    return {"medians": medians, "ratios": ratios, "memory_bound_mb": bound}


def exponent(medians: Sequence[tuple[int, float]]) -> float:
    """Fit t = a + b L^p through the growth between successive depths; p is their mean slope."""
    steps = [(depth, seconds) for depth, seconds in medians]
    first, last = steps[-2], steps[-1]
    return math.log(last[1] / first[1]) / math.log(last[0] / first[0])


def show(console: Console, networks: dict[str, Record]) -> None:
    """Print one row per network."""
    table = Table(title="trace + analyze + choose + compress, CPU seconds on one thread")
    for heading in (
        "network", "slimgraph", "Torch-Pruning", "times faster", "limit", "of limit",
        "extra MB", "bound MB",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, record in networks.items():
        medians, ratios = record["medians"], record["ratios"]
        peer, least = medians.get("torch-pruning"), medians["limit"]
        table.add_row(
            name,
            f"{medians['slimgraph']['cpu']:.2f}",
            f"{peer['cpu']:.2f}" if peer else "fails",
            f"{ratios['torch-pruning']['median']:.1f}" if peer else "-",
            f"{least['cpu']:.2f}",
            f"{1 / ratios['limit']['median']:.2f}",
            f"{medians['slimgraph']['extra_peak_mb']:.0f}",
            f"{record['memory_bound_mb']:.0f}",
        )
    console.print(table)


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--runs", type=int, default=3, help="of each tool on each network")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    networks: dict[str, Record] = {}
    for name in asked.networks:
        records = take_turns(("slimgraph", "torch-pruning", "limit"), name, asked.runs)
        networks[name] = {**summary(records), "runs": records}
    depths = [(d, take_turns(("slimgraph",), f"dense-{d}", asked.runs)) for d in DEPTHS]
    medians = [(d, summary(records)["medians"]["slimgraph"]["cpu"]) for d, records in depths]
    console = Console()
    show(console, networks)
    console.print("dense block:", ", ".join(f"{d} layers {t:.2f} s" for d, t in medians))
    console.print(f"exponent from {DEPTHS[-2]} to {DEPTHS[-1]} layers: {exponent(medians):.2f}")
    asked.output.parent.mkdir(exist_ok=True)
    packages = ("torch", "torchvision", "torch-pruning", "numpy", "scipy")
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "networks": networks,
        "dense_block": {"cpu_seconds": medians, "exponent": exponent(medians)},
    }
    asked.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {asked.output.name}")


if __name__ == "__main__":
    main()
