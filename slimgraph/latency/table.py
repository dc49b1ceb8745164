"""The table: how long operators take at the sizes that matter, kept on disk."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from slimgraph.errors import OnnxExportError
from slimgraph.files import write_text
from slimgraph.labels import Shape
from slimgraph.latency.kernels import LAYOUT, profile
from slimgraph.latency.small_models import one_operator

Spec = tuple[Sequence[onnx.NodeProto], Sequence[Shape | None], Shape]
SAVE_EVERY = 64
RUNS, MOST_MS = 15, 120.0  # of one measurement


def machine() -> str:
    """Name the processor."""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return f"{names[0]} x{os.cpu_count()}"
    return f"{platform.machine()} {platform.processor()} x{os.cpu_count()}"


def cache_folder() -> Path:
    """Return where tables lie: `SLIMGRAPH_CACHE`, or the user's folder for caches."""
    own = os.environ.get("SLIMGRAPH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "slimgraph"


@dataclass(eq=False)
class Table:
    """Times of single operators on this machine, measured when they are first asked for.

    It is mutable because it grows.

    Attributes:
        threads: How many an operator may use.
        folder: Where it is kept; `None` keeps it in memory only.
        measured: How many were measured and not read.
    """

    threads: int = 1
    folder: Path | None = field(default_factory=cache_folder)
    measured: int = 0
    on_measure: Callable[[int], None] = field(default=lambda _: None, repr=False)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the times depend on beside the operator."""
        return {
            "machine": machine(), "onnxruntime": ort.__version__, "threads": self.threads,
            "precision": "float32",
        }  # fmt: skip

    @cached_property
    def path(self) -> Path | None:
        """The file."""
        if self.folder is None:
            return None
        code = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / "latency" / f"{code}.json"

    @cached_property
    def times(self) -> dict[str, float]:
        """Milliseconds, by operator and sizes; empty if the file is of no use."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(k): float(v) for k, v in document["ms"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # it is measured anew

    def save(self) -> None:
        """Write what was measured; a folder that cannot be written is no error."""
        if self.path is None:
            return
        document = self.facts | {"ms": self.times}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(document, indent=0, sort_keys=True) + "\n")
        except OSError:
            self.folder = None

    def ms(self, spec: Spec, constants: Mapping[str, onnx.TensorProto]) -> float:
        """Return how long an operator takes, in milliseconds.

        Args:
            spec: Its plain nodes, the shapes of its inputs and of its output.
            constants: Of the plain model.

        Raises:
            OnnxExportError: onnxruntime does not run it at that size.
        """
        key = spelled(spec)
        if key not in self.times:
            self.times[key] = self._measured(spec, constants)
            self.measured += 1
            self.on_measure(self.measured)
            if self.measured % SAVE_EVERY == 0:
                self.save()
        return self.times[key]

    def _measured(self, spec: Spec, constants: Mapping[str, onnx.TensorProto]) -> float:
        model, feeds = one_operator(*spec, constants)
        first = profile(model, feeds, self.threads, runs=3, warmup=2)
        runs = int(min(RUNS, MOST_MS / max(first.ms, 1e-3)))
        found = profile(model, feeds, self.threads, runs, 2) if runs > 3 else first
        kernels = [kernel for kernel in found.kernels if kernel.op not in LAYOUT]
        if not kernels:
            raise OnnxExportError("onnxruntime runs nothing for it")
        return sum(kernel.ms for kernel in kernels)


def spelled(spec: Spec) -> str:
    """Spell an operator and its sizes, as the table's keys do."""
    nodes, inputs, output = spec
    ops = []
    for node in nodes:
        told = sorted(
            f"{a.name}={onnx.helper.get_attribute_value(a)}"
            for a in node.attribute
            if a.name != "group"
        )
        groups = "".join(f"group={a.i}" for a in node.attribute if a.name == "group" and a.i > 1)
        ops.append(f"{node.op_type}({','.join(told)}{';' + groups if groups else ''})")
    shapes = [("const" if s is None else "x".join(map(str, s))) for s in (*inputs, output)]
    return f"{'+'.join(ops)} {' '.join(shapes)}"
