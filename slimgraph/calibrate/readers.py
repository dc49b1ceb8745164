"""Readers: the layers that read channels which may leave."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimgraph.calibrate.layers import Layer, layers_of
from slimgraph.graph import DependencyGraph, components_of


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer and the channel that each column of its matrix reads.

    Attributes:
        layer: The convolution or linear layer.
        channels: Shape: (groups, columns).
    """

    layer: Layer
    channels: Tensor


def readers_of(graph: DependencyGraph, widest: int = 2**31) -> list[Reader]:
    """List the layers that read channels which can leave.

    Depth-wise convolutions are left out: their channels pass through.

    Args:
        graph: The groups.
        widest: A layer with more columns is left out.
    """
    reads = {read.node.name: read for read in graph.ledger.reads if read.weight is not None}
    found = []
    for layer in layers_of(graph.traced):
        read = reads.get(layer.name)
        axis = None if read is None else graph.ledger.axes.get((str(read.weight), 1))
        groups, _, columns = layer.matrix().shape
        taps = columns // layer.weight.shape[1]
        if axis is None or (groups > 1 and columns == taps) or columns > widest:
            continue
        channels = graph.component[axis.labels].reshape(groups, -1).repeat_interleave(taps, 1)
        if not bool(graph.frozen[channels].all()):
            found.append(Reader(layer, channels))
    return found


def bundles(graph: DependencyGraph, readers: Iterable[Reader]) -> list[list[Reader]]:
    """Sort readers into sets that have no channel in common that can leave."""
    listed, count = list(readers), len(graph.frozen)
    ties = []
    for index, reader in enumerate(listed):
        free = reader.channels[~graph.frozen[reader.channels]]
        ties.append((torch.full_like(free, count + index), free))
    numbers = components_of(ties, count + len(listed))[count:].tolist()
    found: dict[int, list[Reader]] = {}
    for number, reader in zip(numbers, listed, strict=True):
        found.setdefault(number, []).append(reader)
    return list(found.values())
