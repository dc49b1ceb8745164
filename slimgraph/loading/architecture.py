"""`--arch package.module:factory`: the user's own model class, by name."""

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from slimgraph.errors import SlimgraphError

_FORM = "write it as `--arch package.module:factory`, for example `torchvision.models:resnet18`"


def build(arch: str) -> nn.Module:
    """Make a model of the user's own class.

    Args:
        arch: `package.module:factory`; the folder slimgraph was started in counts as importable,
            and the factory is called without arguments.

    Raises:
        SlimgraphError: There is no such module or factory, or it makes no nn.Module.
    """
    module_name, colon, path = arch.partition(":")
    if not (module_name and colon and path):
        raise SlimgraphError(f"`{arch}` names no factory", hint=_FORM)
    with importable_here():
        found: Any = _import(module_name)
        for name in path.split("."):
            found = _member(found, name, arch)
        if not callable(found):
            raise SlimgraphError(
                f"`{arch}` is a `{type(found).__name__}`, not a factory", hint=_FORM
            )
        try:
            model = found()
        except Exception as error:
            raise SlimgraphError(
                f"`{arch}` fails: {type(error).__name__}: {error}",
                hint="give a factory that needs no arguments, such as a function of your own "
                "that passes them",
            ) from error
    if not isinstance(model, nn.Module):
        raise SlimgraphError(
            f"`{arch}` makes a `{type(model).__name__}`, not an nn.Module",
            hint="name the model's class, or a function that returns the model",
        )
    return model


@contextmanager
def importable_here() -> Iterator[None]:
    """Let modules of the current folder be imported, as `python -m` does."""
    folder = str(Path.cwd())
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        hint = "run slimgraph from the folder the module is in, or install its package"
        if not (name == missing or name.startswith(f"{missing}.")):
            hint = f"`{name}` itself imports `{missing}`; install that"
        raise SlimgraphError(f"there is no module `{missing}`", hint=hint) from error
    except Exception as error:
        raise SlimgraphError(
            f"the module `{name}` cannot be imported: {type(error).__name__}: {error}",
            hint=f"`python -c 'import {name}'` shows the whole error",
        ) from error


def _member(owner: Any, name: str, arch: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    near = difflib.get_close_matches(name, [key for key in dir(owner) if key[0] != "_"], 3)
    hint = f"did you mean {' or '.join(f'`{key}`' for key in near)}?" if near else _FORM
    raise SlimgraphError(f"`{arch}`: there is no `{name}`", hint=hint)
