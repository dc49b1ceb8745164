"""`slimgraph-bench`: ONNX files side by side."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import slimgraph as sg
from tests.cli.command import Ran, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one with twice as many channels."""
    for name, width in (("wide", 32), ("slim", 16)):
        net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 3)).eval()
        sg.export_onnx(sg.trace(net, torch.randn(2, 3, 12, 12)), tmp_path / f"{name}.onnx")
    return tmp_path


def bench(folder: Path, *words: str) -> Ran:
    return run(folder, "slimgraph-bench", *words, "--rounds", "2")


def test_files_are_timed_in_turns_and_their_operators_listed(folder: Path) -> None:
    ran = bench(folder, "wide.onnx", "slim.onnx", "--batch", "3", "--json", "--output", "t.json")
    assert (ran.code, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    assert json.loads((folder / "t.json").read_text()) == found
    assert (found["threads"], found["batch"]) == (1, 3)
    wide, slim = found["models"]
    assert (wide["file"], slim["file"]) == ("wide.onnx", "slim.onnx")
    assert wide["bytes"] == (folder / "wide.onnx").stat().st_size > slim["bytes"]
    assert wide["ratio"] == 1.0
    for model in (wide, slim):
        low, high = model["quartiles_ms"]
        assert 0 < low <= model["ms"] <= high
        ops = [operator["op"] for operator in model["operators"]]
        assert sum(op in ("Conv", "FusedConv") for op in ops) == 2
        assert all(operator["ms"] > 0 for operator in model["operators"])


def test_the_table_names_files_and_operators_as_they_are(folder: Path) -> None:
    (folder / "slim.onnx").rename(folder / "[red]slim.onnx")
    ran = bench(folder, "wide.onnx", "[red]slim.onnx")
    assert ran.code == 0
    assert "[red]slim.onnx" in ran.stdout
    assert "operators, the longest" in ran.stdout
    assert "Conv" in ran.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("missing.onnx",), "no file `missing.onnx`"),
        (("text.onnx",), "onnxruntime cannot load the model"),
        (("wide.onnx", "--threads", "0"), "must be at least 1"),
        (("wide.onnx", "--rounds", "0"), "must be at least 1"),
        (("wide.onnx", "--output", "none/t.json"), "none"),
    ],
)
def test_what_cannot_be_timed_is_refused(folder: Path, words: tuple[str, ...], says: str) -> None:
    (folder / "text.onnx").write_text("no model")
    ran = run(folder, "slimgraph-bench", *words)
    assert ran.code == 1
    assert says in ran.stderr
    assert not list(folder.glob("*.json"))
