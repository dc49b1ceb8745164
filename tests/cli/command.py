"""Running the commands in this process, and the files they are given."""

import contextlib
import io
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph import bench_command, cli

COMMANDS = {
    "slimgraph-bench": bench_command.main,
    "slimgraph-export": cli.export_main,
    "slimgraph-report": cli.report_main,
}


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


def run(cwd: Path, *words: str | Path) -> Ran:
    """Run a command as a shell would, in a folder."""
    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", [str(word) for word in words])
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        patch.chdir(cwd)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                COMMANDS[str(words[0])]()
            except SystemExit as stop:
                code = stop.code
    return Ran(int(str(code or 0)), stdout.getvalue(), stderr.getvalue())


class Net(nn.Module):
    """Two convolutions, a residual sum and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.wide(self.block(x) + x)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


EXAMPLE = (1, 3, 8, 8)
SHAPE = "1,3,8,8"
# The same class as a user's own file, for `--arch own:make`.
OWN_FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3)
        self.two = nn.Conv2d(8, 5, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


def make():
    return Net()


class Raises(Net):
    def forward(self, x):
        raise ValueError("no photo today")


class Branches(Net):
    def forward(self, x):
        return self.one(x) if x.sum() > 0 else self.two(self.one(x))
"""
OWN_WEIGHTS = {
    "one.weight": (8, 3, 3, 3), "one.bias": (8,), "two.weight": (5, 8, 3, 3), "two.bias": (5,),
}  # fmt: skip


def write_own(folder: Path) -> None:
    """Write the user's own module and weights for it."""
    (folder / "own.py").write_text(OWN_FILE, encoding="utf-8")
    torch.save({name: torch.randn(shape) for name, shape in OWN_WEIGHTS.items()}, folder / "own.pt")


def traced(model: nn.Module | None = None) -> fx.GraphModule:
    """Trace the net, or another model for the same inputs."""
    return sg.trace((model or Net()).eval(), torch.randn(EXAMPLE))


def assert_refused(folder: Path, *words: str | Path, says: str, debug: bool = True) -> str:
    """Check that a command ends with a clear error and leaves the folder as it was.

    Returns:
        What it printed to stderr.
    """
    before = contents(folder)
    ran = run(folder, *words)
    assert ran.code == 1, ran
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert "Traceback" not in ran.stderr
    assert "unexpected" not in ran.stderr, "slimgraph itself stumbled"
    assert says in ran.stderr, ran.stderr
    assert contents(folder) == before
    if debug:
        with pytest.raises(sg.SlimgraphError):
            run(folder, *words, "--debug")
        assert contents(folder) == before
    return ran.stderr


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file below a folder with its bytes; compiled Python does not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }
