"""Readers: the layers that read channels which may leave, and the moments of what they read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimgraph.calibrate.layers import Layer, layers_of
from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.ranks import Progress, tracked
from slimgraph.calibrate.running import Watch, batches, check_repeatable, watched
from slimgraph.graph import DependencyGraph, components_of


@dataclass(frozen=True)
class Sampling:
    """How moments are taken.

    Attributes:
        points: Positions per image; for linear layers on sequences, too.
        seed: For the positions.
        memory: Bytes that Gram matrices may take at a time; if they need more, the data is gone
            through several times.
        widest: A layer with more columns (inputs times kernel positions) is left out.
    """

    points: int = 10
    seed: int = 0
    memory: int = 2**31
    widest: int = 8192


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer and the channel that each column of its matrix reads.

    Attributes:
        layer: The convolution or linear layer.
        channels: Shape: (groups, columns).
    """

    layer: Layer
    channels: Tensor

    @property
    def size(self) -> int:
        """Bytes of its Gram matrices."""
        groups, columns = self.channels.shape
        return 8 * groups * columns**2


def readers_of(graph: DependencyGraph, widest: int = 2**31) -> list[Reader]:
    """List the layers that read channels which can leave.

    Depth-wise convolutions are left out: their channels pass through.

    Args:
        graph: The groups.
        widest: See `Sampling`.
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


def moments_of(
    graph: DependencyGraph, data: Iterable[Any], sampling: Sampling, progress: Progress
) -> Iterator[list[tuple[Reader, Moments]]]:
    """Take the moments of what readers read, bundle by bundle.

    Args:
        graph: The groups; the model runs in the mode it is in.
        data: Batches; gone through once per `sampling.memory` of Gram matrices.
        sampling: How.
        progress: See `tracked`.

    Raises:
        SlimgraphError: The data is empty, or an iterator that would be needed twice.
    """
    pending = bundles(graph, readers_of(graph, sampling.widest))
    while pending:
        taken, size = 0, 0
        for bundle in pending:
            size += sum(reader.size for reader in bundle)
            if taken and size > sampling.memory:
                break
            taken += 1
        now, pending = pending[:taken], pending[taken:]
        if pending:
            check_repeatable(data)
        found = _moments(graph, [r for b in now for r in b], data, sampling, progress)
        for bundle in now:
            yield [(reader, found[reader.layer.name]) for reader in bundle]


@torch.no_grad()
def _moments(
    graph: DependencyGraph,
    readers: list[Reader],
    data: Iterable[Any],
    sampling: Sampling,
    progress: Progress,
) -> dict[str, Moments]:
    """Go through the data once."""
    chance = torch.Generator().manual_seed(sampling.seed)
    found: dict[str, Moments] = {}
    batch_size = [1]

    def watch(reader: Reader) -> Watch:
        layer = reader.layer
        groups, columns = reader.channels.shape
        own = Moments(groups, columns, 0, layer.weight.device)
        found[layer.name] = own

        def see(x: Tensor, y: Tensor) -> None:
            places = layer.draw(y, sampling.points, batch_size[0], chance)
            rows, made = layer.rows(x, y, places)
            own.add(rows, made[..., :0])

        return see

    model = watched(graph.traced, {reader.layer.name: watch(reader) for reader in readers})
    for inputs in batches(model, tracked(data, "moments of inputs", progress)):
        batch_size[0] = inputs[0].shape[0]
        model(*inputs)
    for own in found.values():
        own.all_reduce()
    return found
