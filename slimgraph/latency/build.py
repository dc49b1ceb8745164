"""From an analysed model to one that predicts its latency."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from slimgraph.compress import compress
from slimgraph.graph import DependencyGraph
from slimgraph.latency.kernels import profile
from slimgraph.latency.model import LatencyModel
from slimgraph.latency.operators import PlainModel
from slimgraph.latency.table import Table
from slimgraph.mask import Mask
from slimgraph.onnx_export import export_onnx
from slimgraph.onnx_export.examples import bind
from slimgraph.runtime import Inputs


def latency_model(
    graph: DependencyGraph, *, threads: int = 1, batch: int | None = None,
    table: Table | None = None, runs: int = 20,
) -> LatencyModel:  # fmt: skip
    """Profile a model in onnxruntime, so that its latency under any mask can be predicted.

    Args:
        graph: The analysed model.
        threads: How many an operator may use.
        batch: Examples per run; `None`: as traced.
        table: Times of operators; by default that of this machine, kept on disk.
        runs: Of the dense model.

    Raises:
        OnnxExportError: It cannot be exported or run.
    """
    everything = Mask.of_channels(graph, torch.ones_like(graph.frozen))
    dense = compress(graph, everything)
    with tempfile.TemporaryDirectory(prefix="slimgraph-") as folder:
        path = Path(folder) / "dense.onnx"
        export_onnx(dense, path, verify=False, dynamic_batch=batch is not None)
        inputs = feeds(dense, batch)
        found = profile(path, inputs, threads, runs)
        plain = PlainModel.load(graph, path)
    operators = tuple(plain.operators(found))
    overhead = max(found.ms - sum(kernel.ms for kernel in found.kernels), 0.0)
    return LatencyModel(graph, plain, operators, overhead, table or Table(threads), batch)


def feeds(model: torch.fx.GraphModule, batch: int | None = None) -> Inputs:
    """Return random inputs of a model, by name.

    Args:
        model: Traced.
        batch: Examples; `None`: as traced.
    """
    example = bind(model, None)
    given = {name: tensor.numpy() for name, tensor in example.feeds().items()}
    if batch is None:
        return given
    first = example.batch
    return {
        name: np.resize(array, (batch, *array.shape[1:])) if array.shape[:1] == (first,) else array
        for name, array in given.items()
    }
