"""A tiny model file and a way to run the commands in this process."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import slimgraph as sg
from slimgraph import cli


def tiny() -> nn.Sequential:
    """The model of all these tests, groups 0 and 3, and 7 that cannot shrink."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


# What a user's own file might hold.
ARCH = f"""
import torch
from torch import nn

{inspect.getsource(tiny)}

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x

class Raising(Branching):
    def forward(self, x):
        raise RuntimeError("out of paper")
"""


@dataclass(frozen=True)
class Ran:
    """What a command left behind: its exit code and what it wrote to the two streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def traced(model: nn.Module) -> fx.GraphModule:
    return sg.trace(model, torch.randn(1, 3, 8, 8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model.slim"
    torch.manual_seed(0)
    sg.save(traced(tiny()), path)
    return path.read_bytes()


@pytest.fixture
def here(tmp_path: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `model.slim` in it."""
    (tmp_path / "model.slim").write_bytes(saved)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def arch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zoo.py` in the current folder, to be named by `--arch zoo:tiny`."""
    (here / "zoo.py").write_text(ARCH)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "zoo", raising=False)


def _runner(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def run(*args: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return Ran(caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return _runner(cli.export_main, monkeypatch, capsys)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return _runner(cli.report_main, monkeypatch, capsys)
