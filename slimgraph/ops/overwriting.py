"""Ops that write into one of their arguments."""

import inspect
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimgraph.labels import Shape, Value, compact
from slimgraph.ops.elementwise import elementwise
from slimgraph.rules import Rule, Site, values_in

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


@dataclass(frozen=True, slots=True)
class _Region(Site):
    """A node that writes into a part of a value: its result counts as large as that part."""

    part: Shape = ()

    @property
    def shape(self) -> Shape:
        """The shape of what is written."""
        return self.part


def setitem(site: Site, input: Any, index: Any, value: Any) -> None:
    """Couple what is written with what was there, position by position.

    Along a dim with channels the whole must be written: which positions a part of it takes
    would be other ones once channels have left.
    """
    if not isinstance(input, Value):
        site.freeze(value, "is put into a container")
        return
    target = site.carried(input)
    indices = index if isinstance(index, tuple) else (index,)
    basic = all(isinstance(i, int | slice | type(None) | type(...)) for i in indices)
    if not basic or any(_cuts(layer, index) for layer in target.layers):
        for operand in values_in(target, index, value):
            site.freeze(operand, "is written at positions of its own")
        return
    part = torch.empty((), device="meta").expand(target.shape)[index].shape
    layers = tuple(layer[index] for layer in target.layers)
    elementwise(
        _Region(site.node, site.ledger, part=tuple(part)), Value(tuple(part), layers), value
    )


def _cuts(layer: Tensor, index: Any) -> bool:
    """Return whether an index leaves out positions along a dim with channels."""
    return compact(layer[index]).numel() < compact(layer).numel()


RULES = (Rule(("setitem",), "write", setitem),)
