"""Scores that compare the weights of a channel with those of the others."""

import torch
from torch import Tensor

from slimgraph.graph import DependencyGraph
from slimgraph.importance.magnitude import MAKES, out_in_energy
from slimgraph.slices import slices_of


def geometric_median(graph: DependencyGraph) -> Tensor:
    """Sum of the distances of the weights that make a channel to those that make the others.

    What lies close to all others can be made of them. Distances add up over the modules that are
    tied to the channel.

    Returns:
        Shape: (channels,), in units of the weights; infinite for channels no matrix makes.

    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019, eq. 4: the filters
    themselves are compared, so that F and -F are far apart.
    """
    total = torch.zeros(len(graph.frozen), dtype=torch.float64)
    seen = torch.zeros(len(graph.frozen), dtype=torch.bool)
    for each in slices_of(graph, MAKES):
        rows = each.matrix()
        if rows.shape[1] > 1:
            distances = torch.cdist(rows, rows).double().sum(1).cpu()
            total.index_add_(0, each.channels, distances)
            seen[each.channels] = True
    return torch.where(seen, total, torch.inf)


def layer_adaptive(graph: DependencyGraph) -> Tensor:
    """Energy of a channel, as a share of that of all channels of its group that have no less.

    The strongest channel of each group scores 1, so none is emptied, and groups compare.

    Returns:
        Shape: (channels,), in [0, 1]; infinite where no weight makes or reads the channel.

    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, eq. 4,
    for single weights; here for channels, best reading.
    """
    energy = out_in_energy(graph)
    result = torch.full_like(energy, torch.inf)
    for group in graph.groups:
        own = group.components[energy[group.components].isfinite()]
        values, order = energy[own].sort(descending=True)
        above = values.cumsum(0)
        # Equal ones count each other.
        last = torch.searchsorted(-values, -values, right=True) - 1
        result[own[order]] = values / above[last].clamp_min(torch.finfo(values.dtype).tiny)
    return result
