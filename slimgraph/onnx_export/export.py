"""The way from a graph module to a checked ONNX file.

export_onnx()
    +-- a private copy in eval mode, batch norms folded, identities and dead nodes gone
    +-- Draft.write(): torch.export and torch.onnx, with a free batch size if the model allows it
    +-- onnxruntime against torch, at two batch sizes
    +-- the draft moves to its place

Whatever fails, the folder is left as it was.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from slimgraph.cloning import isolated, run_isolated
from slimgraph.errors import FileError, OnnxExportError
from slimgraph.onnx_export.draft import Draft, check_opset, facts, first_line
from slimgraph.onnx_export.examples import ExampleInputs, Examples, bind
from slimgraph.onnx_export.report import ExportReport
from slimgraph.parity import Parity, compare, named_leaves, require_parity, worst_of
from slimgraph.pass_manager import Observer, Pipeline
from slimgraph.passes.eliminate_dead_nodes import EliminateDeadNodes
from slimgraph.passes.eliminate_identity import EliminateIdentity
from slimgraph.passes.fold_batch_norm import FoldBatchNorm
from slimgraph.runtime import measure_latency, open_session, run_session

Progress = Callable[[str], None]

# A protobuf file ends at 2 GiB; the graph itself needs some of it.
EXTERNAL_DATA_ABOVE = 2**31 - 2**27
PASSES = (EliminateIdentity(), FoldBatchNorm(), EliminateDeadNodes())


def export_onnx(  # noqa: PLR0913 - every option is a keyword here and a flag of the command line
    graph_module: GraphModule,
    path: str | Path,
    *,
    example_inputs: ExampleInputs | None = None,
    opset: int | None = None,
    dynamic_batch: bool = True,
    verify: bool = True,
    tolerance: float = 1e-4,
    latency: bool = False,
    optimize: bool = True,
    progress: Progress | None = None,
    observer: Observer | None = None,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
) -> ExportReport:
    """Write a model as ONNX, in eval mode, after comparing the file with torch in onnxruntime.

    Args:
        graph_module: The model; it is not changed and keeps its training flags.
        path: The file to write. It is replaced at once at the very end, or not at all.
        example_inputs: A tensor, a tuple, or a dict by input name; `None` draws random ones of
            the recorded shapes.
        opset: Version of the operator set; `None` leaves it to torch. From 18 on torch writes it
            itself; older ones, down to 7, are reached by ONNX's converter, which does not know
            every op: then that is an error.
        dynamic_batch: Whether the first dim of the inputs shall be free. Where the model itself
            fixes it, the file does too and the report has a note.
        verify: Whether to compare with torch in onnxruntime.
        tolerance: Largest allowed difference, relative to the output's largest absolute value
            (dimensionless); for types narrower than float32 see `parity.compare`.
        latency: Whether to time the file in onnxruntime.
        optimize: Whether torch.onnx shall simplify the graph.
        progress: Called with the name of every step when it starts.
        observer: Called after each pass with its name and the graph before and after.
        external_data_above: Size of the weights, in bytes, above which they go to a file of their
            own, `path` + `.data`.

    Returns:
        What was written.

    Raises:
        FileError: The folder is missing or cannot be written.
        OnnxExportError: torch, ONNX or onnxruntime refuse the model.
        ParityError: An output differs from torch's by more than the tolerance.
    """
    destination = Path(path)
    say = progress or (lambda _: None)
    with _draft_folder(destination) as folder, _silence():
        check_opset(opset)
        say("prepare")
        model = _on_cpu(isolated(graph_module).eval())
        example = bind(model, example_inputs)
        _check_numbers(model, example)
        draft = Draft(folder / destination.name, opset, optimize, external_data_above)
        # What only a model's own forward uses, passes would take for dead.
        passes = () if "regions" in model.meta else PASSES
        prepared = Pipeline(passes, observer=observer).run(model)
        job = _Job(model, prepared, example, draft, tolerance if verify else None, say)
        report = job.run(destination, free=dynamic_batch, latency=latency)
        _publish(folder, destination)
    return report


class _FixedBatchError(Exception):
    """The model cannot be exported with a free batch size."""


@dataclass(frozen=True)
class _Job:
    """One export; a tolerance of `None` means not to verify."""

    model: GraphModule
    prepared: GraphModule
    example: Examples
    draft: Draft
    tolerance: float | None
    say: Progress

    def run(self, destination: Path, *, free: bool, latency: bool) -> ExportReport:
        """Make the draft and report on it."""
        reference = self.reference(self.example)
        parity, note = None, ""
        if free and self.example.batch is not None:
            try:
                parity = self.attempt(reference, free=True)
            except _FixedBatchError as error:
                note = f"the batch size is fixed at {self.example.batch}: {error}"
        free = parity is not None
        if parity is None:
            parity = self.attempt(reference, free=False)
        time = None
        if latency:
            self.say("measure")
            time = measure_latency(self.draft.path, self.example.feeds())
        nodes, opset = facts(self.draft.path)
        size = sum(file.stat().st_size for file in self.draft.path.parent.iterdir())
        notes = (note,) if note else ()
        return ExportReport(destination, size, nodes, opset, free, parity, time, notes)

    def attempt(self, reference: dict[str, Tensor], *, free: bool) -> tuple[Parity, ...]:
        """Write and verify the draft, with a free or a fixed batch size."""
        self.say("translate")
        example = self.example.with_batch(max(self.example.batch or 0, 2)) if free else self.example
        try:
            self.draft.write(self.prepared, example, tuple(reference), free=free)
        except OnnxExportError as error:
            if free:
                raise _FixedBatchError(error.message) from error
            raise
        self.draft.check()
        if self.tolerance is None:
            return ()
        self.say("verify")
        session = self.session()
        if not free:
            outputs = run_session(session, self.example.feeds())
            return self.compare(self.example, reference, outputs)
        results = [self.verify(session, self.example, reference)]
        # A size that was not captured; at 1 squeezing and broadcasting differ.
        other = self.example.with_batch(3 if self.example.batch == 1 else 1)
        results.append(self.verify(session, other))
        return worst_of(results)

    def session(self) -> Any:
        """Open the draft in onnxruntime."""
        try:
            return open_session(self.draft.path)
        except OnnxExportError as error:
            floats = {t.dtype for t in self.model.state_dict().values() if t.is_floating_point()}
            others = sorted(str(dtype).partition(".")[2] for dtype in floats - {torch.float32})
            kind = f" in {' and '.join(others)}" if others else ""
            raise OnnxExportError(
                error.message,
                hint=f"onnxruntime may lack this operator{kind} on the CPU: export "
                "`model.float()`, or write the file unverified with `verify=False`",
            ) from error

    def reference(self, example: Examples) -> dict[str, Tensor]:
        """Run the model in torch and name its outputs, apart from the inputs' names."""
        try:
            outputs = run_isolated(self.model, example.values)
        except Exception as error:
            raise OnnxExportError(
                f"the model fails on the example inputs with {type(error).__name__}: "
                f"{first_line(error)}",
                hint="give `example_inputs` that the model accepts",
            ) from error
        named: dict[str, Tensor] = {}
        for name, leaf in named_leaves(outputs):
            if isinstance(leaf, Tensor):
                named[f"{name}_out" if name in example.names else name] = leaf
        if not named:
            raise OnnxExportError("the model returns no tensor")
        return named

    def verify(
        self, session: Any, example: Examples, reference: dict[str, Tensor] | None = None
    ) -> tuple[Parity, ...]:
        """Check a file with a free batch size at one of them."""
        try:
            reference = self.reference(example) if reference is None else reference
            outputs = run_session(session, example.feeds())
        except OnnxExportError as error:
            raise _FixedBatchError(f"at {example.batch}, {error.message}") from error
        if any(outputs[name].shape != tensor.shape for name, tensor in reference.items()):
            raise _FixedBatchError(f"at {example.batch}, the outputs' shapes would be others")
        return self.compare(example, reference, outputs)

    def compare(
        self, example: Examples, reference: dict[str, Tensor], outputs: Mapping[str, Any]
    ) -> tuple[Parity, ...]:
        """Compare onnxruntime's outputs with torch's."""
        results = compare(reference, outputs, self.tolerance)
        require_parity(results, "onnxruntime and torch", f"a batch of {example.batch}")
        return results


