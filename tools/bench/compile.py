"""How long tracing, grouping and compressing take, and how much memory.

    python -m tools.bench.compile                   # all networks, as in docs
    python -m tools.bench.compile resnet50 --runs 5

On every torchvision model for classes, segments and videos that Torch-Pruning can do, both tools
turn an eager model into a smaller one that works: every group keeps the better half of its channels
(l2), which both score and choose themselves, within the time. Torch-Pruning runs as its README says
(`BasePruner`, `GroupMagnitudeImportance`, ratio 0.5, classifiers ignored). Beside them stands the
limit: one `torch.fx.symbolic_trace`, one pass on meta tensors and a copy of the kept weights.

Each measurement runs in a process of its own, a fork of this one, in which all tools have run on
small networks, and which makes its network itself, as a user's would; tools take turns. A tool that
takes longer than `SLOW` seconds runs once. Times are processor time on one thread, which neighbours
on the machine disturb least. Exits with 1 if a goal is missed.
"""

import argparse
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.bench.measure import TOOLS, measure, warm_up
from tools.bench.networks import PEERS, SIX
from tools.bench.page import PAGE, page

DEPTHS = (12, 24, 48, 96)
PEER_DEPTHS = DEPTHS[:3]  # the next would take the peer more than a minute
# On these the peer raises, or never ends; seconds for slimgraph, at most.
ALONE = {"swin_t": 2.0, "maxvit_t": 2.0}
# How many times faster than Torch-Pruning: in the geometric mean, at least, and on some networks.
FASTER_BY = 6.0
FASTER = {"resnet50": 3.0, "densenet201": 40.0}
OF_LIMIT = 3.0  # times the limit, at most, on the six networks of the first release
SLOW, BOUND = 4.0, 600  # seconds: after which a tool runs once, and after which it is stopped
RESULTS = Path(__file__).parent / "results" / "compile.json"
Record = dict[str, Any]


def apart(tool: str, network: str, *, trimmed: bool = False) -> Record:
    """Run one measurement in a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(BOUND)
        try:
            record = measure(tool, network, trimmed=trimmed)
        except Exception as error:
            record = {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        with os.fdopen(writing, "w") as pipe:
            json.dump(record, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found: Record = json.loads(text) if text else {"failed": "it was stopped"}
    return found


def take_turns(tools: Sequence[str], network: str, runs: int) -> dict[str, list[Record]]:
    """Measure the tools one after the other, and again unless a tool is slow."""
    found: dict[str, list[Record]] = {tool: [] for tool in tools}
    for _ in range(runs):
        for tool in tools:
            if not found[tool] or found[tool][-1].get("cpu", math.inf) < SLOW:
                found[tool].append(apart(tool, network))
    return found


def summary(records: dict[str, list[Record]]) -> Record:
    """Return medians, and the ratios to slimgraph run by run with their spread."""
    clean = {t: [r for r in rs if "failed" not in r] for t, rs in records.items()}
    medians = {
        tool: {key: statistics.median(r[key] for r in rs) for key in ("wall", "cpu")}
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


def faster(record: Record) -> float | None:
    """Return how many times faster than the peer slimgraph is; `None` if the peer fails."""
    found: float | None = record["ratios"].get("torch-pruning", {}).get("median")
    return found


def mean_faster(networks: dict[str, Record]) -> float:
    """Return the geometric mean of how many times faster slimgraph is."""
    ratios = [ratio for record in networks.values() if (ratio := faster(record)) is not None]
    return statistics.geometric_mean(ratios) if ratios else 0.0


def goals(networks: dict[str, Record], dense: dict[str, Record]) -> list[tuple[str, bool]]:
    """Say of each goal whether it is reached."""
    mean = mean_faster(networks)
    text = f"{FASTER_BY:.0f} times faster than its peer in the geometric mean: {mean:.2f}"
    found = [(text, mean >= FASTER_BY)]
    for name, record in networks.items():
        found += _goals_of(name, record)
    power = dense["slimgraph"]["exponent"]
    found.append((f"dense block: time grows as L^{power:.2f}, at most L^1.1", power <= 1.1))
    return found


def _goals_of(name: str, record: Record) -> list[tuple[str, bool]]:
    ratio, found = faster(record), []
    if ratio is not None:
        found.append((f"{name}: never slower than its peer", ratio >= 1))
    if name in FASTER:
        wanted = FASTER[name]
        found.append((f"{name}: {wanted:.0f} times faster than its peer", (ratio or 0) >= wanted))
    if name in ALONE:
        taken = record["medians"]["slimgraph"]["cpu"]
        found.append((f"{name}: at most {ALONE[name]:.0f} s", taken <= ALONE[name]))
    if name in SIX:
        share = 1 / record["ratios"]["limit"]["median"]
        found.append((f"{name}: within {OF_LIMIT:.0f} times the limit", share <= OF_LIMIT))
    extra = record["memory"]["extra_peak_mb"]
    kept = extra <= record["memory_bound_mb"]
    found.append((f"{name}: extra memory at most the slim weights and 100 MB", kept))
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
        peer, limit = medians.get("torch-pruning"), medians.get("limit")
        table.add_row(
            name,
            f"{medians['slimgraph']['cpu']:.3f}",
            f"{peer['cpu']:.3f}" if peer else "-",
            _spread(ratios["torch-pruning"]) if peer else "-",
            f"{limit['cpu']:.3f}" if limit else "fails",
            f"{1 / ratios['limit']['median']:.2f}" if limit else "-",
            f"{record['memory']['extra_peak_mb']:.0f}",
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


def run_all(names: Sequence[str], runs: int, console: Console) -> dict[str, Record]:
    """Measure every network with all tools that can do it, and say how it went."""
    networks: dict[str, Record] = {}
    for name in names:
        begun = time.monotonic()
        tools = ("slimgraph", "limit") if name in ALONE else tuple(TOOLS)
        records = take_turns(tools, name, runs)
        memory = apart("slimgraph", name, trimmed=True)
        networks[name] = {**summary(records), "memory": memory, "runs": records}
        ratio = faster(networks[name])
        text = "alone" if ratio is None else f"{ratio:.1f} times faster"
        console.print(f"{name}: {text} ({time.monotonic() - begun:.0f} s)")
    return networks


def main() -> int:
    """Measure, print, write the JSON, and say which goals are reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=(*PEERS, *ALONE))
    parser.add_argument("--runs", type=int, default=3, help="of each tool on each network")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # what the table needs, wherever it goes
    warm_up()
    networks = run_all(asked.networks, asked.runs, console)
    dense = dense_block(asked.runs)
    reached = goals(networks, dense)
    show(console, networks)
    show_depths(console, dense)
    for goal, is_reached in reached:
        console.print("reached" if is_reached else "[bold red]MISSED[/]", goal)
    packages = ("torch", "torchvision", "torch-pruning", "numpy", "scipy")
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "times_faster_geometric_mean": mean_faster(networks),
        "networks": networks,
        "dense_block": dense,
        "goals": [{"goal": goal, "reached": is_reached} for goal, is_reached in reached],
    }
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if asked.output == RESULTS:
        PAGE.write_text(page(document), encoding="utf-8")
    console.print(f"wrote {asked.output.name}")
    return 0 if all(is_reached for _, is_reached in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
