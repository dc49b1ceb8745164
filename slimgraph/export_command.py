"""The work behind `slimgraph-export`: file in, smaller verified ONNX file out."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.table import Table
from torch import fx

from slimgraph import report
from slimgraph.analysis import analyze
from slimgraph.compress import masked
from slimgraph.errors import FileError, SlimgraphError
from slimgraph.files import check_target, draft_of, write_text
from slimgraph.graph import DependencyGraph
from slimgraph.importance import score
from slimgraph.keeping import check_semantics
from slimgraph.loading import load_model
from slimgraph.loading.inputs import InputSpec, trace_with
from slimgraph.mask import Mask
from slimgraph.onnx_export import ExportReport, export_onnx
from slimgraph.parity import compare, require_parity
from slimgraph.pass_manager import Observer, dump_passes
from slimgraph.serialize import save
from slimgraph.shapes import example_inputs
from slimgraph.slimming import SlimResult, check_choice, slim
from slimgraph.tracing import ensure_traced

Say = Callable[[str], None]
_FORMATS = {".html": "html", ".json": "json", ".dot": "dot", ".txt": "text"}


@dataclass(frozen=True)
class Request:
    """What the command line asked for; see `slimgraph-export --help`."""

    model: Path
    onnx: Path
    mask: Path | None = None
    selections: bool = False
    constants: Any = None
    budget: dict[str, float] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    shapes: Sequence[InputSpec] = ()
    arch: str | None = None
    trust_pickle: bool = False
    opset: int | None = None
    reports: tuple[Path, ...] = ()
    save: Path | None = None
    verify: bool = True
    tolerance: float = 1e-4
    time: bool = False
    dump_passes: Path | None = None

    @property
    def limited(self) -> bool:
        """Whether a budget is given."""
        return bool(self.budget) or self.choice.get("latency") is not None


@dataclass(frozen=True, eq=False)
class Done:
    """What the command did.

    Attributes:
        result: The compressed model and its report, with the export filled in.
        export: What was written.
        exactness: Largest relative difference to the masked model in torch; `None` if not
            verified.
        files: Every file written.
    """

    result: SlimResult
    export: ExportReport
    exactness: float | None
    files: tuple[Path, ...]


def run(request: Request, say: Say) -> Done:
    """Load, compress, verify and write.

    Raises:
        SlimgraphError: Whatever goes wrong; then no file is written.
    """
    targets = [request.onnx, *request.reports, *([request.save] if request.save else [])]
    _check_targets(request, targets)
    check_choice(
        request.choice,
        has_budget=request.limited,
        has_mask=request.mask is not None,
        spell=lambda name: f"--{name.replace('_', '-')}",
    )
    check_semantics(request.constants or "zero")
    traced = load_traced(
        request.model, request.shapes, say, arch=request.arch, trust_pickle=request.trust_pickle
    )
    asked: dict[str, Any] = {**request.budget, **request.choice}
    observer = None if request.dump_passes is None else dump_passes(request.dump_passes)
    result = slim(
        traced,
        **asked,
        mask=None if request.mask is None else Mask.load(request.mask),
        selections=request.selections,
        constants=request.constants,
        observer=observer,
        progress=say,
    )
    exactness = None
    if request.verify:
        say("verify against the masked model")
        exactness = _verify(traced, result, request)
    exported = _write(request, result, observer, say)
    return Done(result, exported, exactness, tuple(targets))


def _write(
    request: Request, result: SlimResult, observer: Observer | None, say: Say
) -> ExportReport:
    """Write every file; the others get their names only once the ONNX file is verified."""
    with ExitStack() as stack:
        others = [*request.reports, *([request.save] if request.save else [])]
        drafts = {target: stack.enter_context(draft_of(target)) for target in others}
        for draft in drafts.values():
            draft.touch()  # what cannot be written shows before the ONNX file is there
        if request.save is not None:
            say(f"write {request.save}")
            save(result.model, drafts[request.save])
        exported = export_onnx(
            result.model,
            request.onnx,
            opset=request.opset,
            verify=request.verify,
            tolerance=request.tolerance,
            latency=request.time,
            observer=observer,
            progress=lambda step: say(f"export: {step}"),
        )
        result.report["export"] = exported.to_dict()
        for target in request.reports:
            say(f"write {target}")
            text = report.render(result.report, _format_of(target))
            drafts[target].write_text(text, encoding="utf-8")
    return exported


def _check_targets(request: Request, targets: Sequence[Path]) -> None:
    """Refuse, before any work, what cannot be written or would overwrite a file still needed."""
    taken = {path.resolve() for path in (request.model, request.mask) if path is not None}
    for target in targets:
        check_target(target)
        if target.resolve() in taken:
            raise FileError(
                f"`{target}` would be overwritten: it is read, or written twice",
                hint="give every file a name of its own",
            )
        taken.add(target.resolve())
    for target in request.reports:
        _format_of(target)


def _verify(traced: fx.GraphModule, result: SlimResult, request: Request) -> float:
    """Compare the smaller model with the masked one, or with the model itself if lossless."""
    lossless = not request.limited and request.mask is None
    reference = traced
    if not lossless:
        reference = masked(result.graph, result.mask, constants=request.constants or "zero")
    inputs = example_inputs(traced)
    modes = [(module, module.training) for m in (reference, result.model) for module in m.modules()]
    try:
        with torch.no_grad():
            outputs = [_called(model.eval(), inputs) for model in (reference, result.model)]
    finally:
        for module, training in modes:
            module.training = training
    parity = compare(outputs[0], outputs[1], request.tolerance)
    require_parity(
        parity, "the smaller model and the " + ("given" if lossless else "masked") + " one"
    )
    return max((item.max_rel for item in parity), default=0.0)


def _called(model: fx.GraphModule, inputs: tuple[Any, ...]) -> Any:
    """Run a model on the inputs of its graph, also one that keeps its own forward."""
    return fx.Interpreter(model).run(*inputs) if "regions" in model.meta else model(*inputs)


def load_traced(
    path: Path,
    shapes: Sequence[InputSpec],
    say: Say,
    *,
    arch: str | None,
    trust_pickle: bool,
) -> fx.GraphModule:
    """Load any kind of model file and trace it.

    Raises:
        SlimgraphError: The file cannot be loaded, or the input shapes are missing or wrong.
    """
    say(f"load {path.name}")
    loaded = load_model(path, arch=arch, trust_pickle=trust_pickle)
    if shapes:
        return trace_with(loaded.module, shapes)
    if isinstance(loaded.module, fx.GraphModule) and loaded.traced:
        return ensure_traced(loaded.module)
    raise SlimgraphError(
        f"`{path}` does not say which inputs the model takes",
        hint="add `--input-shape 1,3,224,224`, once per input",
    )


def analyzed(
    path: Path,
    shapes: Sequence[InputSpec],
    say: Say,
    *,
    arch: str | None,
    trust_pickle: bool,
) -> DependencyGraph:
    """Load a model file and find its groups."""
    traced = load_traced(path, shapes, say, arch=arch, trust_pickle=trust_pickle)
    say("group channels")
    return analyze(traced)


def scored(graph: DependencyGraph, criteria: Sequence[str]) -> dict[str, Any]:
    """Return the report of a model, with a histogram for each criterion that needs no data.

    Raises:
        SlimgraphError: See `score`.
    """
    scores = {criterion: score(graph, criterion) for criterion in dict.fromkeys(criteria)}
    data = graph.to_dict(scores=next(iter(scores.values()), None))
    data["histograms"] = [report.histogram(graph, *pair) for pair in scores.items()]
    return data


def _format_of(target: Path) -> str:
    if target.suffix not in _FORMATS:
        raise FileError(
            f"`{target}` names no report format",
            hint=f"let it end in {', '.join(_FORMATS)}",
        )
    return _FORMATS[target.suffix]


def write_report(data: dict[str, Any], target: Path) -> None:
    """Write a report in the format that the file's ending names.

    Raises:
        FileError: The ending is none of .html, .json, .dot, .txt, or the file cannot be written.
    """
    check_report(target)
    write_text(target, report.render(data, _format_of(target)))


def check_report(target: Path) -> None:
    """Refuse a report that could not be written, before any work is done.

    Raises:
        FileError: As for `write_report`.
    """
    check_target(target)
    _format_of(target)


def as_json(done: Done) -> str:
    """Return the report as JSON."""
    return report.render(done.result.report, "json")


def show(done: Done, console: Console) -> None:
    """Print the summary table."""
    totals = done.result.report["totals"]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "before", "after", "remains"):
        table.add_column(heading, justify="left" if not heading else "right")
    for unit, name in (("params", "parameters"), ("macs", "MACs"), ("channels", "channels")):
        before, after = totals["before"][unit], totals["after"][unit]
        share = f"{100 * after / before:.1f} %" if before else "-"
        table.add_row(name, f"{before:,}", f"{after:,}", share)
    if (time := done.result.report["settings"].get("latency")) is not None:
        ms = (f"{time[key]:.2f} ms" for key in ("dense_ms", "slim_ms"))
        table.add_row("onnxruntime", *ms, f"{100 * time['share']:.1f} %")
    notes = [f"{done.export!r}"]
    if done.exactness is not None:
        notes.append(f"smaller against masked model in torch: off by {done.exactness:.1e}")
    notes += [f"note: {note}" for note in done.export.notes]
    if totals["before"]["channels"] == totals["after"]["channels"]:
        notes.append("no channel left: none is dead, and no mask or budget asked for more")
    notes += [f"wrote {path}" for path in done.files]
    console.print(Group(table, *notes), soft_wrap=True, markup=False)
