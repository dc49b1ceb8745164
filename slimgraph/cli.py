"""The commands: arguments in, exit code out. 0 done, 1 a slimgraph error, 2 wrong usage."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from slimgraph.errors import SlimgraphError

if TYPE_CHECKING:
    from slimgraph.loading.inputs import InputSpec

_EXPORT_HELP = """
Make a PyTorch model smaller and write it as verified ONNX.

Without a mask and a budget, only channels leave that are dead already, which changes no output.

\b
Examples:
  slimgraph-export model.slim --onnx out.onnx
  slimgraph-export model.slim --onnx out.onnx --macs 0.5 --report report.html
  slimgraph-export weights.pt --arch torchvision.models:resnet18 \\
      --input-shape 1,3,224,224 --onnx out.onnx --params 0.3 --round-to 8
  slimgraph-export model.slim --mask mask.safetensors --onnx out.onnx --save small.slim

MODEL may be what `slimgraph.save` wrote, a `torch.export` archive, a state dict or safetensors
file (with --arch), or a pickled module (with --trust-pickle); its content tells, not its name.
"""
_REPORT_HELP = """
Show which channels of a model can only leave together, and what keeps the others.

\b
Examples:
  slimgraph-report model.slim
  slimgraph-report model.slim --report groups.html
  slimgraph-report model.slim --explain layer1.0.conv2
  slimgraph-report model.slim --explain layer1.0.conv2 --explain layer1.1.conv2
  slimgraph-report --compare one.json other.json
"""

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)]
Arch = Annotated[
    str | None,
    typer.Option(help="`package.module:factory` that makes the model for a state dict; imported."),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Unpickle a whole module: RUNS CODE from the file.")
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(help="Such as 1,3,224,224 or ids=1,7:int64; once per input.", show_default=False),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Write the report as JSON to stdout.")]


def export(
    model: Model,
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.", show_default=False)],
    mask: Annotated[Path | None, typer.Option(help="What to keep: a saved `Mask`.")] = None,
    channels: Annotated[str | None, typer.Option(help="Share or number that remains.")] = None,
    params: Annotated[str | None, typer.Option(help="Share or number that remains.")] = None,
    macs: Annotated[str | None, typer.Option(help="Share or number that remains.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="Share of the time that remains, or 12ms; measured here.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of onnxruntime, for `--latency`.")] = 1,
    criterion: Annotated[
        str, typer.Option(help="auto (l2), l1, bn_scale, oicsr, fpgm, lamp or random.")
    ] = "auto",
    order: Annotated[str, typer.Option(help="per_cost or score.")] = "per_cost",
    heads: Annotated[str, typer.Option(help="dims of every head, or whole heads.")] = "dims",
    round_to: Annotated[int, typer.Option(help="Keep multiples of this many channels.")] = 1,
    max_removed: Annotated[float, typer.Option(help="Largest share a group loses.")] = 1.0,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Group, module, parameter to keep whole; `*` matches."),
    ] = None,
    seed: Annotated[int, typer.Option(help="For `--criterion random`.")] = 0,
    selections: Annotated[
        bool, typer.Option("--selections", help="Let each reader of a value drop other channels.")
    ] = False,
    constants: Annotated[
        str | None, typer.Option(help="zero or keep: what a channel that leaves counts as.")
    ] = None,
    input_shape: InputShape = None,
    arch: Arch = None,
    trust_pickle: TrustPickle = False,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.")] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="FILE.html, .json, .dot or .txt; repeatable.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Save the smaller model as FILE.slim.")] = None,
    verify: Annotated[bool, typer.Option(help="Compare with torch in onnxruntime.")] = True,
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 1e-4,
    time: Annotated[bool, typer.Option("--time", help="Time the file in onnxruntime.")] = False,
    dump_passes: Annotated[
        Path | None, typer.Option(help="Folder for the graph before and after each pass.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - read before parsing, see run_command
) -> None:
    """Make a model smaller and write it as ONNX."""
    from slimgraph import export_command

    budgets = {"channels": channels, "params": params, "macs": macs}
    request = export_command.Request(
        model=model,
        onnx=onnx,
        mask=mask,
        selections=selections,
        constants=constants,
        budget={unit: amount(unit, text) for unit, text in budgets.items() if text is not None},
        choice={
            "latency": latency,
            "threads": threads,
            "criterion": criterion,
            "order": order,
            "heads": heads,
            "round_to": round_to,
            "max_removed": max_removed,
            "keep": tuple(keep or ()),
            "seed": seed,
        },
        shapes=_inputs(input_shape),
        arch=arch,
        trust_pickle=trust_pickle,
        opset=opset,
        reports=tuple(report or ()),
        save=save,
        verify=verify,
        tolerance=tolerance,
        time=time,
        dump_passes=dump_passes,
    )
    with progress(quiet=quiet) as say:
        done = export_command.run(request, say)
    if not quiet:
        export_command.show(done, Console(stderr=True, highlight=False))
    if as_json:
        _print(export_command.as_json(done))


def inspect(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two reports, as JSON: what is left in each.", show_default=False),
    ] = None,
    explain: Annotated[
        list[str] | None,
        typer.Option(help="One name: what keeps it. Two: what ties them.", show_default=False),
    ] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(help="Show how scores are spread: l1, l2, ...; repeatable."),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(help="With one name to explain: what keeps this channel.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--report", "--output", "-o", help="FILE.html, .json, .dot or .txt."),
    ] = None,
    input_shape: InputShape = None,
    arch: Arch = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - read before parsing, see run_command
) -> None:
    """Show the groups of a model."""
    from slimgraph import export_command

    names = _names(explain or [], channel)
    if compare is not None:
        _compare(compare, as_json=as_json, alone=not (model or names or output or criterion))
        return
    if model is None:
        raise typer.BadParameter("give a model, or `--compare` two reports", param_hint="MODEL")
    if output is not None:
        _check_output(output, model)
    with progress(quiet=quiet) as say:
        shapes = _inputs(input_shape)
        graph = export_command.analyzed(model, shapes, say, arch=arch, trust_pickle=trust_pickle)
    if names:
        _print(str(graph.explain(*names, channel=channel)))
        return
    data = export_command.scored(graph, criterion or [])
    _show(data, output, as_json=as_json, quiet=quiet)


def _show(data: dict[str, Any], output: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Write a report, and print it where that was asked for."""
    from slimgraph import export_command, report

    if output is not None:
        export_command.write_report(data, output)
    if as_json:
        _print(report.render(data, "json"))
    elif output is None and not quiet:
        _print(report.render(data, "text"))


