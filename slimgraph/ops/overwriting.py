"""Ops that write into one of their arguments."""

import inspect
import operator

import torch
from torch import fx, nn

_IN_PLACE = {
    name
    for name in vars(operator)
    if name.startswith("i") and hasattr(operator, f"__{name}__")
} - {"index", "inv", "invert"} | {"setitem"}  # fmt: skip


def overwrites(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a call writes into one of its arguments.

    Args:
        node: The call, of a torch op or a torch.nn module.
        root: Holds the module.
    """
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.strip("_") in _IN_PLACE:
        return True
    marked = name.endswith("_") and not name.endswith("__") and not hasattr(operator, name)
    return marked or "out" in node.kwargs or _asks_for_it(node)


def _asks_for_it(node: fx.Node) -> bool:
    """Find `inplace=True`, by name or by position."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    if node.op == "call_method" or not inspect.isfunction(node.target):
        return False
    try:
        bound = inspect.signature(node.target).bind_partial(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return True  # nobody knows
    return bool(bound.arguments.get("inplace", False))
