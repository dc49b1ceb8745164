"""Modules and ops of other libraries that a file may name.

A file says only which of these it needs; the library is imported because it is in the tables below,
or the op is called because the caller of `load` names it. Nothing else is imported or called.
"""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from slimgraph.errors import FileError
from slimgraph.serialize.errors import MalformedError

# Modules without parameters that act in training only, by their name in files.
_MODULES: Mapping[str, tuple[str, str]] = {
    "torchvision.StochasticDepth": ("torchvision.ops", "StochasticDepth"),
    "timm.DropPath": ("timm.layers", "DropPath"),
}
_OPS = frozenset(
    f"torchvision::{name}"
    for name in ("deform_conv2d", "ps_roi_align", "ps_roi_pool", "roi_align", "roi_pool")
)
_NAME = re.compile(r"torch\.ops\.([A-Za-z]\w*)\.([A-Za-z]\w*)(?:\.(\w+))?", re.ASCII)
_permitted: ContextVar[frozenset[str]] = ContextVar("_permitted", default=frozenset())


def name_of_module(kind: type[nn.Module]) -> str | None:
    """Return the name that a module class of another library has in files, if it may be named."""
    library = kind.__module__.partition(".")[0]
    name = f"{library}.{kind.__name__}"
    if name not in _MODULES:
        return None
    module, attribute = _MODULES[name]
    return name if getattr(importlib.import_module(module), attribute, None) is kind else None


def module_class(name: str) -> type[nn.Module] | None:
    """Return the class of that name; its library is imported."""
    if name not in _MODULES:
        return None
    module, attribute = _MODULES[name]
    found: type[nn.Module] = getattr(importlib.import_module(module), attribute)
    return found


def name_of_op(function: Any) -> str | None:
    """Return the name of an op that some library registers with torch; `None` for all else."""
    if not isinstance(function, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return None
    name = f"torch.ops.{function}"
    return name if op_of_name(name) else None


def op_of_name(name: str) -> str | None:
    """Return the `library::op` that a name in a file means; `None` for an op of torch's own."""
    found = _NAME.fullmatch(name)
    if found is None or found[1] in ("aten", "prim", "prims", "higher_order", "quantized"):
        return None
    return f"{found[1]}::{found[2]}"


def find_op(name: str) -> Any:
    """Return the op that a file names.

    Raises:
        MalformedError: Nobody has allowed it, or nothing registers it.
    """
    op = op_of_name(name)
    if op is None:
        return None
    if op not in _OPS and op not in _permitted.get():
        raise MalformedError(
            f"it calls `{op}`, an op that is not part of torch; import what registers it, and "
            f'allow it with `load(path, ops=["{op}"])` if you trust it'
        )
    match = _NAME.fullmatch(name)
    assert match is not None, "`op_of_name` has matched it"
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    found = packet if match[3] is None else getattr(packet, match[3], None)
    if found is None:
        raise MalformedError(f"nothing registers the op `{op}`; import the module that does")
    return found


@contextmanager
def permitted(ops: Collection[str]) -> Iterator[None]:
    """Allow ops that other libraries register, by name: `mylib::op`."""
    token = _permitted.set(frozenset(ops))
    try:
        yield
    finally:
        _permitted.reset(token)


def libraries(names: Collection[str]) -> list[str]:
    """Return the libraries that a file with these modules and ops needs, to be imported."""
    needed = {name.partition(".")[0] for name in names if name in _MODULES}
    needed |= {op.partition("::")[0] for op in map(op_of_name, names) if op in _OPS}
    return sorted(needed)


def import_all(needed: Any) -> None:
    """Import the libraries that a file needs.

    Args:
        needed: What the file says.

    Raises:
        FileError: One of them is not installed.
        MalformedError: It may not name such a library.
    """
    known = {name.partition(".")[0] for name in _MODULES} | {"torchvision"}
    if not isinstance(needed, list) or not all(name in known for name in needed):
        raise MalformedError(f"it needs {needed!r}, which no saved model may")
    for name in needed:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise FileError(
                f"the model needs `{name}`, which cannot be imported", hint=f"pip install {name}"
            ) from error
