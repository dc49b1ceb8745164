"""Which selections pay: what a consumer saves has to exceed what the copy costs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from slimgraph.analysis import analyze
from slimgraph.cloning import clone
from slimgraph.cost import CostModel, batch_size
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.ops.selection import slice_of
from slimgraph.selection import select

# Multiply-accumulates that take as long as copying one number. Measured on one core: a gather needs
# 0.1 to 0.2 ns per number, a convolution 0.04 (3 x 3) to 0.1 ns (1 x 1) per multiply-accumulate.
COPY = 4.0


Choose = Callable[[DependencyGraph, Tensor], Tensor]


def with_paying_selections(
    graph: DependencyGraph, keep: Tensor, scores: Tensor, choose: Choose
) -> tuple[DependencyGraph, Tensor, Tensor]:
    """Take out the selections that would cost more than they save.

    The choice is made anew without them, by the same scores, so that it meets its budget, until
    each one left pays. The budget comes first: what cannot meet it without them keeps them.

    Args:
        graph: The groups of a model with selections.
        keep: What stays of it. Shape: (channels,).
        scores: The scores by which it was chosen. Shape: (channels,).
        choose: Chooses again, by given scores.

    Returns:
        The groups of the model with the selections that pay, what stays, and the scores.
    """
    while idle := idle_selections(graph, keep):
        fewer = analyze(_without(graph.traced, idle), rules=graph.rules, heads=graph.ledger.heads)
        carried = _carried(scores, graph, fewer)
        try:
            keep = choose(fewer, carried)
        except BudgetError:
            break
        graph, scores = fewer, carried
    return graph, keep, scores


def _carried(scores: Tensor, graph: DependencyGraph, fewer: DependencyGraph) -> Tensor:
    """Give the channels of a graph with fewer selections the scores they had."""
    found = scores.new_full((len(fewer.frozen),), torch.inf)
    before = {(group.name, group.size): group.components for group in graph.groups}
    for group in fewer.groups:
        if (group.name, group.size) in before:
            found[group.components] = scores[before[group.name, group.size]]
    return found


def idle_selections(graph: DependencyGraph, keep: Tensor) -> list[str]:
    """Name the selections that save less than the copy they need; slices need none.

    Args:
        graph: The groups.
        keep: What stays. Shape: (channels,).
    """
    costs = CostModel(graph)
    now, batch = costs.totals(keep).macs, batch_size(graph.traced)
    found = []
    for node, labels, source in graph.ledger.selections:
        own, other = graph.component[labels], graph.component[source]
        left = keep[own][keep[other]]
        if bool(left.all()) or slice_of(left.nonzero().flatten(), 0) is not None:
            continue
        value = node.meta["val"]
        copied = value.numel() / batch * int(left.sum()) / len(own)
        whole = keep.clone()
        whole[own] = keep[other]
        if costs.totals(whole).macs - now < COPY * copied:
            found.append(node.name)
    return found


def _without(traced: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """Take selections out."""
    result = clone(traced)
    for node in result.graph.nodes:
        if node.target is select and node.name in names:
            node.replace_all_uses_with(node.args[0])
            result.graph.erase_node(node)
    result.recompile()
    return result
