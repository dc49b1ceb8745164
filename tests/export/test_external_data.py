"""Weights in a file of their own, as models above 2 GB need it; see tools/large for such a one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import slimgraph as sg
from slimgraph.errors import FileError
from slimgraph.onnx_export import export_onnx
from slimgraph.onnx_export.export import EXTERNAL_DATA_ABOVE
from slimgraph.tracing import trace
from tests.export.models import Convolutions
from tests.export.test_export import run

X = torch.rand(1, 3, 8, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


def test_large_weights_get_a_file_of_their_own(path: Path) -> None:
    graph_module = trace(Convolutions(), X)
    report = export_onnx(graph_module, path, external_data_above=16)
    data = path.with_name("out.onnx.data")
    assert sorted(path.parent.iterdir()) == [path, data]
    assert report.bytes == path.stat().st_size + data.stat().st_size
    output = run(path, x=X)["output"]
    np.testing.assert_allclose(output, graph_module.eval()(X).detach(), atol=1e-5)


def test_small_weights_stay_inside(path: Path) -> None:
    graph_module = trace(Convolutions(), X)
    weights = sum(tensor.nbytes for tensor in graph_module.state_dict().values())
    export_onnx(graph_module, path, external_data_above=weights)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_compressed_model_has_a_free_batch_with_weights_apart(path: Path, batch: int) -> None:
    slim = sg.slim(trace(Convolutions(), X), params=0.6).model
    export_onnx(slim, path, external_data_above=0)
    x = torch.rand(batch, 3, 8, 8)
    output = run(path, x=x)["output"]
    np.testing.assert_allclose(output, slim.eval()(x).detach(), atol=1e-5)


def test_weights_stay_apart_in_an_older_opset(path: Path) -> None:
    report = export_onnx(trace(Convolutions(), X), path, opset=16, external_data_above=16)
    assert report.opset == 16
    data = path.with_name("out.onnx.data")
    assert sorted(path.parent.iterdir()) == [path, data]
    bare = onnx.load(path, load_external_data=False)
    apart = [t for t in bare.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {entry.value for t in apart for entry in t.external_data if entry.key == "location"} == {
        data.name
    }


def test_both_files_are_replaced_or_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_onnx(trace(Convolutions(), X), path, external_data_above=16)
    data = path.with_name("out.onnx.data")
    before = path.read_bytes(), data.read_bytes()
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    torch.manual_seed(1)
    with pytest.raises(FileError, match="No space left"):
        export_onnx(trace(Convolutions(), X), path, external_data_above=16)
    assert (path.read_bytes(), data.read_bytes()) == before
    assert sorted(path.parent.iterdir()) == [path, data]
    monkeypatch.undo()
    export_onnx(trace(Convolutions(), X), path, external_data_above=16)
    assert data.read_bytes() != before[1]


def test_nothing_is_left_of_two_files_where_there_were_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FileError, match="No space left"):
        export_onnx(trace(Convolutions(), X), path, external_data_above=16)
    assert not list(path.parent.iterdir())


def test_the_limit_is_that_of_protobuf() -> None:
    assert 2**31 - 2**28 < EXTERNAL_DATA_ABOVE < 2**31
