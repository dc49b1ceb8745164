"""Runs tasks, one process each, with a bound on time and memory.

The processes are forked from a server that has imported the libraries once; they take no other
state from it.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tools.zoo.measure import perform

Record = dict[str, Any]
MEGABYTE = 1e6
POLL = 0.1
TASKS = ("exact", "onnx", "peer")
_LIBRARIES = (
    "torchvision", "timm", "transformers", "ultralytics", "onnxscript", "onnxruntime",
    "torch.onnx", "torch._dynamo", "torch_pruning",
)  # fmt: skip
_PRELOAD = ["tools.zoo.exactness", "tools.zoo.export", "tools.zoo.peer"]


@dataclass(frozen=True)
class Bounds:
    """What one process may use.

    Attributes:
        seconds: Of time.
        megabytes: Of memory.
    """

    seconds: float
    megabytes: float


@dataclass(slots=True)
class _Running:
    """One process; mutable, since it may be told to stop."""

    task: str
    name: str
    process: BaseProcess
    lines: Path
    start: float = field(default_factory=time.monotonic)
    stopped: str | None = None

    def check(self, bounds: Bounds) -> None:
        """Stop the process if it goes beyond a bound."""
        if time.monotonic() - self.start > bounds.seconds:
            self.stopped = f"more than {bounds.seconds:.0f} s"
        elif _resident(self.process.pid) > bounds.megabytes:
            self.stopped = f"more than {bounds.megabytes:.0f} MB"
        if self.stopped:
            self.process.kill()
            self.process.join()

    def record(self) -> Record:
        """Return what it found out, also if it had to be stopped."""
        record: Record = {"stage": "start", "finished": False}
        for line in self.lines.read_text(encoding="utf-8").splitlines():
            record.update(_facts(line))
        record["wall"] = round(time.monotonic() - self.start, 1)
        stage = record.pop("stage")
        if self.stopped:
            record["crash"] = {"stage": stage, "type": "stopped", "message": self.stopped}
        elif self.process.exitcode and "crash" not in record:
            message = f"exit code {self.process.exitcode}"
            record["crash"] = {"stage": stage, "type": "died", "message": message}
        return record


def _facts(line: str) -> Record:
    try:
        found: Record = json.loads(line)
    except json.JSONDecodeError:  # the last line of a process that was stopped
        return {}
    return found


def _resident(pid: int | None) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):  # it has just ended
        return 0.0
    return pages * resource.getpagesize() / MEGABYTE


def run_all(
    work: Iterable[tuple[str, str]],
    bounds: Bounds,
    jobs: int,
    finished: Callable[[str, str, Record], None],
) -> None:
    """Run tasks side by side.

    Args:
        work: Pairs of task and model.
        bounds: For each process.
        jobs: How many processes at once.
        finished: Called with task, model and what was found out.
    """
    context = multiprocessing.get_context("forkserver")
    present = [library for library in _LIBRARIES if find_spec(library.partition(".")[0])]
    context.set_forkserver_preload([*present, *_PRELOAD])
    waiting = list(work)[::-1]
    running: list[_Running] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task, name = waiting.pop()
                    lines = Path(folder) / f"{len(waiting)}.jsonl"
                    process = context.Process(target=perform, args=(task, name, lines))
                    process.start()
                    running.append(_Running(task, name, process, lines))
                running = list(_still(running, bounds, finished))
                time.sleep(POLL)
        finally:
            for each in running:
                each.process.kill()


def _still(
    running: list[_Running], bounds: Bounds, finished: Callable[[str, str, Record], None]
) -> Iterable[_Running]:
    """Report the processes that have ended, return the others."""
    for each in running:
        each.check(bounds)
        if each.process.is_alive():
            yield each
        else:
            finished(each.task, each.name, each.record())
