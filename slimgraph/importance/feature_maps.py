"""Scores from feature maps: how much a channel's maps hold that no other's do."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from slimgraph.calibrate.ranks import Progress, all_reduce, tracked
from slimgraph.calibrate.running import batches, watched
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Value, compact, varying

MapScore = Callable[[Tensor], Tensor]
FULL = torch.float32  # half precision has no decompositions
_PASSING = ("element-wise", "norm")


class _Feature(NamedTuple):
    """A value whose maps are looked at: the dim of its channels, and which they are."""

    node: fx.Node
    dim: int
    channels: Tensor


def feature_scores(
    graph: DependencyGraph,
    data: Iterable[Any],
    function: MapScore,
    dims: tuple[int, ...],
    progress: Progress = None,
) -> Tensor:
    """Average a score of feature maps over images and over the values that hold a channel.

    Maps are taken where a chain of norms, activations and sums ends.

    Args:
        graph: The groups. The model runs in the mode it is in.
        data: Batches of inputs, or of (inputs, target), without labels.
        function: From maps of shape (images, channels, *space) to scores, (images, channels).
        dims: How many dims space may have.
        progress: Called with a line per batch; by default a bar in the terminal.

    Returns:
        Infinite for channels without maps. Shape: (channels,); float64.

    Raises:
        SlimgraphError: The data is empty.
    """
    features = {f.node.name: f for f in _features(graph) if f.node.meta["val"].ndim - 2 in dims}
    sums = torch.zeros(2, len(graph.frozen), dtype=torch.float64)  # scores, and how many

    def see(name: str) -> Callable[[Tensor, Tensor], None]:
        feature = features[name]

        def add(_: Tensor, made: Tensor) -> None:
            found = function(made.detach().movedim(feature.dim, 1)).double().sum(0).cpu()
            sums[0].index_add_(0, feature.channels, found)
            sums[1].index_add_(0, feature.channels, torch.full_like(found, len(made)))

        return add

    model = watched(graph.traced, {name: see(name) for name in features})
    with torch.no_grad():
        for inputs in batches(model, tracked(data, "feature maps", progress)):
            model(*inputs)
    all_reduce(sums)
    return torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1), torch.inf)


def _features(graph: DependencyGraph) -> Iterable[_Feature]:
    """Find where chains of norms, activations and sums end, behind what makes channels."""
    for node in graph.traced.graph.nodes:
        value = graph.values.get(node)
        chain = graph.kinds.get(node) in (*_PASSING, "contraction")
        if not chain or not isinstance(value, Value) or len(value.layers) != 1:
            continue
        dims = varying(value.layers[0])
        ends = any(graph.kinds.get(user) not in _PASSING for user in node.users)
        if ends and len(dims) == 1 and dims[0] > 0:
            channels = graph.component[compact(value.layers[0]).flatten()]
            yield _Feature(node, dims[0], channels)


def hrank(graph: DependencyGraph, data: Iterable[Any], progress: Progress = None) -> Tensor:
    """Score channels by the mean rank of their feature maps; arguments as for `feature_scores`.

    Source: Lin et al., HRank: Filter Pruning Using High-Rank Feature Map, CVPR 2020, eq. 5.
    """

    def ranks(maps: Tensor) -> Tensor:
        found: Tensor = torch.linalg.matrix_rank(maps.to(torch.promote_types(maps.dtype, FULL)))
        return found

    return feature_scores(graph, data, ranks, (2,), progress)


def chip(graph: DependencyGraph, data: Iterable[Any], progress: Progress = None) -> Tensor:
    """Score channels by what the nuclear norm of all maps loses without theirs.

    Arguments as for `feature_scores`. The maps of a channel are a row of the matrix A, channels x
    positions: `||A||_* - ||A with row c zero||_*`, the mean over images.

    Source: Sui et al., CHIP: CHannel Independence-based Pruning, NeurIPS 2021, eq. 3 and 4.
    """

    def losses(maps: Tensor) -> Tensor:
        return torch.stack([_nuclear_losses(image) for image in maps.flatten(2).double()])

    return feature_scores(graph, data, losses, (1, 2, 3), progress)


def _nuclear_losses(rows: Tensor) -> Tensor:
    """Return the loss for each row, from the eigenvalues of the smaller Gram matrix."""
    count = len(rows)
    if count <= rows.shape[1]:
        gram = rows @ rows.mT
        there = 1 - torch.eye(count, dtype=rows.dtype, device=rows.device)
        without = gram * there[:, :, None] * there[:, None, :]
    else:
        gram = rows.mT @ rows
        without = gram - rows[:, :, None] * rows[:, None, :]
    return _nuclear(gram) - _nuclear(without)


def _nuclear(gram: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.clamp_min(0).sqrt().sum(-1)
