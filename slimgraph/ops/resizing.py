"""Literal sizes in the arguments of data-movement ops, recomputed from what is kept."""

import operator
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.nn import functional as F

from slimgraph.errors import EmptiedGroupError, InexactWarning
from slimgraph.rules import Call, compute
from slimgraph.shapes import attribute, place


def _old(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def reshape(call: Call) -> None:
    """Rewrite the sizes of view, reshape, unflatten and expand."""
    old, new = _old(call.node), call.kept.shape(call.node)
    if old == new or call.name in ("flatten", "ravel"):
        return
    if call.name == "unflatten":
        dim = call.get(1, "dim") % len(_old(call.input))
        key = "unflattened_size" if "unflattened_size" in call.kwargs else "sizes"
        sizes = _entries(call, call.get(2, key), len(old) - len(_old(call.input)) + 1)
        call.set(2, key, tuple(scaled(call, sizes, old[dim:], new[dim:])))
        return
    given = call.args[1:] or [value for key, value in call.kwargs.items() if key != "input"]
    sizes = _entries(call, given[0], len(old)) if _is_packed(call, given) else given
    call.args = [call.args[0] if call.args else call.kwargs["input"]]
    call.kwargs = {}
    call.args.append(scaled(call, sizes, old, new))


def _is_packed(call: Call, given: Sequence[Any]) -> bool:
    """Tell whether all sizes come as one argument; nodes have values in the graph before only."""
    if len(given) != 1 or isinstance(given[0], list | tuple):
        return len(given) == 1
    before = [*call.node.args[1:], *call.node.kwargs.values()][0]
    return isinstance(before, fx.Node) and isinstance(before.meta["val"], tuple)


def _entries(call: Call, sizes: Any, count: int) -> list[Any]:
    if isinstance(sizes, fx.Node):
        return [compute(call.graph, operator.getitem, sizes, i) for i in range(count)]
    return list(sizes)


def scaled(call: Call, sizes: Sequence[Any], old: Sequence[int], new: Sequence[int]) -> list[Any]:
    """Replace sizes that changed; computed ones are scaled, so the batch stays dynamic."""
    result = []
    for size, before, after in zip(sizes, old, new, strict=False):
        if before == after or (isinstance(size, int) and size == -1):
            result.append(size)
        elif isinstance(size, int):
            result.append(after)
        else:
            product = compute(call.graph, operator.mul, size, after)
            result.append(compute(call.graph, operator.floordiv, product, before))
    return result


def sizes_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[int, Sequence[Any]]:
    """Find the sizes among the arguments of an op that makes or repeats positions.

    Returns:
        Where they start, -1 if they are given by name, and the sizes, maybe packed into a node.
    """
    first = 1 if name.startswith("new_") or name in ("expand", "repeat", "tile") else 0
    given = args[first:] or [next((v for k, v in kwargs.items() if k in _SIZES), ())]
    packed = isinstance(given[0], list | tuple)
    return first if len(args) > first else -1, given[0] if packed else given


_SIZES = ("size", "sizes", "repeats", "dims")


def create(call: Call) -> None:
    """Make as many positions as are left."""
    _replace_sizes(call, call.kept.shape(call.node))


def repeat(call: Call) -> None:
    """Repeat dims of size one as often as there are positions left."""
    old, new = call.kept.shape(call.input), call.kept.shape(call.node)
    before = (1,) * (len(new) - len(old)) + old
    _replace_sizes(call, [b // a for a, b in zip(before, new, strict=True)])


def _replace_sizes(call: Call, wanted: Sequence[int]) -> None:
    """Write sizes where literal ones stand that differ; computed ones count no channels."""
    first, sizes = sizes_of(call.name, call.args, call.kwargs)
    sizes = [
        new if isinstance(size, int) else size for size, new in zip(sizes, wanted, strict=False)
    ]
    if first < 0:
        name = next(name for name in call.kwargs if name in _SIZES)
        call.kwargs[name] = sizes
    elif isinstance(call.args[first], list | tuple):
        call.args[first] = sizes
    elif len(sizes) == len(wanted):
        call.args[first : first + len(sizes)] = sizes


def squeeze(call: Call) -> None:
    """Squeeze only dims that had size 1 before; one that shrank to 1 stays."""
    old, new = _old(call.input), call.kept.shape(call.input)
    if not any(before != 1 and after == 1 for before, after in zip(old, new, strict=True)):
        return
    asked = call.get(1, "dim")
    if asked is None:
        asked = range(len(old))
    dims = [d % len(old) for d in (asked if isinstance(asked, Sequence) else (asked,))]
    call.become(torch.squeeze, call.new_input, tuple(d for d in dims if old[d] == 1))


def split(call: Call) -> None:
    """Rewrite split and chunk as a split into what is left of each piece."""
    value = call.node.meta["val"]
    given = call.get(2, "dim", 0)
    dim = given % len(_old(call.input))
    old = [piece.shape[dim] for piece in value]
    new = [call.kept.shape(call.node, i)[dim] for i in range(len(value))]
    if old == new:
        return
    if 0 in new:
        raise EmptiedGroupError(
            f"the mask leaves nothing of piece {new.index(0)} of this split",
            place(call.node),
            "keep at least one channel in each piece",
        )
    call.become(torch.split, call.new_input, new, dim)


def unbind(call: Call) -> None:
    """Refuse to lose an item that is taken out by itself."""
    dim = call.get(1, "dim", 0)
    if call.kept.positions(call.input, dim) is not None:
        raise EmptiedGroupError(
            "the mask removes a whole item that this op takes out by itself",
            place(call.node),
            "keep at least one channel of each item",
        )


def _concrete(call: Call, argument: Any) -> Any:
    return map_arg(argument, lambda node: node.meta["val"])


def narrow(call: Call) -> None:
    """Rewrite narrow, select and aten's slice as basic indexing."""
    args = _concrete(call, call.node.args)
    dim = args[1] % len(_old(call.input))
    if call.kept.positions(call.input, dim) is None:
        return
    if call.name == "select":
        entry: Any = args[2]
    elif call.name == "narrow":
        entry = slice(args[2], args[2] + args[3])
    else:
        entry = slice(*args[2:])
    index = (*[slice(None)] * dim, _moved(call, dim, entry))
    call.become(operator.getitem, call.new_input, index)


def getitem(call: Call) -> None:
    """Move the bounds of basic indexing to where the kept positions are now."""
    if not isinstance(call.input.meta["val"], Tensor):
        return
    index = _concrete(call, call.node.args[1])
    entries = list(index) if isinstance(index, tuple) else [index]
    given = list(call.args[1]) if isinstance(index, tuple) else [call.args[1]]
    ndim = len(_old(call.input))
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    dim = 0
    for k, entry in enumerate(entries):
        if entry is None:
            continue
        if entry is Ellipsis:
            dim += ndim - used
            continue
        size = _old(call.input)[dim]
        whole = isinstance(entry, slice) and range(size)[entry] == range(size)
        if not whole and call.kept.positions(call.input, dim) is not None:
            entry = _positions(call.node, entry, k)  # noqa: PLW2901 - the same in plain numbers
            given[k] = _moved(call, dim, entry)
            if isinstance(given[k], list) and len(entries) > 1:  # two lists would be paired
                picked = (*[slice(None)] * dim, given[k])
                call.args[0] = compute(call.graph, operator.getitem, call.args[0], picked)
                given[k] = slice(None)
        dim += 1
    call.args[1] = tuple(given) if isinstance(index, tuple) else given[0]


def _positions(node: fx.Node, entry: Any, place: int) -> Any:
    """Read the data of a constant index."""
    if not isinstance(entry, Tensor):
        return entry
    index = node.args[1]
    source = index[place] if isinstance(index, tuple) else index
    assert isinstance(source, fx.Node), "only constants index channels"
    return constant(node, str(source.target))


def constant(node: fx.Node, name: str) -> list[int]:
    """Return the numbers in a buffer of the model that a node belongs to."""
    root = node.graph.owning_module
    assert root is not None, "traced graphs belong to a module"
    found: list[int] = attribute(root, name).tolist()
    return found


def _moved(call: Call, dim: int, entry: int | slice | list[int]) -> int | slice | list[int]:
    """Translate an index into the positions that are left."""
    size = _old(call.input)[dim]
    kept = call.kept.positions(call.input, dim)
    assert kept is not None, "asked only where positions were removed"
    rank = {position: i for i, position in enumerate(kept.tolist())}
    if isinstance(entry, int):
        if entry % size not in rank:
            raise EmptiedGroupError(
                f"the mask removes position {entry}, which is read by itself here",
                place(call.node),
                "keep this channel",
            )
        return rank[entry % size]
    asked = range(size)[entry] if isinstance(entry, slice) else [p % size for p in entry]
    found = [rank[p] for p in asked if p in rank]
    if not found:
        raise EmptiedGroupError(
            "the mask leaves nothing of this slice",
            place(call.node),
            "keep at least one channel of it",
        )
    steps = {after - before for before, after in pairwise(found)} or {1}
    if len(steps) == 1 and min(steps) > 0:
        return slice(found[0], found[-1] + 1, steps.pop())
    return found


def pad(call: Call) -> None:
    """Shrink padding that was added along a dim with channels."""
    amounts = list(call.get(1, "pad"))
    ndim = len(_old(call.node))
    for k in range(len(amounts) // 2):
        dim = ndim - 1 - k
        added = amounts[2 * k] or amounts[2 * k + 1]
        kept = call.kept.positions(call.node, dim) if added else None
        if kept is None:
            continue
        last = _old(call.node)[dim] - amounts[2 * k + 1]
        amounts[2 * k : 2 * k + 2] = [
            int((kept < amounts[2 * k]).sum()),
            int((kept >= last).sum()),
        ]
    call.set(1, "pad", amounts)


def shuffle(call: Call) -> None:
    """Shuffle the blocks that are left; if they keep other positions, pick channels in order."""
    kept = call.kept.positions(call.input, 1)
    if kept is None:
        return
    size, groups = _old(call.input)[1], call.get(1, "groups")
    rank = torch.full((size,), -1)
    rank[kept] = torch.arange(len(kept))
    order = rank[shuffled(size, groups)]
    order = order[order >= 0]
    blocks = int((kept // (size // groups)).unique().numel())
    if len(kept) % blocks == 0 and torch.equal(order, shuffled(len(kept), blocks)):
        call.set(1, "groups", blocks)
    else:
        call.become(torch.index_select, call.new_input, 1, call.constant(order))


def shuffled(size: int, groups: int) -> Tensor:
    """Return where a channel shuffle takes its channels from. Shape: (size,)."""
    return torch.arange(size).reshape(groups, -1).t().flatten()


def spread(call: Call, dim: int, fill: float = 0) -> None:
    """Run an op on all channels in their old places, and take out what is left of its result.

    For ops that mix neighbouring channels (a window over them, a convolution along them): what
    was removed stands in its old place as a constant, so that every channel keeps its neighbours.

    Args:
        call: The op; it reads `call.input` and makes a result of the same size along `dim`.
        dim: The dim of the channels.
        fill: What the op reads in the place of a removed channel.
    """
    ndim = len(_old(call.input))
    dim %= ndim
    kept = call.kept.positions(call.input, dim)
    if kept is None:
        return
    if call.repack:
        message = f"{place(call.node)} mixes neighbouring channels, which are others once some left"
        warnings.warn(f"{message}: the result is not exact", InexactWarning, stacklevel=2)
        return
    places = [len(kept)] * _old(call.input)[dim]  # that of the padding, which is added last
    for i, position in enumerate(kept.tolist()):
        places[position] = i
    before = [slice(None)] * dim
    padded = compute(
        call.graph, F.pad, call.new_input, [0, 0] * (ndim - 1 - dim) + [0, 1], "constant", fill
    )
    whole = compute(call.graph, operator.getitem, padded, (*before, places))
    run = again(call, whole)
    call.become(operator.getitem, run, (*before, kept.tolist()))


def again(call: Call, first: Any = None) -> fx.Node:
    """Add the call as it stands, as a step on the way to its result.

    Args:
        call: The call; it becomes something else afterwards.
        first: What the op reads instead of its first argument.
    """
    args, kwargs = list(call.args), {name: call.kwargs[name] for name in call.node.kwargs}
    if first is not None and args:
        args[0] = first
    elif first is not None:
        kwargs["input"] = first
    return call.graph.create_node(call.node.op, call.target, tuple(args), kwargs, name="whole")
