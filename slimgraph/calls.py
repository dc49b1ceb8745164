"""What a traced model computes, call by call, in words that two traces of one model share.

A plan remembers the calls of the compressed model. A class whose code reads its sizes from tensors
makes the same calls once it has shrunk; one with sizes or positions written into it, or that
computes with them, does not: it would fail, or run and compute something else.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from slimgraph.op_names import canonical
from slimgraph.ops import DEFAULT_TABLE
from slimgraph.shapes import modules_of, place

# For these, the sizes of the result say all that the arguments say.
_SHAPED = frozenset(
    {"view", "reshape", "flatten", "unflatten", "expand", "split", "split_with_sizes", "chunk",
     "squeeze", "_unsafe_view", "ravel"}
)  # fmt: skip
_ELSEWHERE = (Tensor, torch.dtype, torch.device)  # a plan serves every dtype and device
_MENDED = frozenset({"num_features", "groups"})  # options that a plan sets itself


def calls_of(traced: fx.GraphModule) -> tuple[str, ...]:
    """Describe every call that makes tensors, in order: op, numbers it is given, sizes it makes.

    Args:
        traced: A graph module with shapes.
    """
    return tuple(text for _, text in _described(traced))


def first_other_call(traced: fx.GraphModule, calls: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Find where a model makes another call than those described.

    Returns:
        Its place, what it calls and what was described; `None` if all are the same.
    """
    found = list(_described(traced))
    for (node, text), expected in zip(found, calls, strict=False):
        if text != expected:
            return place(node), text, expected
    if len(found) != len(calls):
        return "the end of the forward", f"{len(found)} calls", f"{len(calls)} calls"
    return None


def _described(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    modules = modules_of(traced)
    for node in traced.graph.nodes:
        value = node.meta["val"]
        leaves = [value] if isinstance(value, Tensor) else tree_leaves(value)
        sizes = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        if node.op == "call_module":
            form = DEFAULT_TABLE.form_of(modules[node.target])
            options = () if form is None else sorted(set(form.options) - _MENDED)
            numbers = [f"{name}={getattr(modules[node.target], name)}" for name in options]
            yield node, " ".join([node.target, *numbers, f"makes {sizes}"])
        elif sizes and node.op in ("call_function", "call_method"):
            yield node, " ".join([*_numbers(node), f"makes {sizes}"])


def _numbers(node: fx.Node) -> list[str]:
    """Name a function and what it is given besides tensors, however lists of it are spelled."""
    name = canonical(node.target)
    if name in _SHAPED:
        return ["regroups"]
    args, kwargs = map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
    if name in ("getitem", "narrow", "select", "slice") and isinstance(args[0], Tensor):
        return ["picks", *_picked(name, args[0], args[1:])]
    leaves = tree_leaves((args, dict(sorted(kwargs.items()))))
    return [name, *(str(leaf) for leaf in leaves if not isinstance(leaf, _ELSEWHERE))]


def _picked(name: str, source: Tensor, args: tuple[Any, ...]) -> list[str]:
    """Say which positions of each dim are taken."""
    if name == "getitem":
        entries = list(args[0]) if isinstance(args[0], tuple) else [args[0]]
    else:
        dim, start, *rest = args
        one = {"select": start, "narrow": slice(start, start + sum(rest[:1]))}
        entries = [*[slice(None)] * (dim % source.ndim), one.get(name, slice(start, *rest))]
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        entries[at : at + 1] = [slice(None)] * (source.ndim - used)
    sizes = iter(source.shape)
    found = []
    for entry in entries:
        size = 1 if entry is None else next(sizes)
        found.append(str(range(size)[entry] if isinstance(entry, slice) else entry))
    return found
