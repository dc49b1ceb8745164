"""Connections: which channels a weight still joins, judged by what of it is not zero."""

from dataclasses import dataclass, field

from torch import Tensor, fx

from slimgraph.graph import DependencyGraph
from slimgraph.shapes import attribute


@dataclass(frozen=True, eq=False, slots=True)
class Connections:
    """The nonzero entries of every weight of a model.

    Attributes:
        graph: The groups.
        model: Holds the weights: the analysed model, or one with other numbers in it.
    """

    graph: DependencyGraph
    model: fx.GraphModule
    _entries: dict[str, Tensor] = field(default_factory=dict)

    def ends(self, weight: str, dim: int, gone: Tensor) -> Tensor:
        """Mark the positions along a dim of a weight that reach a channel at its other end.

        Args:
            weight: Its name.
            dim: 0 or 1.
            gone: Channels at the other end that do not count. Shape: (channels,).

        Returns:
            Bool vector; of a grouped weight over the channels of all groups.
        """
        used = self._nonzero(weight)
        axes = self.graph.ledger.axes
        other = axes.get((weight, 1 - dim))
        if other is not None:
            alive = ~gone[self.graph.component[other.labels]]
            if alive.ndim > 1:
                blocks = used.reshape(len(alive), -1, used.shape[1]) & alive[:, None]
                used = blocks.reshape(used.shape)
            else:
                used = used & (alive[:, None] if dim == 1 else alive)
        if dim == 0:
            return used.any(1)
        own = axes.get((weight, 1))
        if own is None or own.labels.ndim == 1:
            return used.any(0)
        return used.reshape(len(own.labels), -1, used.shape[1]).any(1).flatten()

    def _nonzero(self, weight: str) -> Tensor:
        """Mark the slices between dim 0 and dim 1 in which any number is left."""
        if weight not in self._entries:
            used = attribute(self.model, weight).detach() != 0
            self._entries[weight] = (used.flatten(2).any(2) if used.ndim > 2 else used).cpu()
        return self._entries[weight]
