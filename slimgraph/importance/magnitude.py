"""Scores from the weights alone."""

from collections import defaultdict
from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Axis
from slimgraph.shapes import attribute
from slimgraph.slices import norms_of

MAKES = ("out", "bare")


def _accumulate(graph: DependencyGraph, roles: Iterable[str], order: int) -> tuple[Tensor, Tensor]:
    """Sum the order-th power of the norms of every slice of every tied axis, and count slices.

    Returns:
        Two float64 vectors of shape (channels,).

    Raises:
        SlimgraphError: A weight holds NaN or infinite numbers, which its norms show.
    """
    axes = [axis for axis in graph.ledger.axes.values() if axis.role in roles]
    labels = [torch.zeros(0, dtype=torch.long), *(axis.labels.flatten() for axis in axes)]
    channels = graph.component[torch.cat(labels)]
    found = [_norms(attribute(graph.traced, axis.parameter), axis, order).cpu() for axis in axes]
    norms = torch.cat([torch.zeros(0), *found]).double()  # all at once: most hold few numbers
    total = torch.bincount(channels, norms**order, minlength=len(graph.frozen))
    count = torch.bincount(channels, minlength=len(graph.frozen)).double()
    if not bool(total.isfinite().all()):
        check_finite(graph)
    return total, count


def _norms(tensor: Tensor, axis: Axis, order: int) -> Tensor:
    """Return the norm of the weights at each position of an axis."""
    tensor = tensor.detach()
    if not tensor.is_floating_point():  # positions to pick say nothing of what they pick
        return torch.zeros(axis.labels.numel())
    blocks = len(axis.labels) if axis.labels.ndim > 1 else 1
    return norms_of(tensor, axis.dim, blocks, order)


def check_finite(graph: DependencyGraph, scored: Container[str] = ()) -> None:
    """Refuse weights that no score can rank.

    Buffers may well be infinite: masks of attention and bounds of clamps are. Statistics may not.

    Args:
        graph: Of the model.
        scored: Roles of axes whose finite norms have shown that their weights are finite.

    Raises:
        SlimgraphError: A parameter or a statistic holds NaN or infinite numbers.
    """
    axes = graph.ledger.axes.values()
    statistics = {axis.parameter for axis in axes if axis.role == "statistic"}
    finite = {axis.parameter for axis in axes if axis.role in scored}
    asked = {
        name: tensor
        for name, tensor in graph.stored.items()
        if name not in finite
        and (name in statistics or isinstance(tensor, nn.Parameter))
        and tensor.is_floating_point()
    }
    small = {name: tensor for name, tensor in asked.items() if tensor.ndim < 2 and tensor.numel()}
    if _are_finite(small.values()):  # hundreds of them, so they are looked at together
        asked = {name: tensor for name, tensor in asked.items() if name not in small}
    for name, tensor in asked.items():
        if not _are_finite([tensor]):
            raise SlimgraphError(
                f"`{name}` holds NaN or infinite numbers",
                hint="load another checkpoint; training probably diverged",
            )


def _are_finite(tensors: Iterable[Tensor]) -> bool:
    """Look at the extremes alone: `isfinite` of every number would double the memory."""
    kinds: dict[Any, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.numel():
            kinds[tensor.dtype, tensor.device].append(tensor.detach())
    for alike in kinds.values():
        whole = alike[0] if len(alike) == 1 else torch.cat([tensor.flatten() for tensor in alike])
        low, high = torch.aminmax(whole)  # NaN if there is any
        if not bool(low.isfinite() & high.isfinite()):
            return False
    return True


def norm(graph: DependencyGraph, order: int) -> Tensor:
    """Norm of all weights that make a channel, in every module tied to it.

    A channel that a consumer selects is made by none: the weights that read it count.

    Args:
        graph: The groups.
        order: 1 or 2 (dimensionless).

    Returns:
        Shape: (channels,), in units of the weights; infinite for channels no weight makes.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1 (order 1);
    summed over tied modules as in Fang et al., DepGraph, CVPR 2023, section 3.3.
    """
    total, count = _accumulate(graph, MAKES, order)
    chosen = graph.selected.selected
    chosen = chosen[count[chosen] == 0]
    if len(chosen):
        read, readers = _accumulate(graph, ("in",), order)
        total[chosen], count[chosen] = read[chosen], readers[chosen]
    return _where(count > 0, total ** (1 / order))


def batch_norm_scale(graph: DependencyGraph) -> Tensor:
    """Mean absolute scale of the normalisations a channel goes through.

    Returns:
        Shape: (channels,), dimensionless; infinite for channels without any scale.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming,
    ICCV 2017, section 3.
    """
    total, count = _accumulate(graph, ("scale",), 1)
    return _where(count > 0, total / count.clamp(min=1))


def out_in_energy(graph: DependencyGraph) -> Tensor:
    """Sum of squares of the weights that make a channel and of those that read it.

    Returns:
        Shape: (channels,), in squared units of the weights.

    Source: Li et al., OICSR: Out-In-Channel Sparsity Regularization, CVPR 2019, section 3
    (best reading: the paper's normalisation is not public).
    """
    total, count = _accumulate(graph, (*MAKES, "in"), 2)
    return _where(count > 0, total)


def uniform(graph: DependencyGraph, seed: int) -> Tensor:
    """Random scores in (0, 1]. Shape: (channels,)."""
    generator = torch.Generator().manual_seed(seed)
    return 1 - torch.rand(len(graph.frozen), generator=generator, dtype=torch.float64)


def _where(known: Tensor, scores: Tensor) -> Tensor:
    return torch.where(known, scores, torch.full_like(scores, torch.inf))
