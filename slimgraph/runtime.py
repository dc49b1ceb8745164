"""ONNX files in onnxruntime: opening them, running them, and how long a run takes."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from slimgraph.errors import OnnxExportError

Inputs = Mapping[str, Tensor | np.ndarray[Any, Any]]


@dataclass(frozen=True)
class LatencyResult:
    """Wall-clock time of single runs.

    Attributes:
        median: Of all runs, in milliseconds.
        min: Fastest run, in milliseconds.
        max: Slowest run, in milliseconds.
        runs: How many were timed.
        threads: How many a run may use.
    """

    median: float
    min: float
    max: float
    runs: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return the `latency_ms` entry of the JSON report."""
        return asdict(self)


def open_session(model: str | Path | bytes, threads: int = 1) -> Any:
    """Load an ONNX model on the CPU, without a word on the console.

    Args:
        model: A path, or the file's content.
        threads: How many a single operator may use.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        OnnxExportError: onnxruntime refuses the model or lacks one of its kernels.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions anyway
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise OnnxExportError(f"onnxruntime cannot load the model: {_reason(error)}") from error


def run_session(session: Any, inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
    """Run a session once and return its outputs by name.

    Raises:
        OnnxExportError: onnxruntime fails on these inputs.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(None, arrays_of(inputs)), strict=True))
    except Exception as error:
        raise OnnxExportError(f"onnxruntime cannot run the model: {_reason(error)}") from error


def measure_latency(
    model: str | Path | bytes,
    inputs: Inputs,
    threads: int = 1,
    runs: int = 20,
    warmup: int = 5,
) -> LatencyResult:
    """Time an ONNX model in onnxruntime on the CPU.

    Args:
        model: A path, or the file's content.
        inputs: A value per model input.
        threads: How many a run may use.
        runs: How many are timed, at least 1.
        warmup: How many run before.

    Returns:
        Median, fastest and slowest run in milliseconds.

    Raises:
        OnnxExportError: onnxruntime cannot load or run the model.
    """
    session = open_session(model, threads)
    arrays = arrays_of(inputs)
    for _ in range(warmup):
        run_session(session, arrays)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run_session(session, arrays)
        times.append((time.perf_counter() - start) * 1000)
    return LatencyResult(statistics.median(times), min(times), max(times), runs, threads)


def arrays_of(inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs as onnxruntime takes them."""
    return {
        name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def _reason(error: Exception) -> str:
    """Return onnxruntime's message without its prefix and its private paths."""
    text = str(error).partition("\n")[0]
    return text.rpartition(" : ")[2].strip() or type(error).__name__
