"""The zoo: how many real architectures slimgraph handles, and how exactly.

    python -m tools.zoo                              # everything, as in docs/zoo.md
    python -m tools.zoo --slice                      # forty models, for continuous integration
    python -m tools.zoo --only resnet18 --tasks exact
    python -m tools.zoo --kinds timm transformers --resume

Each task (`exact`, `onnx`, `peer`) on each model runs in a process of its own with a bound on time
and memory. Rows are written as they come. The exit code is 1 if something that must hold does not.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tools.zoo import judge
from tools.zoo.catalog import KINDS, Subject, subjects
from tools.zoo.page import page
from tools.zoo.runner import TASKS, Bounds, Record, run_all
from tools.zoo.slice import SLICE

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "zoo.json"
PAGE = ROOT / "docs" / "zoo.md"
PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "ultralytics", "torch-pruning", "onnx",
    "onnxruntime",
)  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.zoo", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--slice", action="store_true", help="only the forty models continuous integration runs")
    add("--only", nargs="+", metavar="NAME", default=(), help="models; `*` matches any part")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS)
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--jobs", type=int, default=2, help="processes at once")
    add("--seconds", type=float, default=900, help="bound for each process")
    add("--megabytes", type=float, default=14_000, help="bound for each process")
    add("--resume", action="store_true", help="keep what is done, run the rest")
    add("--retry", action="store_true", help="with --resume: run what failed once more")
    add("--output", type=Path, default=RESULTS)
    add("--page", type=Path, help="where to write the page; docs/zoo.md after a full run")
    add("--list", action="store_true", help="list the models and stop")
    return parser.parse_args()


def _chosen(asked: argparse.Namespace) -> dict[str, Subject]:
    known = subjects()
    if asked.slice:
        known = {name: known[name] for name in SLICE if name in known}
    chosen = {n: s for n, s in known.items() if s.kind in asked.kinds}
    if asked.only:
        order = [next((i for i, p in enumerate(asked.only) if _matches(n, p)), -1) for n in chosen]
        ranked = sorted(zip(order, chosen.items(), strict=True), key=lambda pair: pair[0])
        chosen = dict(item for place, item in ranked if place >= 0)
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[2], pattern)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """Name the state of the code, so that every row says what it was measured on."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _document(rows: dict[str, Record]) -> Record:
    order = {name: index for index, name in enumerate(subjects())}
    ordered = dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order))))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "rows": ordered,
    }


def _is_done(row: Record, task: str, *, retry: bool) -> bool:
    if task not in row:
        return False
    passed: Any = {"exact": judge.exact, "onnx": judge.exported}.get(task, lambda _: True)
    return bool(passed(row)) or not retry


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that a run that is stopped leaves the last state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _measure(
    asked: argparse.Namespace, chosen: dict[str, Subject], rows: dict[str, Record]
) -> None:
    work = [
        (task, name)
        for task in asked.tasks
        for name in chosen
        if not (asked.resume and _is_done(rows.get(name, {}), task, retry=asked.retry))
    ]
    console, commit = Console(stderr=True), _commit()
    with Progress(console=console) as bar:
        progress = bar.add_task("zoo", total=len(work))

        def finished(task: str, name: str, record: Record) -> None:
            row = rows.setdefault(name, {"kind": chosen[name].kind})
            row[task] = record | {"commit": commit}
            _write(asked.output, json.dumps(_document(rows), indent=1) + "\n")
            state = judge.cause_of(record) or "ok"
            line = f"{name} {task} {record['wall']:.0f} s: {state}"
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            bar.advance(progress)

        run_all(work, Bounds(asked.seconds, asked.megabytes), asked.jobs, finished)


def main() -> int:
    """Measure, write the rows and the page, and say what is missing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and stop the processes
    asked = _arguments()
    chosen = _chosen(asked)
    console = Console()
    if asked.list:
        console.print("\n".join(chosen), markup=False)
        return 0
    rows: dict[str, Record] = {}
    if asked.output.exists():
        rows = json.loads(asked.output.read_text(encoding="utf-8"))["rows"]
    _measure(asked, chosen, rows)
    full = len(chosen) == len(subjects())
    if asked.page or full:
        _write(asked.page or PAGE, page(_document(rows)))
    found = judge.verdicts({name: rows[name] for name in chosen if name in rows})
    for verdict in found:
        console.print(str(verdict), markup=False)
        for name in () if verdict.ok else verdict.missing:
            console.print(f"  {name}", markup=False, soft_wrap=True)
    return 0 if all(verdict.ok for verdict in found) else 1


if __name__ == "__main__":
    sys.exit(main())
