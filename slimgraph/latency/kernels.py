"""What onnxruntime spends its time on: its kernels, as its profiler tells them."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from slimgraph.errors import OnnxExportError
from slimgraph.runtime import Inputs, run_session

_KERNEL = "_kernel_time"
LAYOUT = ("ReorderInput", "ReorderOutput")  # ops that only change between layouts of memory


@dataclass(frozen=True)
class Kernel:
    """One operator as onnxruntime runs it.

    Attributes:
        name: Of the fused node.
        op: Its type.
        blocked: Whether channels lie in blocks in memory (NCHWc), which is faster.
        ms: Of a run, in milliseconds.
    """

    name: str
    op: str
    blocked: bool
    ms: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a run goes.

    Attributes:
        kernels: In the order they run in.
        ms: Of a whole run, in milliseconds: kernels and what lies between them.
    """

    kernels: tuple[Kernel, ...]
    ms: float


def profile(
    model: str | Path | bytes, inputs: Inputs, threads: int = 1, runs: int = 10, warmup: int = 2
) -> Profile:
    """Run a model under onnxruntime's profiler.

    Each kernel's time is its least over all runs, since other programs only ever make one longer;
    a whole run is their sum, and the least that a run spends beside them.

    Args:
        model: A path, or the file's content.
        inputs: A value per model input.
        threads: How many an operator may use.
        runs: How many count.
        warmup: How many run before.

    Raises:
        OnnxExportError: onnxruntime cannot load or run the model.
    """
    with tempfile.TemporaryDirectory(prefix="slimgraph-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise OnnxExportError(f"onnxruntime cannot load the model: {error}") from error
        try:
            for _ in range(warmup + runs):
                run_session(session, inputs)
        finally:
            path = session.end_profiling()
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    return _summed(events, warmup)


def _summed(events: list[dict[str, Any]], warmup: int) -> Profile:
    """Put the events of all runs together."""
    times: dict[str, list[float]] = {}
    facts: dict[str, tuple[str, bool]] = {}
    for event in events:
        name = event["name"]
        if event["cat"] == "Node" and name.endswith(_KERNEL):
            key = f"{event['args']['node_index']} {name.removesuffix(_KERNEL)}"
            times.setdefault(key, []).append(event["dur"] / 1000)
            op = event["args"]["op_name"]
            facts[key] = op, "_nchwc" in name
    whole = [event["dur"] / 1000 for event in events if event["name"] == "model_run"]
    inside = [sum(found) for found in zip(*times.values(), strict=False)]
    between = [max(run - own, 0.0) for run, own in zip(whole, inside, strict=False)]
    kernels = tuple(
        Kernel(key.partition(" ")[2], *facts[key], min(found[warmup:]))
        for key, found in times.items()
    )
    return Profile(kernels, sum(kernel.ms for kernel in kernels) + min(between[warmup:]))
