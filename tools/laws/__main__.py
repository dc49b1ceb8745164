"""The laws on random nets: compress = masked, plans compose, and all the others.

    python -m tools.laws                          # 10,000 cases, as committed in results/
    python -m tools.laws --cases 200 --seed 7     # other ones, not recorded unless --output says
    python -m tools.laws --case 1234              # one of them once more, with its traceback

Stop it whenever you like: the next run tries what failed once more and goes on where this one was.
The exit code is 1 if any case failed; failures are kept with the smallest recipe that fails alike.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tests.laws.recipes import RandomCase, check
from tests.nets.recipes.grown import recipe_of
from tools.laws.cases import Outcome, run_case

RESULTS = Path(__file__).parent / "results" / "laws.json"
EVERY = 10.0  # seconds between two writes
PACKAGES = ("torch", "numpy", "scipy", "networkx")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.laws", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--cases", type=int, default=10_000)
    add("--seed", type=int, default=0, help="of the first case; each has the next one")
    add("--processes", type=int, default=os.cpu_count())
    add("--output", type=Path, default=RESULTS)
    add("--fresh", action="store_true", help="forget what an earlier run did")
    add("--case", type=int, metavar="SEED", help="run this case alone, here")
    return parser.parse_args()


def _started(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the record of an earlier run with the same first seed, or an empty one."""
    if asked.output.exists() and not asked.fresh:
        found: dict[str, Any] = json.loads(asked.output.read_text(encoding="utf-8"))
        if found["first"] == asked.seed:
            return found
    return {"first": asked.seed, "done": 0, "seconds": 0.0, "refused": {}, "failures": []}


def _write(path: Path, record: dict[str, Any]) -> None:
    """Replace the file at once, so that a run that is stopped leaves the last state."""
    said = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(said | record, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _count(record: dict[str, Any], outcome: Outcome) -> None:
    record["done"] += 1
    record["refused"] = dict(sorted((Counter(record["refused"]) + Counter(outcome.notes)).items()))
    if outcome.failure is not None:
        record["failures"].append(outcome.failure)


def _run(asked: argparse.Namespace, record: dict[str, Any]) -> None:
    """Run what failed before and what is missing, in order, so that `done` says it all."""
    failed = [failure["seed"] for failure in record["failures"]]
    seeds = [*failed, *range(asked.seed + record["done"], asked.seed + asked.cases)]
    record |= {"done": record["done"] - len(failed), "failures": []}
    before, started, written = record["seconds"], time.monotonic(), time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(asked.processes) as pool, Progress(console=Console(stderr=True)) as bar:
        progress = bar.add_task("laws", total=asked.cases, completed=record["done"])
        for finished, outcome in enumerate(pool.imap(run_case, seeds, chunksize=4), 1):
            _count(record, outcome)
            record["seconds"] = round(before + time.monotonic() - started, 1)
            bar.advance(progress)
            if outcome.failure is not None:
                line = f"seed {outcome.seed}: {outcome.failure['property']}"
                bar.console.print(f"{line}: {outcome.failure['error']}", markup=False)
            if time.monotonic() - written > EVERY and finished >= len(failed):
                written = time.monotonic()
                _write(asked.output, record)
    _write(asked.output, record)


def main() -> int:
    """Run the cases; return 1 if any of them failed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    asked = _arguments()
    console = Console()
    if asked.case is not None:
        console.print(recipe_of(asked.case), markup=False)
        console.print(check(RandomCase(recipe_of(asked.case), asked.case)), markup=False)
        return 0
    record = _started(asked)
    _run(asked, record)
    console.print(
        f"{record['done']} cases, {len(record['failures'])} failures; refused: {record['refused']}"
    )
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
