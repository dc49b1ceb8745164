"""One task on one model: `python -m tools.zoo.measure TASK MODEL` runs it in this process.

Writes one line of JSON per finished stage, so that what is known survives a time bound.
"""

import json
import logging
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from tools.zoo.catalog import Inputs, Subject, subjects
from tools.zoo.weights import call, randomise

Record = dict[str, Any]
MEGABYTE = 1e6
NICE = 10


class Diary:
    """What a task finds out, written down stage by stage."""

    def __init__(self, lines: TextIO) -> None:
        self.lines = lines
        self.doing = "start"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; its name is known to whoever reads the lines if it never ends."""
        self.doing = name
        self.say(stage=name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        self.say(seconds=self.seconds)

    def say(self, **facts: Any) -> None:
        """Write facts down."""
        print(json.dumps(facts), file=self.lines, flush=True)


def prepare(subject: Subject, gain: float = 1.0) -> tuple[nn.Module, int]:
    """Build a model with random weights, and find the smallest size it runs at.

    Args:
        subject: The model.
        gain: Strength of its weights.

    Returns:
        The model in eval mode, and the size.
    """
    torch.manual_seed(0)
    model = subject.make().eval().to(torch.get_default_dtype())  # also tables made otherwise
    for size in subject.sizes[:-1]:
        try:
            call(model, subject.inputs(2, size))
        except (RuntimeError, AssertionError, ValueError, IndexError, TypeError):
            continue
        break
    else:
        size = subject.sizes[-1]
    torch.manual_seed(1)
    randomise(model, subject.inputs(2, size), gain)
    return model, size


def example(subject: Subject, batch: int, size: int) -> Inputs:
    """Draw inputs, the same ones each time."""
    torch.manual_seed(100 * batch + size)
    return subject.inputs(batch, size)


def parameters(model: nn.Module) -> int:
    """Count the numbers in a model's parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def peak() -> float:
    """Return the most memory this process has held, in megabytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE, 1)


def crash(error: BaseException, stage: str) -> Record:
    """Describe an exception: what, where in the model, and where in the code that raised it."""
    chain = traceback.extract_tb(error.__traceback__)
    frames = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in chain[-4:]]
    return {
        "stage": stage,
        "type": type(error).__name__,
        "message": str(getattr(error, "message", None) or error)[:500],
        "where": getattr(error, "where", None),
        "frames": frames,
    }


def tasks() -> dict[str, Callable[[Subject, Diary], None]]:
    """Return what can be asked of a model, by name."""
    from tools.zoo import exactness, export, peer

    return {"exact": exactness.run, "onnx": export.run, "peer": peer.run}


def perform(task: str, name: str, lines: Path | None = None) -> None:
    """Run a task and write down what it finds.

    Args:
        task: One of `tasks()`.
        name: Of the model.
        lines: The file to write to; the terminal without it.
    """
    os.nice(NICE)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    with nullcontext(sys.stdout) if lines is None else lines.open("w", encoding="utf-8") as out:
        diary = Diary(out)
        with redirect_stdout(sys.stderr):  # libraries print
            try:
                tasks()[task](subjects()[name], diary)
                diary.say(finished=True)
            except Exception as error:
                diary.say(crash=crash(error, diary.doing))
        diary.say(peak_mb=peak())


if __name__ == "__main__":
    perform(sys.argv[1], sys.argv[2])
