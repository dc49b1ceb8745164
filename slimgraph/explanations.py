"""Explanations: what ties channels together, what keeps them, and what would free them."""

from itertools import pairwise

import networkx as nx
import torch
from torch import Tensor

from slimgraph.errors import GroupError
from slimgraph.graph import DependencyGraph
from slimgraph.groups import Explanation, Group, Reason, Step
from slimgraph.remedies import TOGETHER


def explain(
    graph: DependencyGraph, left: str, right: str | None = None, channel: int | None = None
) -> Explanation:
    """Answer `graph.explain`.

    Raises:
        GroupError: A name or a channel that does not exist, or too many questions at once.
    """
    if right is None:
        return _one(graph, left) if channel is None else _channel(graph, left, channel)
    if channel is not None:
        raise GroupError(
            "a channel and a second name are two questions", hint="leave one of them out"
        )
    common = _common(graph.components(left), graph.components(right))
    if common is None:
        same = graph.group_of(left) is graph.group_of(right)
        tied = "share parameters but no channel" if same else "are independent"
        return Explanation(f"`{left}` and `{right}` {tied}")
    ends = _label_of(graph, left, common), _label_of(graph, right, common)
    return Explanation(f"`{left}` and `{right}` leave together", _path(graph, *ends))


def _one(graph: DependencyGraph, name: str) -> Explanation:
    group = graph.group_of(name)
    frozen = int(group.frozen.sum())
    state = "can shrink" if group.prunable else "cannot shrink"
    if group.prunable and frozen:
        state += f", but {frozen} of its {group.size} channels have to stay"
    return Explanation(f"`{name}` {state}", reasons=group.reasons or _coupled(graph, group))


def _coupled(graph: DependencyGraph, group: Group) -> tuple[Reason, ...]:
    """Give the reason of a group that is but one channel, however many positions it has."""
    if group.prunable:
        return ()
    node = graph.ledger.axes[group.members[0]].node
    return (Reason(node.name, node.meta.get("source", ""), TOGETHER),)


def _channel(graph: DependencyGraph, name: str, channel: int) -> Explanation:
    channels = graph.components(name)
    if not 0 <= channel < len(channels):
        raise GroupError(
            f"`{name}` has no channel {channel}", hint=f"its channels are 0 to {len(channels) - 1}"
        )
    component = int(channels[channel])
    asked = f"channel {channel} of `{name}`"
    reasons: dict[Reason, int] = {}
    for freeze in graph.freezes:
        own = freeze.labels[graph.component[freeze.labels] == component]
        if len(own):
            reason = Reason(freeze.node.name, freeze.node.meta.get("source", ""), freeze.message)
            reasons.setdefault(reason, int(own[0]))
    if not reasons:
        alone = _coupled(graph, graph.group_of(name))
        return Explanation(f"{asked} {'cannot' if alone else 'can'} leave", reasons=alone)
    start, end = _label_of(graph, name, component), next(iter(reasons.values()))
    return Explanation(f"{asked} cannot leave", _path(graph, start, end), tuple(reasons))


def _path(graph: DependencyGraph, start: int, end: int) -> tuple[Step, ...]:
    """Walk the shortest chain of couplings from one label to another."""
    links = _links(graph, int(graph.component[start]))
    steps = []
    for one, two in pairwise(nx.shortest_path(links, start, end)):
        node = links.edges[one, two]["node"]
        source = node.meta.get("source", "")
        steps.append(Step(graph.owner(one), graph.owner(two), node.name, source))
    return tuple(steps)


def _links(graph: DependencyGraph, component: int) -> "nx.Graph[int]":
    links: nx.Graph[int] = nx.Graph()
    links.add_nodes_from((graph.component == component).nonzero().flatten().tolist())
    for edge in graph.ledger.edges:
        inside = graph.component[edge.left] == component
        for one, two in zip(edge.left[inside].tolist(), edge.right[inside].tolist(), strict=True):
            links.add_edge(one, two, node=edge.node)
    return links


def _label_of(graph: DependencyGraph, name: str, component: int) -> int:
    axis = graph.find(name)[1]
    labels = torch.arange(graph.size) if axis is None else axis.labels.flatten()
    labels = labels[labels > 0]
    return int(labels[graph.component[labels] == component][0])


def _common(left: Tensor, right: Tensor) -> int | None:
    shared = set(right.tolist())
    return next((index for index in left.tolist() if index in shared), None)
