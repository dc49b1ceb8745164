"""`slimgraph-export`: what only a second look shows."""

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

import slimgraph as sg
from tests.cli.command import EXAMPLE, run, traced


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a traced model, under a name that says nothing."""
    sg.save(traced(), tmp_path / "model.pt")
    return tmp_path


def export(folder: Path, *words: str) -> dict[str, Any]:
    """Run the command with `--json`; it must succeed."""
    ran = run(folder, "slimgraph-export", "model.pt", "--onnx", "out.onnx", "--json", *words)
    assert ran.code == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def answers(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return torch.from_numpy(result)


def test_as_typed_it_removes_nothing_that_matters(folder: Path) -> None:
    model = sg.load(folder / "model.pt")
    ran = run(folder, "slimgraph-export", "model.pt", "--onnx", "out.onnx")
    assert (ran.code, ran.stdout) == (0, "")
    for word in ("parameters", "MACs", "no channel left", "wrote out.onnx"):
        assert word in ran.stderr
    for batch in (1, 4):
        inputs = torch.randn(batch, *EXAMPLE[1:])
        with torch.no_grad():
            expected = model(inputs)
        assert torch.allclose(answers(folder / "out.onnx", inputs), expected, atol=1e-5)


def test_options_of_the_choice_are_heeded(folder: Path) -> None:
    chosen = ("--criterion", "random", "--seed", "3", "--round-to", "4", "--keep", "wide")
    report = export(folder, "--channels", "0.9", "--max-removed", "0.5", *chosen)
    kept = {g["name"]: g["kept"] for g in report["groups"]}
    assert kept["wide.0"] == 16
    assert kept["stem.0"] == 4


def test_the_opset_and_the_latency_are_what_was_asked(folder: Path) -> None:
    report = export(folder, "--opset", "17", "--time")
    model = onnx.load(folder / "out.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
    assert report["export"]["latency_ms"]["median"] > 0


def test_an_earlier_output_is_replaced(folder: Path) -> None:
    (folder / "out.onnx").write_text("old", encoding="utf-8")
    export(folder, "--no-verify")
    assert onnx.load(folder / "out.onnx").graph.node
