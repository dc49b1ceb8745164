"""Which selections pay: what a consumer saves has to exceed what the copy costs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx

from slimgraph.analysis import analyze
from slimgraph.cloning import clone
from slimgraph.cost import CostModel, batch_size
from slimgraph.graph import DependencyGraph
from slimgraph.ops.selection import slice_of
from slimgraph.passes.select_channels import with_selections
from slimgraph.selection import select

# Multiply-accumulates that take as long as copying one number. Measured on one core: a gather needs
# 0.1 to 0.2 ns per number, a convolution 0.04 (3 x 3) to 0.1 ns (1 x 1) per multiply-accumulate.
COPY = 4.0


class Choice(NamedTuple):
    """What stays, one bool per channel; by which scores, if any; and how it was chosen."""

    keep: Tensor
    scores: Tensor | None
    settings: dict[str, Any]


def choose_selecting(
    traced: fx.GraphModule, choose: Callable[[DependencyGraph], Choice]
) -> tuple[DependencyGraph, Choice]:
    """Choose channels with every selection that pays, and without the others.

    A choice is made with all selections. Those that would cost more than they save are taken out
    and the choice is made anew, so that it meets its budget, until each one left pays.

    Args:
        traced: The model; it is not changed.
        choose: Makes a choice.

    Returns:
        The groups of the model with selections, and the choice.
    """
    graph = analyze(with_selections(traced))
    choice = choose(graph)
    while idle := idle_selections(graph, choice.keep):
        graph = analyze(_without(graph.traced, idle))
        choice = choose(graph)
    return graph, choice


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
