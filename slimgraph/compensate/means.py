"""Bias compensation: a channel that leaves goes on as its mean, in the biases of its readers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from slimgraph.analysis import analyze
from slimgraph.calibrate.layers import Layer
from slimgraph.calibrate.ranks import Progress, all_reduce, tracked
from slimgraph.calibrate.running import batches, watched
from slimgraph.compensate.expectations import Expectations
from slimgraph.compensate.pairs import Pair, add_shift, pairs_of, takes_shift
from slimgraph.graph import DependencyGraph


@torch.no_grad()
def shift_means(
    dense: fx.GraphModule | DependencyGraph,
    slim: fx.GraphModule,
    data: Iterable[Any] | None = None,
    *,
    progress: Progress = None,
) -> list[str]:
    """Add to the biases of layers the mean of what they got from channels that left.

    Borders count: where a kernel hangs over zero padding, it gets less. The shift is the mean over
    all positions, of `W E[x]` for the channels that left.

    Args:
        dense: The traced model before, or its graph; nothing in it changes.
        slim: What `compress` returns for it; its biases change, or the means of norms behind
            layers without one.
        data: Batches of inputs, or of (inputs, target), without labels. Without data, means come
            from batch norms: a channel is a Gaussian with the norm's shift and scale, sent through
            the activation; what no norm tells of counts as zero, as before.
        progress: Called with a line per batch; by default a bar in the terminal.

    Returns:
        The names of the weights of the layers that changed.

    Raises:
        SlimgraphError: The models do not belong together, or the data is empty.

    Source: with data, the intercept of least squares alone; without, see `Expectations`.
    """
    model = dense.traced if isinstance(dense, DependencyGraph) else dense
    pairs = [p for p in pairs_of(model, slim) if takes_shift(slim, p.slim, new=True)]
    if data is not None:
        shifts = _measured(model, pairs, data, progress)
    else:
        graph = dense if isinstance(dense, DependencyGraph) else analyze(dense)
        shifts = _expected(graph, pairs)
    changed = [(pair, shift) for pair, shift in zip(pairs, shifts, strict=True) if shift.any()]
    for pair, shift in changed:
        add_shift(slim, pair.slim, pair.outputs(shift))
    return [pair.slim.key for pair, _ in changed]


def _measured(
    model: fx.GraphModule, pairs: list[Pair], data: Iterable[Any], progress: Progress
) -> list[Tensor]:
    """Average what lost columns make, over images and positions."""
    sums = [pair.dense.weight.new_zeros(1 + len(pair.dense.weight)).double() for pair in pairs]

    def see(total: Tensor, pair: Pair) -> Callable[[Tensor, Tensor], None]:
        def add(x: Tensor, y: Tensor) -> None:
            layer = pair.dense
            count = y.numel() // layer.weight.shape[0]
            total[0] += count
            mean = x.double().mean(0, keepdim=True) if layer.stride else _rows(x).double().mean(0)
            total[1:] += count * _lost_output(pair, mean)

        return add

    watch = {pair.dense.name: see(total, pair) for total, pair in zip(sums, pairs, strict=True)}
    seeing = watched(model, watch)
    for inputs in batches(seeing, tracked(data, "means of inputs", progress)):
        seeing(*inputs)
    all_reduce(*sums)
    return [total[1:] / total[0] for total in sums]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _expected(graph: DependencyGraph, pairs: list[Pair]) -> list[Tensor]:
    """Do the same for what batch norms say of the inputs."""
    known = Expectations(graph)
    nodes = {node.name: node for node in graph.traced.graph.nodes}
    found = []
    for pair in pairs:
        layer, source = pair.dense, nodes[pair.dense.name].all_input_nodes[0]
        mean = known.of(source)
        if mean is None:
            found.append(torch.zeros(len(layer.weight)))
            continue
        mean = mean.nan_to_num().to(layer.weight.device)
        mean = mean[:1] if layer.stride else _rows(mean[..., :]).mean(0)
        found.append(_lost_output(pair, mean))
    return found


def _lost_output(pair: Pair, mean: Tensor) -> Tensor:
    """Return what a layer makes of the mean of what it lost, averaged over positions.

    Args:
        pair: The layer.
        mean: Shape: (1, in, *space), or (in,).
    """
    layer: Layer = pair.dense
    lost = layer.matrix().double() * ~pair.columns[:, None, :]
    made = layer.apply(mean, lost.reshape(layer.weight.shape))
    return made.flatten(2).mean(2)[0] if layer.stride else made
