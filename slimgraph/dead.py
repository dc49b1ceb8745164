"""Dead channels: those that no consumer can tell from zero, so that removing them loses nothing."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slimgraph.constants import Constants
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Read, compact
from slimgraph.select.blocks import Legality
from slimgraph.shapes import attribute


def dead_channels(graph: DependencyGraph) -> Tensor:
    """Find channels whose removal changes no output.

    A channel is dead if at every consumer its value is exactly zero (its weights, bias and
    BatchNorm shift are, as sparsity training and `torch.nn.utils.prune` leave them, and the
    activations between keep zero), or all the consumer's weights for it are.

    Args:
        graph: The groups; weights are read, never written.

    Returns:
        Bool tensor, True = dead and removable: a smaller model without them exists.
        Shape: (channels,).
    """
    finder = _Finder(graph)
    while finder.grow():
        pass
    scores = torch.zeros(len(graph.frozen), dtype=torch.float64)
    return ~Legality(graph, scores).repair(~finder.dead)


@dataclass(eq=False, slots=True)
class _Finder:
    """The set of dead channels while it grows; mutable, since each one may free others."""

    graph: DependencyGraph
    dead: Tensor = field(init=False)
    _used: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dead = torch.zeros(len(self.graph.frozen), dtype=torch.bool)

    def grow(self) -> bool:
        """Look once more at all consumers; return whether more channels are dead."""
        constants = Constants(self.graph, lambda name: self.live(name, 0))
        needed = self.graph.frozen.clone()
        for read in self.graph.ledger.reads:
            for layer in read.value.layers:
                alive = self._needed(read, layer, constants)
                channels = self.graph.component[compact(layer)].expand(alive.shape)
                needed[channels[alive]] = True
        found = ~self.graph.selected.with_sources(needed)
        grew = bool((found & ~self.dead).any())
        self.dead = self.dead | found
        return grew

    def _needed(self, read: Read, layer: Tensor, constants: Constants) -> Tensor:
        """Mark the positions of a layer that this consumer can tell from zero."""
        labels = compact(layer)
        node = read.value.node
        known = None if node is None else constants.of(node)
        alive = torch.ones(labels.shape, dtype=torch.bool)
        if known is not None:
            alive = compact(known.expand(layer.shape)) != 0
            for dim, size in enumerate(labels.shape):
                alive = alive.any(dim, keepdim=True) if size == 1 else alive
            alive = alive.expand(labels.shape)
        if self.graph.kinds[read.node] == "norm" or read.fill != 0:
            return torch.ones_like(labels, dtype=torch.bool)
        if read.weight is not None:
            axis = self.graph.ledger.axes.get((read.weight, read.dim))
            if axis is not None:
                used = self.live(read.weight, read.dim, output=False)
                live = torch.zeros(len(self.dead), dtype=torch.bool)
                live[self.graph.component[axis.labels.flatten()[used]]] = True
                alive = alive & live[self.graph.component[labels]]
        return alive

    def live(self, weight: str, dim: int, *, output: bool = True) -> Tensor:
        """Mark the channels along a side of a weight for which any number is left.

        Returns:
            Bool vector over the output channels, or over the positions of the input axis.
        """
        axes = self.graph.ledger.axes
        if output:
            dim = next(
                (d for d in (0, 1) if (weight, d) in axes and axes[weight, d].role == "out"), 0
            )
        used = self._entries(weight)
        grouped = next(
            (a for d in (0, 1) if (a := axes.get((weight, d))) and a.labels.ndim > 1), None
        )
        if dim == 0:
            return used.any(1)
        if grouped is None:
            return used.any(0)
        groups = len(grouped.labels)
        return used.reshape(groups, -1, used.shape[1]).any(1).flatten()

    def _entries(self, weight: str) -> Tensor:
        """Mark nonzero (dim 0, dim 1) slices of a weight between channels that are not dead."""
        if weight not in self._used:
            tensor = attribute(self.graph.traced, weight).detach()
            used = tensor != 0
            self._used[weight] = (used.flatten(2).any(2) if used.ndim > 2 else used).cpu()
        used = self._used[weight].clone()
        for dim in (0, 1):
            axis = self.graph.ledger.axes.get((weight, dim))
            if axis is None:
                continue
            alive = ~self.dead[self.graph.component[axis.labels]]
            if alive.ndim > 1:
                groups = len(alive)
                blocks = used.reshape(groups, -1, used.shape[1]) & alive[:, None]
                used = blocks.reshape(used.shape)
            else:
                used = used & (alive[:, None] if dim == 0 else alive)
        return used
