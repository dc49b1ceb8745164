from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from slimgraph.errors import OnnxExportError
from slimgraph.runtime import LatencyResult, measure_latency, open_session, run_session

X = torch.tensor([[-1.0, 2.0]])


@pytest.fixture
def model() -> bytes:
    """A file that computes relu of x and y = 2 * relu."""
    x, r, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xry"
    )
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "r"], ["y"])]
    graph = helper.make_graph(nodes, "two", [x], [r, y])
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def test_outputs_come_by_name(model: bytes) -> None:
    outputs = run_session(open_session(model), {"x": X})
    assert list(outputs) == ["r", "y"]
    np.testing.assert_array_equal(outputs["y"], [[0.0, 4.0]])


def test_runs_are_timed_in_milliseconds(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    result = measure_latency(path, {"x": X.numpy()}, threads=2, runs=7, warmup=1)
    assert (result.runs, result.threads) == (7, 2)
    assert 0 < result.min <= result.median <= result.max < 1000


def test_the_result_is_the_report_entry() -> None:
    entry = {"median": 2.0, "min": 1.0, "max": 3.0, "runs": 20, "threads": 1}
    assert LatencyResult(2.0, 1.0, 3.0, 20, 1).to_dict() == entry


def test_damaged_files_are_refused(model: bytes, tmp_path: Path) -> None:
    with pytest.raises(OnnxExportError, match="onnxruntime cannot load the model: "):
        open_session(model[:-20])
    with pytest.raises(OnnxExportError, match="onnxruntime cannot load the model: "):
        measure_latency(tmp_path / "missing.onnx", {"x": X})


def test_inputs_that_do_not_fit_are_refused(model: bytes) -> None:
    session = open_session(model)
    for inputs in ({}, {"z": X}, {"x": X.double()}, {"x": torch.zeros(1, 3)}):
        with pytest.raises(OnnxExportError, match="onnxruntime cannot run the model: "):
            run_session(session, inputs)


def test_loading_says_nothing(model: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = onnx.load_from_string(model)
    loaded.graph.initializer.append(helper.make_tensor("unused", TensorProto.FLOAT, [1], [0.0]))
    open_session(loaded.SerializeToString())  # onnxruntime would warn about the initializer
    assert capfd.readouterr().err == ""
