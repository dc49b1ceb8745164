"""How long tracing, grouping and compressing take, and how much memory.

    python -m tools.bench.compile                   # all networks, as in docs
    python -m tools.bench.compile resnet50 --runs 5

Each measurement runs in a process of its own, on one thread; tools take turns. Every group keeps
the better half of its channels (l2), which both tools score and choose themselves, within the
time. Beside slimgraph stand Torch-Pruning at ratio 0.5, and the limit: one
`torch.fx.symbolic_trace`, one pass on meta tensors and a copy of the kept weights. Times are
processor time, which neighbours on the machine disturb least. Exits with 1 if a goal is missed.
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

NETWORKS = (
    "resnet50", "densenet121", "vgg16_bn", "mobilenet_v2", "efficientnet_b0", "densenet201"
)  # fmt: skip
DEPTHS = (12, 24, 48, 96)
PEER_DEPTHS = DEPTHS[:3]  # the next would take the peer more than a minute
# How many times faster than Torch-Pruning, and how many times the limit, at most.
FASTER = {"resnet50": 3.0, "densenet201": 40.0}
OF_LIMIT = 3.0
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
    for tool in [tool for tool in medians if tool != "slimgraph"]:
        pairs = zip(clean[tool], clean["slimgraph"], strict=False)
        found = sorted(other["cpu"] / own["cpu"] for other, own in pairs)
        ratios[tool] = {"median": statistics.median(found), "min": found[0], "max": found[-1]}
    bound = clean["slimgraph"][0]["slim_mb"] + 100
    return {"medians": medians, "ratios": ratios, "memory_bound_mb": bound}


def exponent(times: dict[int, float]) -> float:
    """Fit t = a L^p to times by depth, by least squares of the logarithms, and return p."""
    depths = [math.log(depth) for depth in times]
    return statistics.linear_regression(depths, [math.log(t) for t in times.values()]).slope


def dense_block(runs: int) -> dict[str, Record]:
    """Measure one dense block of growing depth: median times by depth, and their exponent."""
    found: dict[str, Record] = {}
    for tool, depths in (("slimgraph", DEPTHS), ("torch-pruning", PEER_DEPTHS)):
        times: dict[int, float] = {}
        for depth in depths:
            records = take_turns((tool,), f"dense-{depth}", runs)[tool]
            times[depth] = statistics.median(record["cpu"] for record in records)
        found[tool] = {"cpu_seconds": times, "exponent": exponent(times)}
    return found


def goals(networks: dict[str, Record], dense: dict[str, Record]) -> list[tuple[str, bool]]:
    """Say of each goal whether it is reached."""
    found = []
    for name, record in networks.items():
        faster = record["ratios"].get("torch-pruning", {}).get("median", 0.0)
        if name in FASTER:
            wanted = FASTER[name]
            found.append((f"{name}: {wanted:.0f} times faster than its peer", faster >= wanted))
        share = 1 / record["ratios"]["limit"]["median"]
        found.append((f"{name}: within {OF_LIMIT:.0f} times the limit", share <= OF_LIMIT))
        extra = record["medians"]["slimgraph"]["extra_peak_mb"]
        kept = extra <= record["memory_bound_mb"]
        found.append((f"{name}: extra memory at most the slim weights and 100 MB", kept))
    power = dense["slimgraph"]["exponent"]
    found.append((f"dense block: time grows as L^{power:.2f}, at most L^1.1", power <= 1.1))
    return found


def show(console: Console, networks: dict[str, Record]) -> None:
    """Print one row per network."""
    table = Table(title="trace, analyze, choose, compress: CPU seconds on one thread, medians")
    for heading in (
        "network", "slimgraph", "Torch-Pruning", "times faster", "limit", "times limit",
        "extra MB", "bound MB",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, record in networks.items():
        medians, ratios = record["medians"], record["ratios"]
        peer = medians.get("torch-pruning")
        table.add_row(
            name,
            f"{medians['slimgraph']['cpu']:.3f}",
            f"{peer['cpu']:.3f}" if peer else "fails",
            _spread(ratios["torch-pruning"]) if peer else "-",
            f"{medians['limit']['cpu']:.3f}",
            f"{1 / ratios['limit']['median']:.2f}",
            f"{medians['slimgraph']['extra_peak_mb']:.0f}",
            f"{record['memory_bound_mb']:.0f}",
        )
    console.print(table)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.1f} ({ratio['min']:.1f}-{ratio['max']:.1f})"


def show_depths(console: Console, dense: dict[str, Record]) -> None:
    """Print how time grows with the depth of a dense block."""
    for tool, record in dense.items():
        times = ", ".join(f"{d} layers {t:.3f} s" for d, t in record["cpu_seconds"].items())
        console.print(f"dense block, {tool}: {times}; as L^{record['exponent']:.2f}")


def processor() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def main() -> int:
    """Measure, print, write the JSON, and say which goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--runs", type=int, default=3, help="of each tool on each network")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    networks: dict[str, Record] = {}
    for name in asked.networks:
        records = take_turns(("slimgraph", "torch-pruning", "limit"), name, asked.runs)
        networks[name] = {**summary(records), "runs": records}
    dense = dense_block(asked.runs)
    reached = goals(networks, dense)
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # what the table needs, wherever it goes
    show(console, networks)
    show_depths(console, dense)
    for goal, is_reached in reached:
        console.print("reached" if is_reached else "[bold red]MISSED[/]", goal)
    packages = ("torch", "torchvision", "torch-pruning", "numpy", "scipy")
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "networks": networks,
        "dense_block": dense,
        "goals": [{"goal": goal, "reached": is_reached} for goal, is_reached in reached],
    }
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {asked.output.name}")
    return 0 if all(is_reached for _, is_reached in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
