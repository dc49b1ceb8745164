"""Where a channel that its producers leave constant stops being so, on the way to who reads it."""

import torch
from torch import Tensor, fx

from slimgraph.constants import Constants
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Read, Value, compact


def end_of_constancy(
    graph: DependencyGraph, constants: Constants, read: Read, channel: int
) -> fx.Node | None:
    """Find the node that makes something varying of a constant channel; `None` if none does.

    Args:
        graph: The groups.
        constants: What is known of the values.
        read: Who reads the channel.
        channel: Index of the channel.
    """
    before = _ancestors(read.value.node)
    nodes: list[fx.Node] = list(graph.traced.graph.nodes)
    for node in nodes:
        if node not in before or _is_constant(graph, constants, node, channel) is not False:
            continue
        given = [_is_constant(graph, constants, source, channel) for source in node.all_input_nodes]
        if True in given and False not in given:
            return node
    return None


def _ancestors(node: fx.Node | None) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = [] if node is None else [node]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _is_constant(
    graph: DependencyGraph, constants: Constants, node: fx.Node, channel: int
) -> bool | None:
    """Return whether a node's value is constant along a channel; `None` if it has none of it."""
    value = graph.values.get(node)
    if not isinstance(value, Value) or value.parameter is not None:
        return None
    known = constants.of(node)
    found = None
    for layer in value.layers:
        own = graph.component[compact(layer)] == channel
        if not bool(own.any()):
            continue
        found = True
        if known is None or not _stands_still(compact(known), own):
            return False
    return found


def _stands_still(known: Tensor, own: Tensor) -> bool:
    """Return whether one constant stands at each position of a channel, wherever else it is."""
    spread, _ = torch.broadcast_tensors(known, own)
    others = tuple(dim for dim in range(own.ndim) if own.shape[dim] == 1)
    least = spread.amin(others, keepdim=True) if others else spread
    most = spread.amax(others, keepdim=True) if others else spread
    return bool((least == most)[own].all())  # what is unknown is not equal to itself
