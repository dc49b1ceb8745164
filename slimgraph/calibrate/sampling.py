"""Moments of what many layers read, in few passes over the data."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from slimgraph.calibrate.layers import Layer
from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.ranks import Progress, tracked
from slimgraph.calibrate.running import Watch, batches, check_repeatable, images_in, watched


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


def moments_of(
    model: fx.GraphModule,
    sets: Sequence[Sequence[Layer]],
    data: Iterable[Any],
    sampling: Sampling,
    progress: Progress,
) -> Iterator[list[Moments]]:
    """Take the moments of what layers read, for one set of layers after the other.

    Args:
        model: Runs in the mode it is in.
        sets: Layers whose moments are wanted at the same time.
        data: Batches; gone through once per `sampling.memory` of Gram matrices.
        sampling: How.
        progress: See `tracked`.

    Raises:
        SlimgraphError: The data is empty, or an iterator that would be needed twice.
    """
    pending = list(sets)
    while pending:
        taken, size = 0, 0
        for layers in pending:
            size += sum(layer.gram_bytes for layer in layers)
            if taken and size > sampling.memory:
                break
            taken += 1
        now, pending = pending[:taken], pending[taken:]
        if pending:
            check_repeatable(data)
        found = _moments(model, [layer for each in now for layer in each], data, sampling, progress)
        for layers in now:
            yield [found.pop(layer.name) for layer in layers]


@torch.no_grad()
def _moments(
    model: fx.GraphModule,
    layers: list[Layer],
    data: Iterable[Any],
    sampling: Sampling,
    progress: Progress,
) -> dict[str, Moments]:
    """Go through the data once."""
    chance = torch.Generator().manual_seed(sampling.seed)
    found: dict[str, Moments] = {}
    images = [1]

    def watch(layer: Layer) -> Watch:
        groups, _, columns = layer.matrix().shape
        own = found[layer.name] = Moments(groups, columns, 0, layer.weight.device)

        def see(x: Tensor, y: Tensor) -> None:
            rows, made = layer.rows(x, y, layer.draw(y, sampling.points, images[0], chance))
            own.add(rows, made[..., :0])

        return see

    seeing = watched(model, {layer.name: watch(layer) for layer in layers})
    for inputs in batches(seeing, tracked(data, "moments of inputs", progress)):
        images[0] = images_in(inputs)
        seeing(*inputs)
    for own in found.values():
        own.all_reduce()
    return found
