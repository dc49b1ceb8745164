"""`slimgraph-train`: a recipe as a command, whose options are the recipe's fields."""

import inspect
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
import typer
from rich.console import Console
from torch import nn

from slimgraph.cli import Arch, Debug, Quiet, TrustPickle, amount, progress, run_command
from slimgraph.train.data import load_data
from slimgraph.train.loop import train
from slimgraph.train.recipe import Recipe

_HELP = """
Train a model, compress it and fine-tune what is left, once or in several passes.

Killed at any point, the same command goes on from the last epoch to the same result. Several
processes or machines: put `accelerate launch` before it.

\b
Examples:
  slimgraph-train model.slim --data fashion-mnist --out run --macs 0.5
  slimgraph-train zoo:vgg --data cifar10 --root data --out run --passes 3 \\
      --strategy percentile --share 0.5 --max-removed 0.5 --criterion bn_scale
  accelerate launch -m slimgraph.train model.slim --out run --macs 0.5

MODEL is a file as for `slimgraph-export`, or `package.module:factory` to train from scratch.
"""
_BUDGETS = ("channels", "params", "macs")


def _train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A file, or `module:factory`.")],
    out: Annotated[Path, typer.Option(help="Folder for states and results.", show_default=False)],
    data: Annotated[
        str, typer.Option(help="digits, fashion-mnist, cifar10, cifar100, svhn or imagenet.")
    ] = "digits",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing.")] = False,
    augment: Annotated[bool, typer.Option(help="Flip and shift training images.")] = True,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write its logs.")] = False,
    arch: Arch = None,
    trust_pickle: TrustPickle = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - read before parsing, see run_command
    **options: Any,
) -> None:
    """Train, compress, fine-tune."""
    budgets = {unit: amount(unit, text) for unit in _BUDGETS if (text := options[unit]) is not None}
    recipe = Recipe(**{**options, "keep": tuple(options["keep"] or ()), **budgets})
    images = load_data(data, root, augment=augment, download=download)
    torch.manual_seed(recipe.seed)
    found = _model(model, arch, trust_pickle=trust_pickle)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    silent = quiet or os.environ.get("RANK", "0") != "0"
    with progress(quiet=silent) as show:

        def say(text: str) -> None:
            show(text)
            if not silent and "accuracy" in text:
                console.print(text)

        train(found, images, recipe, out, workers=workers, tensorboard=tensorboard, say=say)


def _model(name: str, arch: str | None, *, trust_pickle: bool) -> nn.Module:
    from slimgraph.loading.architecture import build
    from slimgraph.loading.dispatch import load_model

    if ":" in name and not Path(name).exists():
        return build(name)
    return load_model(name, arch=arch, trust_pickle=trust_pickle).module


def command() -> Callable[..., None]:
    """Return the command as typer wants it: one parameter per option, those of recipes too."""
    given = inspect.signature(_train).parameters.values()
    hints = get_type_hints(Recipe, include_extras=True)
    own = [each for each in given if each.kind is not each.VAR_KEYWORD]
    for field in fields(Recipe):
        kind, default = hints[field.name], field.default
        if field.name in _BUDGETS:  # a share or a whole number
            kind = Annotated[str | None, *kind.__metadata__]
        elif field.name == "keep":
            kind, default = Annotated[list[str] | None, *kind.__metadata__], None
        own.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default,
                              annotation=kind)
        )  # fmt: skip

    def run(**options: Any) -> None:
        _train(**options)

    vars(run)["__signature__"] = inspect.Signature(own)
    run.__annotations__ = {each.name: each.annotation for each in own}
    return run


def main() -> None:
    """Run `slimgraph-train`."""
    try:
        run_command(command(), _HELP)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
