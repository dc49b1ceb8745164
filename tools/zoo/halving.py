"""The decision every model is measured with: half of the channels of every group leave."""

import torch
from torch import Tensor

import slimgraph as sg
from slimgraph.errors import BudgetError
from slimgraph.mask import Mask

SHARES = (0.5, 0.502, 0.505, 0.51, 0.52, 0.54, 0.57, 0.6, 0.65, 0.7, 0.8, 0.9, 0.95, 0.99)


def halve(graph: sg.DependencyGraph, seed: int = 0) -> tuple[Mask, float]:
    """Choose at random which half of each group's channels stays.

    Groups of odd size keep the larger half, and blocks that must stay equal may keep more; then
    the smallest budget that can be met is taken.

    Args:
        graph: The analysed model.
        seed: Of the random scores.

    Returns:
        The mask, and the share of the channels of prunable groups that was asked to remain.
    """
    scores = sg.score(graph, "random", seed=seed)
    for share in SHARES:
        try:
            keep = sg.select(
                graph, scores, sg.Budget.of(channels=share), order="score", max_removed=0.5
            )
        except BudgetError:
            continue
        return Mask.of_channels(graph, keep), share
    return Mask.of_channels(graph, torch.ones(len(graph.frozen), dtype=torch.bool)), 1.0


def kept_share(graph: sg.DependencyGraph, mask: Mask) -> float:
    """Return the share of the channels of prunable groups that a mask keeps."""
    prunable = [group for group in graph.groups if group.prunable]
    total = sum(group.size for group in prunable)
    kept = sum(int(_entry(mask, group).sum()) for group in prunable)
    return kept / max(total, 1)


def _entry(mask: Mask, group: sg.Group) -> Tensor:
    return mask[group.name] if group.name in mask else torch.ones(group.size, dtype=torch.bool)