def _on_cpu(graph_module: GraphModule) -> GraphModule:
    """Replace the tensors of a private copy that lie elsewhere."""
    for module in graph_module.modules():
        for store in ("_parameters", "_buffers"):
            held = vars(module).get(store, {})
            for name, tensor in held.items():
                if tensor is None or tensor.device.type == "cpu":
                    continue
                if tensor.is_meta:
                    raise OnnxExportError(
                        f"`{name}` of a `{type(module).__name__}` has no data, only a shape",
                        hint="load the weights first",
                    )
                moved = tensor.detach().cpu()
                held[name] = nn.Parameter(moved) if store == "_parameters" else moved
    return graph_module


def _check_numbers(model: GraphModule, example: Examples) -> None:
    """Refuse what no ONNX file can hold or nobody wants in one."""
    stored = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in (stored | example.feeds()).items():
        if tensor.is_complex():
            raise OnnxExportError(
                f"`{name}` is complex, which ONNX cannot compute with",
                hint="keep real and imaginary part apart, as `torch.view_as_real` does",
            )
        if name in stored and tensor.is_floating_point() and tensor.isnan().any():
            raise OnnxExportError(
                f"`{name}` holds NaN", hint="the training diverged, or the file is damaged"
            )
    if example.batch == 0:
        raise OnnxExportError("the example inputs have a batch of 0", hint="give at least one")


@contextmanager
def _draft_folder(destination: Path) -> Iterator[Path]:
    """Make a folder beside the destination, so that moving the draft is renaming it."""
    if destination.is_dir():
        raise FileError(f"`{destination}` is a folder", hint="name a file in it")
    try:
        folder = tempfile.TemporaryDirectory(
            dir=destination.parent, prefix=f".{destination.name}.", ignore_cleanup_errors=True
        )
    except OSError as error:
        raise FileError(
            f"cannot write `{destination}`: {error.strerror}",
            hint="create the folder first, or choose one you may write to",
        ) from error
    with folder as name:
        yield Path(name)


def _publish(folder: Path, destination: Path) -> None:
    """Move the draft to its place, the graph last; if that fails, what was there is there again."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == destination.name)
    old = folder / "old"
    old.mkdir()
    moved: list[Path] = []
    try:
        for file in files:
            target = destination.with_name(file.name)
            with suppress(FileNotFoundError):
                os.link(target, old / file.name)
            file.replace(target)
            moved.append(target)
    except OSError as error:
        for target in moved:
            target.unlink()
            with suppress(FileNotFoundError):
                (old / target.name).replace(target)
        raise FileError(f"cannot write `{destination}`: {error.strerror}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the warnings and log lines of torch.onnx and its helpers off the console."""
    roots = ("torch", "onnxscript", "onnx_ir", "onnx")
    below = [name for name in logging.root.manager.loggerDict if name.startswith(roots)]
    levels = {name: logging.getLogger(name).level for name in (*roots, *below)}
    try:
        for name, level in levels.items():
            if level or name in roots:  # the others inherit
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            if level or name in roots:
                logging.getLogger(name).setLevel(level)
