"""Which channels of a group have to stay, as runs, and which of them each reason keeps."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from slimgraph.graph import DependencyGraph
from slimgraph.groups import Group


class FrozenChannels:
    """Finds the channels that each reason keeps."""

    def __init__(self, graph: DependencyGraph) -> None:
        kept: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        for freeze in graph.freezes:
            kept[freeze.node.name, freeze.message].append(graph.component[freeze.labels])
        self.kept = {key: torch.cat(parts).unique() for key, parts in kept.items()}

    def reasons(self, group: Group) -> list[dict[str, Any]]:
        """Describe a group's reasons, each with its channels of the group."""
        described = []
        for reason in group.reasons:
            kept = torch.isin(group.components, self.kept[reason.node, reason.message])
            described.append({**reason._asdict(), "channels": runs(kept)})
        return described


def runs(chosen: Tensor) -> list[list[int]]:
    """List the first and last position of every run of True.

    Args:
        chosen: Bool tensor. Shape: (positions,).

    Returns:
        The runs, in order.

    Example:
        >>> runs(torch.tensor([True, True, False, True])), runs(torch.zeros(3, dtype=torch.bool))
        ([[0, 1], [3, 3]], [])
    """
    outside = torch.zeros(1, dtype=torch.int8)
    steps = torch.diff(chosen.to(torch.int8), prepend=outside, append=outside)
    ends = torch.stack([(steps == 1).nonzero()[:, 0], (steps == -1).nonzero()[:, 0] - 1], dim=1)
    found: list[list[int]] = ends.tolist()
    return found
