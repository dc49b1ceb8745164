"""Scores from second moments: what layers miss of a channel once the others make up for it."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from slimgraph.calibrate.lasso import entries, factor_moments
from slimgraph.calibrate.ranks import Progress
from slimgraph.calibrate.readers import bundles, readers_of
from slimgraph.calibrate.sampling import Sampling, moments_of
from slimgraph.calibrate.subsets import Regression, regressions, sweep
from slimgraph.graph import DependencyGraph

Method = Literal["obs", "cap", "lasso"]
Ranking = Callable[[list[Regression], Tensor], tuple[Tensor, Tensor]]


def subset_scores(
    graph: DependencyGraph,
    data: Iterable[Any],
    method: Method = "obs",
    *,
    ridge: float | None = None,
    centered: bool = True,
    sampling: Sampling | None = None,
    progress: Progress = None,
) -> Tensor:
    """Score channels by what the layers that read them lose.

    Convolutions and linear layers are least-squares problems of their inputs; one that reads many
    channels, and a channel that many read, make one problem together.

    Args:
        graph: The groups. The model runs in the mode it is in.
        data: Batches of inputs, or of (inputs, target), without labels.
        method: `obs`: channels leave one by one, each time the one that costs least once the
            weights of the rest are updated; the score is the cost, and never below that of one
            that left before. `cap`: they come one by one, each time the one that explains most.
            `lasso`: the penalty at which a channel's factor becomes zero.
        ridge: On the diagonal of the Gram matrices, relative to its mean; by default more for
            fewer rows, see `Moments.ridge`.
        centered: Whether biases, or norms behind, take the means of what leaves.
        sampling: How moments are taken.
        progress: Called with a line per batch and per channel; by default a bar in the terminal.

    Returns:
        Shares of the energy of layers' outputs; for `lasso`, of the largest penalty. Infinite for
        channels that have to stay, or that no convolution or linear layer reads. Shape:
        (channels,).

    Raises:
        SlimgraphError: The data is empty, or an iterator that would be needed twice.

    Source: see `sweep` and, for `lasso`, He, Zhang, Sun, Channel Pruning for Accelerating Very
    Deep Neural Networks, ICCV 2017, section 3.1.
    """

    def swept(layers: list[Regression], free: Tensor) -> tuple[Tensor, Tensor]:
        backward = method == "obs"
        order, costs = sweep(layers, free, backward=backward, progress=progress)
        return (order, costs) if backward else (order.flip(0), costs.flip(0))

    rank = _by_lasso if method == "lasso" else swept
    free = ~graph.frozen
    result = torch.full((len(free),), torch.inf, dtype=torch.float64)
    sampling = sampling or Sampling()
    sets = bundles(graph, readers_of(graph, sampling.widest))
    layers_of_sets = [[reader.layer for reader in each] for each in sets]
    taken = moments_of(graph.traced, layers_of_sets, data, sampling, progress)
    for readers, moments in zip(sets, taken, strict=True):
        pairs = zip(readers, moments, strict=True)
        layers = [r for pair in pairs for r in regressions(*pair, ridge, centered=centered)]
        if layers:
            order, costs = rank(layers, free)
            result[order] = _rising(costs)
    return result


def _by_lasso(layers: list[Regression], free: Tensor) -> tuple[Tensor, Tensor]:
    channels, gram, cross = factor_moments(layers, free)
    found = torch.from_numpy(entries(gram, cross))
    order = found.argsort(stable=True)
    return channels[order], found[order]


def _rising(costs: Tensor) -> Tensor:
    """Let costs never fall, and hardly rise where they would, so that scores keep the order."""
    steps = 1 + 1e-9 * torch.arange(len(costs), dtype=costs.dtype)
    return costs.clamp_min(0).cummax(0).values * steps
