"""What an export wrote, and how well it agrees with torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgraph.parity import Parity
from slimgraph.runtime import LatencyResult

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, repr=False)
class ExportReport:
    """What an export wrote, and how well it agrees with torch.

    Attributes:
        path: The ONNX file.
        bytes: Its size, with external weights.
        nodes: Number of ONNX nodes.
        opset: Version of the operator set.
        dynamic_batch: Whether the batch size is free.
        parity: Worst result per output over the batch sizes tried; empty if not verified.
        latency: Time per run at the example's batch size, if asked for.
        notes: What the caller should know, such as why the batch size is fixed.
    """

    path: Path
    bytes: int
    nodes: int
    opset: int
    dynamic_batch: bool
    parity: tuple[Parity, ...]
    latency: LatencyResult | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the `export` entry of the JSON report."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "nodes": self.nodes,
            "opset": self.opset,
            "parity": [result.to_dict() for result in self.parity],
            "latency_ms": self.latency and self.latency.to_dict(),
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield what there is to say, as pairs of a heading and its text."""
        yield "file", str(self.path)
        yield "size", f"{self.bytes / 1e6:.2f} MB"
        yield "nodes", f"{self.nodes} (opset {self.opset})"
        yield "batch", "free" if self.dynamic_batch else "fixed"
        for result in self.parity:
            yield f"parity of {result.output}", f"{result.max_rel:.1e} relative"
        if self.latency is not None:
            yield "latency", f"{self.latency.median:.2f} ms"
        for note in self.notes:
            yield "note", note

    def __repr__(self) -> str:
        """Return one line."""
        worst = max((result.max_rel for result in self.parity), default=None)
        parity = "not verified" if worst is None else f"off by {worst:.1e}"
        batch = "free" if self.dynamic_batch else "fixed"
        return (
            f"ExportReport({str(self.path)!r}, {self.bytes / 1e6:.2f} MB, {self.nodes} nodes, "
            f"opset {self.opset}, {batch} batch, {parity})"
        )

    def __rich__(self) -> "Table":
        """Return a table for the terminal."""
        from rich.markup import escape as plain
        from rich.table import Table

        table = Table(show_header=False, title="ONNX export", title_justify="left")
        for heading, text in self.rows():
            table.add_row(plain(heading), plain(text))
        return table

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        cells = "".join(
            f"<tr><th>{escape(heading)}</th><td>{escape(text)}</td></tr>"
            for heading, text in self.rows()
        )
        return f"<table>{cells}</table>"
