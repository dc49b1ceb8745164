"""Channel shuffles written out: a view, a transpose and a view are one op of torch's."""

from typing import Any

import torch
from torch import fx

from slimgraph.op_names import canonical

_VIEWS = ("view", "reshape", "flatten", "unflatten", "_unsafe_view")
_COPIES = ("contiguous", "clone")
_SWAPS = ("transpose", "swapaxes", "swapdims", "permute")


def join_shuffles(graph: fx.Graph) -> bool:
    """Call `torch.channel_shuffle` where a graph spells it out.

    ::

        %view = call_method[target=view](args = (%x, %b, 2, 4, %h, %w))
        %transpose = call_method[target=transpose](args = (%view, 1, 2))
        %view_1 = call_method[target=view](args = (%transpose, %b, -1, %h, %w))

    becomes

        %view_1 = call_function[target=torch.channel_shuffle](args = (%x, 2))

    The one op can lose any of its channels. Of the three, the first makes blocks of channels, which
    have to lose the same positions.

    Args:
        graph: A graph whose nodes have their values in `meta["val"]`; it is changed.

    Returns:
        Whether there was any.
    """
    changed = False
    for node in list(graph.nodes):
        found = _shuffled(node)
        if found is None:
            continue
        source, groups, steps = found
        with graph.inserting_before(node):
            joined = graph.call_function(torch.channel_shuffle, (source, groups))
        joined.meta = dict(node.meta)
        node.replace_all_uses_with(joined)
        for step in steps:
            graph.erase_node(step)
        joined.name, changed = node.name, True
    return changed


def _shuffled(last: fx.Node) -> tuple[fx.Node, int, list[fx.Node]] | None:
    """Find the shuffle that ends here: what it reads, its blocks, and its steps, last first."""
    steps = _steps(last)
    source = steps[-1].args[0] if steps else None
    if not isinstance(source, fx.Node):
        return None
    first, swap = steps[-1], next(step for step in steps if _name(step) in _SWAPS)
    old, blocks = _shape(source), _shape(first)
    if len(old) < 3 or _shape(last) != old or [*blocks[:1], *blocks[3:]] != [old[0], *old[2:]]:
        return None
    sizes = _sizes(first)[1:3]  # one of them has to be a number that no image decides
    told = any(size == block for size, block in zip(sizes, blocks[1:3], strict=False))
    mixes = any(_may_mix(view) for view in (first, last))
    if 1 in blocks[1:3] or not told or mixes or not _swaps_blocks(swap, len(blocks)):
        return None
    return source, blocks[1], steps


def _steps(last: fx.Node) -> list[fx.Node]:
    """Walk back from a view to one before, if no step has other readers; nothing if not."""
    steps: list[fx.Node] = []
    wanted, node = [_VIEWS, _SWAPS, _VIEWS], last
    while True:
        if _name(node) in wanted[0]:
            del wanted[0]
        elif not steps or _name(node) not in _COPIES:
            return []
        steps.append(node)
        if not wanted:
            return steps
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            return []
        node = source


def _name(node: fx.Node) -> str:
    return canonical(node.target) if node.op in ("call_function", "call_method") else ""


def _shape(node: fx.Node) -> list[int]:
    return list(node.meta["val"].shape)


def _swaps_blocks(node: fx.Node, ndim: int) -> bool:
    dims = _unpacked(node.args[1:])
    if not all(isinstance(dim, int) for dim in dims):
        return False
    order = [dim % ndim for dim in dims]
    if _name(node) == "permute":
        return order == [0, 2, 1, *range(3, ndim)]
    return sorted(order) == [1, 2]


def _may_mix(view: fx.Node) -> bool:
    """Return whether a view may move pixels to the batch where an image has another size."""
    sizes = _sizes(view)
    return sizes[:1] == [-1] and any(isinstance(size, int) for size in sizes[-1:])


def _sizes(view: fx.Node) -> list[Any]:
    """Return the sizes that a view is given, by dim; none if it only names dims."""
    if _name(view) == "flatten":
        return []
    if _name(view) == "unflatten":
        return [None, *_unpacked(view.args[2:])] if view.args[1:2] == (1,) else []
    return _unpacked(view.args[1:])


def _unpacked(given: Any) -> list[Any]:
    return list(given[0] if given and isinstance(given[0], tuple | list) else given)
