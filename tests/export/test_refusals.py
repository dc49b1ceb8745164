import logging
import os
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from slimgraph.errors import FileError, OnnxExportError, ParityError, SlimgraphError
from slimgraph.onnx_export import export_onnx
from slimgraph.tracing import trace
from tests.export.models import Convolutions, Fails, Words

X = torch.rand(1, 3, 8, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


def test_a_difference_above_the_tolerance_is_an_error(path: Path) -> None:
    with pytest.raises(ParityError) as caught:
        export_onnx(trace(Convolutions(), X), path, tolerance=0.0)
    text = str(caught.value)
    assert text.startswith("onnxruntime and torch disagree: output `output` is off by ")
    assert "tolerance 0\n" in text
    assert "a batch of 1" in text
    assert not list(path.parent.iterdir())


def test_an_old_file_survives_a_failure(path: Path) -> None:
    path.write_bytes(b"old")
    with pytest.raises(ParityError):
        export_onnx(trace(Convolutions(), X), path, tolerance=0.0)
    assert path.read_bytes() == b"old"
    export_onnx(trace(Convolutions(), X), path)
    onnx.checker.check_model(path)


def test_damaged_weights_are_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.onnx.ONNXProgram.save

    def damage(program: torch.onnx.ONNXProgram, *args: object, **options: object) -> None:
        program.apply_weights({"head.weight": torch.zeros(4, 6)})
        save(program, *args, **options)

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", damage)
    with pytest.raises(ParityError, match="`output` is off by"):
        export_onnx(trace(Convolutions(), X), path)
    assert not list(path.parent.iterdir())


def unwritable(tmp_path: Path) -> Path:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write everywhere but here
        folder = Path("/proc")
    return folder


def test_a_folder_that_cannot_be_written_fails_before_any_work(tmp_path: Path) -> None:
    steps: list[str] = []
    for folder in (tmp_path / "missing", unwritable(tmp_path), Path(__file__)):
        with pytest.raises(FileError, match=f"cannot write `{folder}") as caught:
            export_onnx(trace(Convolutions(), X), folder / "out.onnx", progress=steps.append)
        assert "hint: create the folder first" in str(caught.value)
    assert steps == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        export_onnx(trace(Convolutions(), X), tmp_path)


def test_a_model_that_fails_is_an_error(path: Path) -> None:
    graph_module = torch.fx.symbolic_trace(Fails())
    with pytest.raises(OnnxExportError, match="fails on the example inputs with RuntimeError: mat"):
        export_onnx(graph_module, path, example_inputs=torch.rand(2, 3))
    assert not list(path.parent.iterdir())


class Sorts(nn.Module):
    """No ONNX operator does this."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.qr(x)[0]


def test_an_operator_onnx_lacks_is_an_error(path: Path) -> None:
    with pytest.raises(OnnxExportError, match=r"torch\.onnx refuses the model: .*qr"):
        export_onnx(torch.fx.symbolic_trace(Sorts()), path, example_inputs=X)
    assert not list(path.parent.iterdir())


def broken(kind: str) -> tuple[nn.Module, Tensor]:
    model, x = Convolutions(), X
    if kind == "NaN":
        model.head.weight.data[0, 0] = torch.nan
    elif kind == "complex":
        model.head.weight = nn.Parameter(torch.zeros(4, 6, dtype=torch.complex64))
    elif kind == "batch of 0":
        x = torch.rand(0, 3, 8, 8)
    else:
        model = model.to("meta")
    return model, x


BROKEN = {
    "NaN": "`head.weight` holds NaN",
    "complex": "`head.weight` is complex",
    "batch of 0": "a batch of 0",
    "no data": "has no data",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_numbers_nobody_wants_are_refused(path: Path, kind: str) -> None:
    model, x = broken(kind)
    with pytest.raises(OnnxExportError, match=BROKEN[kind]):
        export_onnx(torch.fx.symbolic_trace(model), path, example_inputs=x)
    assert not list(path.parent.iterdir())


MISFITS = [
    ({"y": X}, "the model has no input `y`\n\nhint: give one example per input: `words`, `mask`"),
    ((X, X, 1.0, X), "the model takes 3 inputs, not 4"),
    ((torch.zeros(2, 5),), "no example for the input `mask`"),
    (None, "the model has no recorded shapes"),
]


@pytest.mark.parametrize(("inputs", "text"), MISFITS)
def test_inputs_that_do_not_fit_are_refused(path: Path, inputs: object, text: str) -> None:
    with pytest.raises(OnnxExportError) as caught:
        export_onnx(torch.fx.symbolic_trace(Words()), path, example_inputs=inputs)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("opset", [0, 99])
def test_an_opset_that_does_not_exist_is_refused(path: Path, opset: int) -> None:
    with pytest.raises(OnnxExportError, match=f"there is no opset {opset}"):
        export_onnx(trace(Convolutions(), X), path, opset=opset)


def test_an_opset_too_old_for_the_model_is_refused(path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())
    with pytest.raises(OnnxExportError, match="opset 7 cannot express the model") as caught:
        export_onnx(trace(model, X), path, opset=7)
    assert "hint: use `opset=18` or newer" in str(caught.value)
    assert not list(path.parent.iterdir())


def test_an_opset_too_new_for_torch_is_refused(path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())
    with pytest.raises(OnnxExportError, match=f"cannot write this model in opset {newest}"):
        export_onnx(trace(model, X), path, opset=newest)
    assert not list(path.parent.iterdir())


def test_torch_is_silent_and_its_loggers_get_their_levels_back(
    path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    levels = {name: logging.getLogger(name).level for name in ("torch", "onnxscript", "torch.onnx")}
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), X)
    caplog.clear()
    with pytest.raises(SlimgraphError):  # torch.onnx logs a traceback
        export_onnx(graph_module, path, opset=onnx.defs.onnx_opset_version())
    with pytest.raises(SlimgraphError):
        export_onnx(torch.fx.symbolic_trace(Sorts()), path, example_inputs=X)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels
