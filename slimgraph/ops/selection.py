"""Selections: a consumer reads some channels of a shared value, by choice or by position."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from slimgraph.errors import EmptiedGroupError
from slimgraph.labels import Selection, Value, along, compact, varying
from slimgraph.op_names import canonical
from slimgraph.rules import Call, Kept, Rule, Site
from slimgraph.selection import select
from slimgraph.shapes import attribute, place

Held = Callable[[str], Tensor]


def fork(site: Site, input: Value, dim: int, name: str) -> Value:
    """Give the consumer channels of its own, each of which needs the one it is selected from."""
    input = site.carried(input)
    dim %= input.ndim
    layer = input.layer(dim)
    if layer is None or varying(layer) != (dim,):
        return site.value(*input.layers)
    source = compact(layer).flatten()
    own = site.ledger.open((name, dim), tuple(source.shape), "selected", site.node)
    site.ledger.selections.append(Selection(site.node, own, source))
    others = (each for each in input.layers if each is not layer)
    return site.value(*others, along(own, dim, site.shape))


def _resize_fork(call: Call) -> None:
    """Become a slice if what is selected lies side by side, nothing if it is all that is left."""
    dim: Any = call.get(1, "dim") % len(call.input.meta["val"].shape)
    left = _positions(call, call.input, dim)
    selected = _positions(call, call.node, dim)
    _pick(call, dim, torch.isin(left, selected).nonzero().flatten(), len(left))


def _positions(call: Call, node: fx.Node, dim: int) -> Tensor:
    kept = call.kept.positions(node, dim)
    return torch.arange(node.meta["val"].shape[dim]) if kept is None else kept


def _pick(call: Call, dim: int, positions: Tensor, size: int) -> None:
    """Turn a call into the shortest way to take these positions out of its input."""
    if torch.equal(positions, torch.arange(size)):
        call.instead = call.new_input
        return
    source, positions = _looked_through(call, dim, positions)
    index = slice_of(positions, dim)
    if index is None:
        call.become(torch.index_select, source, dim, call.constant(positions))
    else:
        call.become(operator.getitem, source, index)


def slice_of(positions: Tensor, dim: int) -> tuple[slice, ...] | None:
    """Return the index that takes positions along a dim if they lie side by side.

    Example:
        >>> slice_of(torch.tensor([2, 3]), 1), slice_of(torch.tensor([2, 4]), 1)
        ((slice(None, None, None), slice(2, 4, None)), None)
    """
    first, end = int(positions[0]), int(positions[0]) + len(positions)
    if not torch.equal(positions, torch.arange(first, end)):
        return None
    return (*[slice(None)] * dim, slice(first, end))


def picked_by(node: fx.Node, held: Held | None = None) -> tuple[int, Tensor] | None:
    """Return the dim and the positions that a node takes out of its input, if that is all it does.

    Args:
        node: Any node.
        held: Finds the tensors of a graph that belongs to no module yet.
    """
    if canonical(node.target) == "index_select" and len(node.args) == 3:
        _, dim, index = node.args
        if isinstance(index, fx.Node) and index.op == "get_attr" and isinstance(dim, int):
            return dim, _constant(index).cpu() if held is None else held(str(index.target))
    if node.target is operator.getitem and isinstance(node.args[1], tuple):
        others: list[Any]
        last: Any
        *others, last = node.args[1]
        if all(other == slice(None) for other in others) and _is_plain(last):
            return len(others), torch.arange(last.stop)[last]
    return None


def _is_plain(entry: Any) -> bool:
    """Return whether a slice says its positions without knowing the size."""
    if not isinstance(entry, slice) or not isinstance(entry.stop, int) or entry.stop < 0:
        return False
    start, step = entry.start or 0, entry.step or 1
    return isinstance(start, int) and start >= 0 and step == 1


def _looked_through(call: Call, dim: int, positions: Tensor) -> tuple[fx.Node, Tensor]:
    """Take positions out of what an earlier selection took its own from."""
    first: fx.Node = call.new_input
    root = call.node.graph.owning_module
    assert root is not None, "traced graphs belong to a module"

    def held(name: str) -> Tensor:
        own = call.constants.get(name)
        found: Tensor = attribute(root, name).cpu() if own is None else own
        return found

    earlier = picked_by(first, held)
    source = first.args[0] if first.args else None
    if earlier is None or earlier[0] != dim or not isinstance(source, fx.Node):
        return first, positions
    return source, earlier[1][positions]


def _constant(index: fx.Node) -> Tensor:
    root = index.graph.owning_module
    assert root is not None, "traced graphs belong to a module"
    found = attribute(root, str(index.target))
    assert isinstance(found, Tensor), "checked by the rule"
    return found


def resize_index(call: Call) -> None:
    """Say where the positions are now, without those that left."""
    dim: Any = call.get(1, "dim") % len(call.input.meta["val"].shape)
    kept = call.kept.positions(call.input, dim)
    if kept is None:
        return
    index = call.node.args[2] if len(call.node.args) > 2 else call.node.kwargs["index"]
    assert isinstance(index, fx.Node), "checked by the rule"
    rank = torch.full((call.input.meta["val"].shape[dim],), -1)
    rank[kept] = torch.arange(len(kept))
    moved = rank[_constant(index).cpu()]
    if bool((moved < 0).all()):
        raise EmptiedGroupError(
            "the mask leaves nothing of what is picked here",
            place(call.node),
            "keep at least one channel of it",
        )
    _pick(call, dim, moved[moved >= 0], len(kept))


def selections_of(kept: Kept, graph: fx.Graph) -> Iterator[str]:
    """Name the nodes that take other positions out of their input than the model's code does."""
    for node in graph.nodes:
        if node.target is select:
            dim = int(node.args[1])
            if kept.shape(node)[dim] < kept.shape(node.args[0])[dim]:
                yield node.name
        elif canonical(node.target) == "index_select":
            dim = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
            if kept.positions(node.all_input_nodes[0], dim) is not None:
                yield node.name


RULES = (Rule(("slimgraph.selection.select",), "selection", fork, (), _resize_fork),)
