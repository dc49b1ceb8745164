import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from slimgraph.cloning import clone, fingerprint, first_difference
from slimgraph.errors import OnnxExportError
from slimgraph.onnx_export import ExportReport, export_onnx
from slimgraph.shapes import propagate
from slimgraph.tracing import trace
from tests.export.models import (
    Bounded,
    Convolutions,
    FixedBatch,
    InPlace,
    Nested,
    OwnType,
    Squeezes,
    Words,
    Wraps,
)

X = torch.rand(1, 3, 8, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


def plain(model: nn.Module, *inputs: Tensor) -> torch.fx.GraphModule:
    """Trace with plain torch.fx and record shapes."""
    graph_module = torch.fx.symbolic_trace(model.eval())
    propagate(graph_module, *inputs)
    return graph_module


def run(path: Path, **inputs: Tensor) -> dict[str, np.ndarray]:
    """Run a file in a session of our own."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip(names, session.run(None, feeds), strict=True))


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    shape = value.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in shape]


# What is written --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """One export and what was known before it."""

    graph_module: torch.fx.GraphModule
    recorded: dict[str, Any]
    path: Path
    steps: tuple[str, ...]
    report: ExportReport


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    path = tmp_path_factory.mktemp("export") / "out.onnx"
    graph_module = trace(Convolutions(), X).train()
    graph_module.norm.eval()
    recorded = fingerprint(graph_module)
    steps: list[str] = []
    report = export_onnx(graph_module, path, latency=True, progress=steps.append)
    return Export(graph_module, recorded, path, tuple(steps), report)


def test_a_model_is_written_and_reported(export: Export) -> None:
    model, report = onnx.load(export.path), export.report
    assert report.path == export.path
    assert report.bytes == export.path.stat().st_size
    assert report.nodes == len(model.graph.node)
    assert report.opset == model.opset_import[0].version
    assert report.dynamic_batch
    assert report.notes == ()
    assert [(result.output, result.ok) for result in report.parity] == [("output", True)]
    assert [value.name for value in model.graph.input] == ["x"]
    assert dims(model.graph.input[0]) == ["batch", 3, 8, 8]
    assert dims(model.graph.output[0]) == ["batch", 4]


def test_batch_norms_are_folded_and_weights_keep_their_names(export: Export) -> None:
    graph = onnx.load(export.path).graph
    assert {node.op_type for node in graph.node}.isdisjoint({"BatchNormalization", "Dropout"})
    names = {initializer.name for initializer in graph.initializer}
    assert {"conv.weight", "conv.bias", "head.weight", "head.bias"} <= names


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_file_computes_what_torch_computes(export: Export, batch: int) -> None:
    x = torch.rand(batch, 3, 8, 8)
    expected = clone(export.graph_module).eval()(x).detach()
    np.testing.assert_allclose(run(export.path, x=x)["output"], expected, atol=1e-5)


def test_the_folder_holds_nothing_but_the_file(export: Export) -> None:
    assert list(export.path.parent.iterdir()) == [export.path]


def test_the_model_stays_as_it_is(export: Export) -> None:
    assert not first_difference(export.recorded, fingerprint(export.graph_module))
    assert export.graph_module.training
    assert not export.graph_module.norm.training


def test_progress_is_told(export: Export) -> None:
    assert export.steps == ("prepare", "translate", "verify", "measure")


def test_latency_is_measured_on_request(export: Export) -> None:
    latency = export.report.latency
    assert latency is not None
    assert 0 < latency.min <= latency.median <= latency.max
    assert (latency.runs, latency.threads) == (20, 1)


def test_the_report_shows_itself(export: Export) -> None:
    report = export.report
    entry = report.to_dict()
    assert set(entry) == {"path", "bytes", "nodes", "opset", "parity", "latency_ms"}
    assert set(entry["parity"][0]) == {"output", "max_abs", "max_rel", "tolerance", "ok"}
    assert set(entry["latency_ms"]) == {"median", "min", "max", "runs", "threads"}
    assert json.loads(json.dumps(entry)) == entry
    assert repr(report).startswith(f"ExportReport('{export.path}', 0.01 MB, ")
    assert "free batch, off by " in repr(report)
    assert "\n" not in repr(report)
    assert f"<td>{export.path}</td>" in report._repr_html_()
    assert report.__rich__().row_count == len(list(report.rows())) == 6


def test_in_place_operations_and_bare_weights(path: Path) -> None:
    graph_module = plain(InPlace(), X)
    kept = X.clone()
    export_onnx(graph_module, path, example_inputs=X)
    assert torch.equal(X, kept)
    x = torch.rand(3, 3, 8, 8)
    output = run(path, x=x)["output"]
    np.testing.assert_allclose(output, graph_module(x.clone()).detach(), atol=1e-5)


def test_submodules_may_have_any_name(path: Path) -> None:
    report = export_onnx(plain(Wraps(), X), path, example_inputs=X)
    assert report.dynamic_batch


def test_constants_that_torch_forgets_are_listed(path: Path) -> None:
    assert export_onnx(trace(Bounded(), X), path).dynamic_batch


def test_outputs_are_named_after_keys(path: Path) -> None:
    report = export_onnx(trace(Nested(), X), path)
    names = [value.name for value in onnx.load(path).graph.output]
    assert names == ["logits", "maps.0", "maps.1.0", "x_out"]
    assert [result.output for result in report.parity] == names
    assert np.array_equal(run(path, x=X)["x_out"], X)


def test_outputs_of_a_type_of_the_users_own(path: Path) -> None:
    export_onnx(plain(OwnType(), X), path)
    assert [value.name for value in onnx.load(path).graph.output] == ["scores"]


WORDS = {"words": torch.randint(0, 10, (2, 5)), "mask": torch.rand(2, 5)}


@pytest.mark.parametrize(
    "inputs",
    [WORDS, dict(reversed(WORDS.items())), tuple(WORDS.values())],
    ids=["by name", "in another order", "by place"],
)
def test_inputs_by_name_or_in_order(path: Path, inputs: dict[str, Tensor]) -> None:
    report = export_onnx(torch.fx.symbolic_trace(Words()), path, example_inputs=inputs)
    model = onnx.load(path)
    assert [(value.name, dims(value)) for value in model.graph.input] == [
        ("words", ["batch", 5]),
        ("mask", ["batch", 5]),
    ]
    assert [value.name for value in model.graph.output] == ["output", "output_1"]
    assert report.dynamic_batch


def test_traced_keyword_arguments(path: Path) -> None:
    export_onnx(trace(Words(), WORDS), path)
    assert [value.name for value in onnx.load(path).graph.input] == ["words", "mask"]


def test_inputs_of_another_first_dim_are_not_batched(path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
            return x * scale + offset

    inputs = torch.rand(2, 4), torch.rand(4), torch.tensor(1.0)
    export_onnx(trace(Scaled(), inputs), path)
    assert [dims(value) for value in onnx.load(path).graph.input] == [["batch", 4], [4], []]


def test_recurrent_layers_are_written(path: Path) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    report = export_onnx(trace(Reads(), torch.rand(1, 6, 4)), path)  # torch warns, we do not
    assert report.dynamic_batch


def test_an_exported_program_can_be_written(path: Path) -> None:
    batch = torch.export.Dim("batch")
    x = torch.rand(2, 3, 8, 8)
    program = torch.export.export(Convolutions().eval(), (x,), dynamic_shapes=({0: batch},))
    report = export_onnx(program.module(), path, example_inputs=x)
    assert report.dynamic_batch


def test_the_batch_may_be_fixed(path: Path) -> None:
    report = export_onnx(trace(Convolutions(), X), path, dynamic_batch=False)
    assert not report.dynamic_batch
    assert report.notes == ()
    assert dims(onnx.load(path).graph.input[0]) == [1, 3, 8, 8]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_model_that_fixes_its_batch_is_written_with_a_note(path: Path, batch: int) -> None:
    report = export_onnx(trace(FixedBatch(batch), torch.rand(batch, 3, 4)), path)
    assert not report.dynamic_batch
    assert dims(onnx.load(path).graph.input[0]) == [batch, 3, 4]
    (note,) = report.notes
    assert note.startswith(f"the batch size is fixed at {batch}: ")
    assert report.parity[0].ok


@pytest.mark.parametrize("batch", [1, 2])
def test_a_model_that_means_something_else_at_a_batch_of_one(path: Path, batch: int) -> None:
    graph_module = plain(Squeezes(), X[[0] * batch])
    report = export_onnx(graph_module, path)
    assert not report.dynamic_batch
    assert report.notes[0].startswith(f"the batch size is fixed at {batch}: ")
    output = run(path, x=X[[0] * batch])["output"]
    np.testing.assert_allclose(output, graph_module(X[[0] * batch]).detach(), atol=1e-5)


def test_without_verification_nothing_is_compared(path: Path) -> None:
    report = export_onnx(trace(Convolutions(), X), path, verify=False, tolerance=0.0)
    assert report.parity == ()
    assert report.dynamic_batch
    assert path.exists()


@pytest.mark.parametrize(("opset", "optimize"), [(16, True), (21, True), (19, False)])
def test_the_opset_is_the_one_asked_for(path: Path, opset: int, optimize: bool) -> None:
    report = export_onnx(trace(Convolutions(), X), path, opset=opset, optimize=optimize)
    assert report.opset == onnx.load(path).opset_import[0].version == opset
    assert report.parity[0].ok


# Number formats ---------------------------------------------------------------------------------


def test_half_precision_is_written(path: Path) -> None:
    report = export_onnx(trace(Convolutions().half(), X.half()), path)
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert report.parity[0].tolerance > 1e-4


def test_double_precision_is_written_where_onnxruntime_has_kernels(path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    report = export_onnx(trace(model, torch.rand(2, 4, dtype=torch.float64)), path)
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    assert report.parity[0].max_rel < 1e-12


def test_a_missing_kernel_is_named(path: Path) -> None:
    with pytest.raises(
        OnnxExportError, match=r"onnxruntime cannot load the model: .*Conv"
    ) as caught:
        export_onnx(trace(Convolutions().double(), X.double()), path)
    assert "float64" in str(caught.value)
    assert not list(path.parent.iterdir())
    export_onnx(trace(Convolutions().double(), X.double()), path, verify=False)
    assert path.exists()


def test_bfloat16_is_refused_by_name(path: Path) -> None:
    graph_module = trace(Convolutions().bfloat16(), X.bfloat16())
    with pytest.raises(OnnxExportError, match="bfloat16"):
        export_onnx(graph_module, path)
    assert not list(path.parent.iterdir())
