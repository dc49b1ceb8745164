"""Layer by layer: choose the channels to keep, then make up for the others, before the next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from slimgraph.analysis import analyze
from slimgraph.calibrate.lasso import chosen, entries, factor_moments
from slimgraph.calibrate.layers import Layer, layers_of
from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.ranks import Progress, silent, tracked
from slimgraph.calibrate.readers import Reader, readers_of
from slimgraph.calibrate.running import check_repeatable
from slimgraph.calibrate.sampling import Sampling
from slimgraph.calibrate.subsets import Regression, regressions, sweep
from slimgraph.cloning import clone
from slimgraph.compensate.differences import errors_of
from slimgraph.compensate.least_squares import Repaired, refit
from slimgraph.compensate.pairs import takes_shift
from slimgraph.compress import compress, masked
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.groups import Group
from slimgraph.mask import Mask
from slimgraph.plan import like, put_all
from slimgraph.select.blocks import Legality
from slimgraph.shapes import modules_of, names_of, stored_tensors

Ranking = Literal["lasso", "obs", "cap"]


@dataclass(frozen=True, eq=False)
class Pruned:
    """What `prune_in_turn` returns.

    Attributes:
        model: The compressed model, with its plan.
        mask: What was kept.
        repaired: One entry per layer whose weights changed.
    """

    model: fx.GraphModule
    mask: Mask
    repaired: tuple[Repaired, ...]


@torch.no_grad()
def prune_in_turn(
    graph: DependencyGraph,
    counts: Mapping[str, Any],
    data: Iterable[Any],
    *,
    by: Ranking = "lasso",
    ridge: float | None = None,
    sampling: Sampling | None = None,
    progress: Progress = None,
) -> Pruned:
    """Choose channels and reconstruct layers, one layer after the other.

    What a layer should make is what it makes in the model before; what it reads comes from the
    model as it is by then. Channels that many layers read are chosen by all of them, when the
    first has its turn. With `slimgraph.with_selections` the first layer of a branch chooses
    channels for itself, and its shortcut stays.

    Args:
        graph: The groups; its model does not change.
        counts: By name of a group, how many of its channels stay: a number, or what a mask says
            of that group, of which only the number counts. Which channels stay may change what
            the model costs, so a mask's budget is met about, not exactly.
        data: Batches of inputs, or of (inputs, target), without labels; gone through once per
            layer, and for each group once per layer that reads it, so a list or a loader, not an
            iterator.
        by: `lasso`: channels whose factors a LASSO leaves; `obs`: those left by backward
            elimination; `cap`: those that explain most.
        ridge: On the diagonal of the Gram matrices, relative to its mean; by default more for
            fewer rows, see `Moments.ridge`.
        sampling: How moments are taken.
        progress: Called with a line per layer; by default a bar in the terminal.

    Returns:
        The compressed model and the mask; exactly as many channels as asked for, but for those
        that groups of convolutions or heads need to stay equally long.

    Raises:
        UnknownGroupError: `counts` names no group.
        BudgetError: A number is out of range, or no convolution or linear layer reads the group.
        SlimgraphError: The data is empty, or can be gone through only once.

    Source: He, Zhang, Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017,
    sections 3.1 to 3.3. As in its authors' code, the LASSO runs before the reconstruction, not in
    turns with it; unlike there, exactly as many channels stay as asked for.
    """
    check_repeatable(data)
    turn = _Turn(graph, data, sampling or Sampling(), ridge)
    wanted = {name: (graph.group_of(name), _count(count)) for name, count in counts.items()}
    found: list[Repaired] = []
    for layer in tracked(list(layers_of(turn.current)), "prune layers", progress):
        for name, (group, count) in list(wanted.items()):
            if turn.reads(layer, group.components):
                turn.decide(group, count, by)
                del wanted[name]
        repaired = turn.refit(layer)
        found += [] if repaired is None else [repaired]
    for name in wanted:
        raise BudgetError(
            f"no convolution or linear layer reads group `{name}`",
            hint="leave it out, and compress the result once more by another criterion",
        )
    mask = Mask.of_channels(graph, turn.keep)
    return Pruned(compress(turn.graph, mask), mask, tuple(found))


def _count(given: Any) -> int:
    return int(torch.as_tensor(given).sum())


class _Turn:
    """A model of full size whose weights change, and what stays of its channels so far."""

    def __init__(
        self, graph: DependencyGraph, data: Iterable[Any], sampling: Sampling, ridge: float | None
    ) -> None:
        self.before, self.data, self.sampling, self.ridge = graph, data, sampling, ridge
        self.current = _own_copy(graph.traced)
        self.graph = analyze(self.current, rules=graph.rules)
        self.readers = {reader.layer.name: reader for reader in readers_of(self.graph)}
        self.keep = torch.ones(len(graph.frozen), dtype=torch.bool)
        self.masked = self.current  # the same weights, but what has left counts as zero

    def reads(self, layer: Layer, channels: Tensor) -> bool:
        """Return whether a layer reads any of some channels that can leave."""
        reader = self.readers.get(layer.name)
        return reader is not None and bool(torch.isin(channels, reader.channels).any())

    def _measure(self, layer: Layer) -> tuple[Moments, float]:
        return errors_of(self.before.traced, self.masked, layer, self.data, self.sampling)

    def decide(self, group: Group, count: int, by: Ranking) -> None:
        """Choose which channels of a group leave."""
        free = torch.zeros_like(self.keep)
        free[group.components[~group.frozen]] = True
        free &= self.keep & ~self.before.selected.orphans(self.keep)
        least = int(group.frozen.sum())
        if not max(least, 1) <= count <= group.size:
            raise BudgetError(
                f"{count} channels of group `{group.name}` cannot stay",
                hint=f"say a number from {max(least, 1)} to {group.size}",
            )
        layers = [r for reader in self.readers.values() for r in self._regressions(reader, free)]
        scores = torch.full(self.keep.shape, torch.inf, dtype=torch.double)
        scores[free] = 0.0
        if layers:  # else what is read makes nothing but zeros
            _rank(scores, layers, free, count - least, by)
        legality = Legality(self.before, scores)
        gone = _lowest(legality, group.components[self.keep[group.components]], count)
        self.keep = legality.repair(self.keep & ~gone)
        self.masked = masked(self.graph, Mask.of_channels(self.graph, self.keep))

    def _regressions(self, reader: Reader, free: Tensor) -> list[Regression]:
        """Return what a layer would have to make of all that is left."""
        if not bool(free[reader.channels].any()):
            return []
        layer = reader.layer
        moments, _ = self._measure(layer)
        intercept = takes_shift(self.current, layer, new=False)
        change, _ = moments.solve(self.ridge, intercept=intercept)
        target = layer.matrix().double() + change
        return regressions(reader, moments, self.ridge, centered=intercept, target=target)

    def refit(self, layer: Layer) -> Repaired | None:
        """Make up for what has left, in this layer and before."""
        return refit(self.current, layer, *self._measure(layer), self.ridge)


def _own_copy(model: fx.GraphModule) -> fx.GraphModule:
    """Copy a model with tensors of its own."""
    result = clone(model)
    stored = stored_tensors(result)
    for names in names_of(stored).values():
        old = stored[names[0]]
        put_all(modules_of(result), dict.fromkeys(names, like(old, old.detach().clone())))
    return result


def _rank(scores: Tensor, layers: list[Regression], free: Tensor, count: int, by: Ranking) -> None:
    """Score the channels of a group so that the ones to keep have the highest scores."""
    if by == "lasso":
        channels, gram, cross = factor_moments(layers, free)
        scores[channels] = torch.from_numpy(entries(gram, cross)) + 2 * chosen(gram, cross, count)
        return
    backward = by == "obs"
    order, _ = sweep(layers, free, backward=backward, progress=silent)
    places = torch.arange(1, len(order) + 1, dtype=torch.double)
    scores[order] = places if backward else places.flip(0)


def _lowest(legality: Legality, channels: Tensor, count: int) -> Tensor:
    """Mark the sets of channels with the lowest scores that may leave if so many stay."""
    sets, place, sizes = legality.atoms[channels].unique(return_inverse=True, return_counts=True)
    means = torch.bincount(place, legality.scores[channels]) / sizes
    order = means.argsort(stable=True)
    fits = (sizes[order].cumsum(0) <= len(channels) - count) & means[order].isfinite()
    return torch.isin(legality.atoms, sets[order[fits]])
