"""`slimgraph-bench`: ONNX files side by side."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slimgraph.cli import Debug, Json, Quiet, progress, run_command
from slimgraph.files import check_target, write_text

_HELP = """
Time ONNX files in onnxruntime, in turns, and show which operators take how long.

What else the machine does meets all files alike, since they run by turns; ratios are to the first
file, the median over all rounds with quartiles.

\b
Examples:
  slimgraph-bench dense.onnx slim.onnx
  slimgraph-bench dense.onnx slim.onnx --threads 2 --batch 8 --output times.json
"""


def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The ONNX files.")],
    threads: Annotated[int, typer.Option(help="An operator may use so many.")] = 1,
    batch: Annotated[int, typer.Option(help="First dim of inputs that leave it free.")] = 1,
    rounds: Annotated[int, typer.Option(help="How often each file has its turn.")] = 15,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="FILE.json.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - read before parsing, see run_command
) -> None:
    """Time files in turns."""
    from slimgraph.latency.bench import bench as run

    if output is not None:
        check_target(output)
    with progress(quiet=quiet) as say:
        found = run(files, threads=threads, batch=batch, rounds=rounds, progress=say)
    text = json.dumps(found.to_dict(), indent=2) + "\n"
    if output is not None:
        write_text(output, text)
    if as_json:
        sys.stdout.write(text)
    elif not quiet:
        Console(highlight=False).print(found)


def main() -> None:
    """Run `slimgraph-bench`."""
    run_command(bench, _HELP)
