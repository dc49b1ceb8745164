"""The model in which channels are switched off: no scale is left of them, their shifts stay.

That is how Network Slimming and `torch.nn.utils.prune` leave a channel: the scale of the last
affine op of each of its producers is zero. The rest of the model runs on as it is.
"""

from collections.abc import Iterator

from torch import Tensor, fx, nn

from slimgraph.analysis import parameter_names
from slimgraph.cloning import clone
from slimgraph.graph import DependencyGraph
from slimgraph.kept import KeptChannels
from slimgraph.labels import Axis
from slimgraph.op_names import canonical
from slimgraph.ops.elementwise import IDENTITY
from slimgraph.plan import like, put_all
from slimgraph.shapes import modules_of, names_of, stored_tensors


def switched_off(kept: KeptChannels) -> fx.GraphModule:
    """Set the scale of every channel that leaves to zero.

    Where a BatchNorm follows the producer directly, and nothing else reads the producer, the scale
    is the BatchNorm's; else it is the producer's own weight. Of channels that a consumer selects,
    it is that of the BatchNorm with which the consumer starts.

    Args:
        kept: What stays.

    Returns:
        A GraphModule of the old size that shares all other tensors with the model.
    """
    graph = kept.graph
    stored = stored_tensors(graph.traced)
    names = names_of(stored)
    zeroed: dict[str, Tensor] = {}
    for axis in _scales(graph):
        leaves = ~kept.alive(axis.labels)
        if not bool(leaves.any()) or axis.parameter not in stored:
            continue
        old = stored[axis.parameter]
        new = _without(zeroed.get(axis.parameter, old), axis.dim, leaves)
        zeroed.update(dict.fromkeys(names[id(old)], like(old, new)))
    result = clone(graph.traced)
    put_all(modules_of(result), zeroed)
    return result


def _without(tensor: Tensor, dim: int, leaves: Tensor) -> Tensor:
    """Zero what leaves along a dim; `leaves` is a matrix for dim 1 of a grouped weight."""
    leaves = leaves.to(tensor.device)
    if leaves.ndim == 1:
        view = [1] * tensor.ndim
        view[dim] = -1
        return tensor.detach().masked_fill(leaves.reshape(view), 0)
    blocks = tensor.detach().reshape(len(leaves), -1, *tensor.shape[1:])
    mask = leaves.reshape(len(leaves), 1, -1, *[1] * (tensor.ndim - 2))
    return blocks.masked_fill(mask, 0).reshape(tensor.shape)


def _scales(graph: DependencyGraph) -> Iterator[Axis]:
    """Yield, for every producer, the axis of its last scale."""
    names = parameter_names(graph.traced)
    for axis in graph.ledger.axes.values():
        if axis.role != "out":
            continue
        end = (axis.parameter, 1 - axis.dim)
        nodes = [read.node for read in graph.ledger.reads if (read.weight, read.dim) == end]
        norms = [_norm_behind(graph, node, names) for node in nodes or [axis.node]]
        scales = [graph.ledger.axes.get((norm, 0)) for norm in norms if norm is not None]
        found = [scale for scale in scales if scale is not None]
        yield from found if len(found) == len(norms) else [axis]
    for selection in graph.ledger.selections:  # nothing makes its channels but the norm behind
        scale = graph.ledger.axes.get((_norm_behind(graph, selection.node, names) or "", 0))
        if scale is not None:
            yield scale


def _norm_behind(graph: DependencyGraph, node: fx.Node, names: dict[int, str]) -> str | None:
    """Name the scale of the BatchNorm that alone reads a node, perhaps behind a dropout."""
    while len(node.users) == 1:
        (node,) = node.users
        if graph.kinds.get(node) == "norm":
            return _scale(graph, node, names)
        if not _is_identity(graph, node):
            return None
    return None


def _is_identity(graph: DependencyGraph, node: fx.Node) -> bool:
    if node.op == "call_module":
        found = graph.rules.for_module(graph.traced.get_submodule(str(node.target)))
        return found is not None and found[0] is IDENTITY
    makes = "like" in canonical(node.target)  # a tensor of its own
    return graph.rules.for_function(node.target) is IDENTITY and not makes


def _scale(graph: DependencyGraph, node: fx.Node, names: dict[int, str]) -> str | None:
    if node.op == "call_module":
        module = graph.traced.get_submodule(str(node.target))
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        return names.get(id(module.weight)) if batch_norm else None
    name = canonical(node.target)
    if not name.endswith("batch_norm"):
        return None
    position = 1 if name.startswith("aten.") else 3
    given = node.args[position] if len(node.args) > position else node.kwargs.get("weight")
    value = graph.values.get(given) if isinstance(given, fx.Node) else None
    return getattr(value, "parameter", None)