def _compare(paths: tuple[Path, Path], *, as_json: bool, alone: bool) -> None:
    """Print what two reports differ in."""
    from slimgraph import report

    if not alone:
        raise typer.BadParameter("it goes with `--json` only", param_hint="--compare")
    reports = report.load(paths[0]), report.load(paths[1])
    found = report.Comparison((str(paths[0]), str(paths[1])), reports)
    _print(json.dumps(found.as_json(), indent=2) if as_json else report.printed(found))


def _check_output(output: Path, model: Path) -> None:
    from slimgraph import export_command

    if output.resolve() == model.resolve():
        raise typer.BadParameter("it is MODEL itself", param_hint="--report")
    export_command.check_report(output)


def _names(explain: list[str], channel: int | None) -> list[str]:
    """Check that what is to be explained is one question."""
    if len(explain) > 2:
        raise typer.BadParameter("give one name or two", param_hint="--explain")
    if channel is not None and len(explain) != 1:
        raise typer.BadParameter("give one `--explain NAME` with it", param_hint="--channel")
    return explain


def amount(unit: str, text: str) -> float:
    """Read a budget: digits alone are a count, anything else a share.

    Raises:
        typer.BadParameter: It is neither.
    """
    try:
        return int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a share such as 0.5 nor a whole number", param_hint=f"--{unit}"
        ) from None


def _inputs(texts: list[str] | None) -> "list[InputSpec]":
    from slimgraph.loading.inputs import InputSpec

    try:
        return [InputSpec.parse(text) for text in texts or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--input-shape") from error


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show the current step on stderr; on a terminal it moves, elsewhere it stays silent."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("load", total=None)
        yield lambda step: bar.update(task, description=step)


def run_command(function: Callable[..., Any], help_text: str) -> None:
    """Run a function as a command; errors become one sentence and exit code 1."""
    app = typer.Typer(
        add_completion=True, pretty_exceptions_enable=False, context_settings=_CONTEXT
    )
    app.command(help=help_text, no_args_is_help=True)(function)
    debug = "--debug" in sys.argv
    if not debug:
        warnings.simplefilter("ignore")
    try:
        app()
    except SlimgraphError as error:
        if debug:
            raise
        _fail(str(error))
    except Exception as error:  # the last resort: users get a sentence, not a traceback
        if debug:
            raise
        _fail(
            f"unexpected {type(error).__name__}: {error}\n\n"
            "hint: run again with `--debug` and report what it prints"
        )


_CONTEXT = {"help_option_names": ["-h", "--help"]}


def _fail(message: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error: ", style="bold red", end="")
    console.print(message, markup=False)
    sys.exit(1)


def export_main() -> None:
    """Run `slimgraph-export`."""
    run_command(export, _EXPORT_HELP)


def report_main() -> None:
    """Run `slimgraph-report`."""
    run_command(inspect, _REPORT_HELP)
