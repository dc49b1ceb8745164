"""Dead channels: those whose removal loses nothing, since consumers can do without them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slimgraph.connections import Connections
from slimgraph.constants import Constants
from slimgraph.effects import takes_constants
from slimgraph.graph import DependencyGraph
from slimgraph.keeping import Semantics
from slimgraph.labels import Read, compact
from slimgraph.select.blocks import Legality


@dataclass(frozen=True, eq=False)
class Dead:
    """What can leave without changing an output.

    Attributes:
        channels: Bool tensor, True = dead and removable: a smaller model without them exists.
            Shape: (channels,).
        constants: What is known of all values.
    """

    channels: Tensor
    constants: Constants


def dead_channels(graph: DependencyGraph, constants: Semantics = "zero") -> Tensor:
    """Find channels whose removal changes no output; see `find_dead`."""
    return find_dead(graph, constants).channels


def find_dead(graph: DependencyGraph, constants: Semantics = "zero") -> Dead:
    """Find channels whose removal changes no output.

    A channel is dead if at every consumer its value is exactly zero (its weights, bias and
    BatchNorm shift are, as sparsity training and `torch.nn.utils.prune` leave them, and the
    activations between keep zero), or all the consumer's weights for it are.

    Args:
        graph: The groups; weights are read, never written.
        constants: With "keep", a channel is dead too if its value is any other constant, at
            consumers that can be given its effect in another way.
    """
    finder = _Finder(graph, constants)
    while finder.grow():
        pass
    scores = torch.zeros(len(graph.frozen), dtype=torch.float64)
    channels = ~Legality(graph, scores).repair(~finder.dead)
    return Dead(channels, finder.constants())


@dataclass(eq=False, slots=True)
class _Finder:
    """The set of dead channels while it grows; mutable, since each one may free others.

    Attributes:
        silent: Those that count as zero; `dead` has other constants besides.
    """

    graph: DependencyGraph
    semantics: Semantics
    dead: Tensor = field(init=False)
    silent: Tensor = field(init=False)
    connections: Connections = field(init=False)

    def __post_init__(self) -> None:
        self.dead = torch.zeros(len(self.graph.frozen), dtype=torch.bool)
        self.silent = self.dead
        self.connections = Connections(self.graph, self.graph.traced)

    def constants(self) -> Constants:
        """Find what is known of all values if silent channels count as zero."""
        return Constants(self.graph, self._made)

    def _made(self, weight: str, dim: int) -> Tensor:
        return self.connections.ends(weight, dim, self.silent)

    def grow(self) -> bool:
        """Look once more at all consumers; return whether more channels are dead."""
        constants = self.constants()
        heard, needed = self.graph.frozen.clone(), self.graph.frozen.clone()
        for read in self.graph.ledger.reads:
            for layer in read.value.layers:
                index = self.graph.component[compact(layer)]
                told = self._told_from_zero(read, layer, constants)
                heard[index[told]] = True
                if self.semantics == "keep" and takes_constants(self.graph, read):
                    told = told & ~_is_constant(read, layer, constants)
                needed[index[told]] = True
        heard, needed = self._with_others(heard), self._with_others(needed)
        before = int(self.dead.sum()) + int(self.silent.sum())
        self.dead, self.silent = self.dead | ~needed, self.silent | ~heard
        return int(self.dead.sum()) + int(self.silent.sum()) > before

    def _with_others(self, needed: Tensor) -> Tensor:
        """Add what needed channels are selected from, what stands for them, and their blocks."""
        needed, before = needed.clone(), -1
        while int(needed.sum()) != before:
            before = int(needed.sum())
            for heads, rows in self.graph.heads:
                some = needed[rows].any(1)
                needed[rows[needed[heads] & ~some]] = True
                needed[heads[some]] = True
            needed = self.graph.selected.with_sources(needed)
        return needed

    def _told_from_zero(self, read: Read, layer: Tensor, constants: Constants) -> Tensor:
        """Mark the positions of a layer that this consumer can tell from zero."""
        labels = compact(layer)
        if self.graph.kinds[read.node] == "norm" or read.fill != 0:
            return torch.ones_like(labels, dtype=torch.bool)
        alive = _known(read, layer, constants).ne(0).any(-1)
        axis = None if read.weight is None else self.graph.ledger.axes.get((read.weight, read.dim))
        if axis is not None and read.weight is not None:
            used = self.connections.ends(read.weight, read.dim, self.dead)
            live = torch.zeros(len(self.dead), dtype=torch.bool)
            live[self.graph.component[axis.labels.flatten()[used]]] = True
            alive = alive & live[self.graph.component[labels]]
        return alive


def _known(read: Read, layer: Tensor, constants: Constants) -> Tensor:
    """Return what is known of each position of a layer, all that share it in a last dim."""
    labels = compact(layer)
    found = None if read.value.node is None else constants.of(read.value.node)
    known = torch.tensor(torch.nan, dtype=torch.float64) if found is None else found
    known = compact(known.expand(layer.shape))
    for dim, size in enumerate(labels.shape):
        if size > 1:
            shape = [size if d == dim else known.shape[d] for d in range(known.ndim)]
            known = known.expand(shape)
    kept = [dim for dim, size in enumerate(labels.shape) if size > 1]
    others = [dim for dim in range(known.ndim) if dim not in kept]
    return known.permute(*kept, *others).flatten(len(kept)).reshape(*labels.shape, -1)


def _is_constant(read: Read, layer: Tensor, constants: Constants) -> Tensor:
    """Mark the positions of a layer at which one constant stands."""
    known = _known(read, layer, constants)
    return (known == known[..., :1]).all(-1)
