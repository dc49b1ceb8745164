"""What may leave, in which sets and in which order: the part that all ways of choosing share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from slimgraph.cost import CostModel, Unit
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Heads
from slimgraph.naming import named_channels
from slimgraph.select.blocks import Legality

_HALVINGS = 30


@dataclass(frozen=True)
class Limits:
    """What every choice heeds.

    Attributes:
        max_removed: At most this share of any group's channels leaves.
        round_to: Each group keeps a multiple of this many channels, or all.
        keep: What stays whole, by name; as `freeze` of `analyze`.
        heads: What leaves of attention: `dims`, as many of the channels of every head, or `whole`
            heads, by the mean score of their channels.

    Raises:
        BudgetError: An option is out of range.
    """

    max_removed: float = 1.0
    round_to: int = 1
    keep: tuple[str, ...] = ()
    heads: Heads = "dims"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_known("heads", self.heads, Heads)
        if self.round_to < 1 or not 0 <= self.max_removed <= 1:
            raise BudgetError("`round_to` must be at least 1 and `max_removed` lie in [0, 1]")


def check_known(name: str, given: str, kind: Any) -> None:
    """Refuse a word that is none of a `Literal`.

    Raises:
        BudgetError: It is not.
    """
    known = get_args(kind)
    if given not in known:
        raise BudgetError(f"unknown {name} `{given}`", hint=f"use {' or '.join(known)}")


@dataclass(frozen=True, eq=False)
class Candidates:
    """The sets of channels that may leave a model.

    Attributes:
        graph: The groups.
        scores: Higher = keep; infinite = always. Shape: (channels,).
        limits: What stays in any case.

    Raises:
        BudgetError: Nothing can leave.
        UnknownGroupError: `limits.keep` names nothing.
    """

    graph: DependencyGraph
    scores: Tensor
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Refuse a model that cannot shrink."""
        if not any(group.prunable for group in self.graph.groups):
            raise BudgetError(
                "no channel of this model can leave", hint="`graph.explain(name)` says why"
            )

    @cached_property
    def model(self) -> CostModel:
        """What the model costs."""
        return CostModel(self.graph)

    @cached_property
    def legality(self) -> Legality:
        """What a smaller model can realise."""
        whole = self.limits.heads == "whole"
        return Legality(self.graph, self.scores, self.limits.round_to, whole)

    @property
    def atoms(self) -> Tensor:
        """Per channel, the index of the set it leaves with. Shape: (channels,)."""
        return self.legality.atoms

    @property
    def everything(self) -> Tensor:
        """All channels, as a choice. Shape: (channels,)."""
        return torch.ones(len(self.scores), dtype=torch.bool)

    def cost(self, keep: Tensor, unit: Unit) -> int:
        """Return the cost of what is left."""
        found: int = getattr(self.model.totals(keep), unit)
        return found

    @cached_property
    def locked(self) -> Tensor:
        """Mark what stays: frozen or unscored channels, named groups, the best of every group."""
        locked = ~self.model.prunable | self.scores.isinf()  # heads too
        if self.legality.whole_heads:
            locked &= ~self.graph.is_head
        locked |= self.graph.frozen
        for channels, _ in named_channels(self.graph, self.limits.keep, "keep"):
            locked[channels] = True
        for group in self.graph.groups:
            allowed = min(int(group.size * self.limits.max_removed), group.size - 1)
            locked[group.components[self._beyond(group.components, allowed)]] = True
        locked = self.graph.selected.with_sources(locked)
        spread = torch.zeros_like(locked)
        spread[self.atoms[locked]] = True
        return spread[self.atoms]  # a set with one locked channel is locked

    def _beyond(self, channels: Tensor, allowed: int) -> Tensor:
        """Mark all but the lowest-scored sets that hold no more channels than are allowed."""
        sets, place, sizes = self.atoms[channels].unique(return_inverse=True, return_counts=True)
        order = self.worth[sets].argsort(dim=0, stable=True)
        fits = torch.zeros(len(sets), dtype=torch.bool)
        fits[order] = sizes[order].cumsum(0) <= allowed
        return ~fits[place]

    @cached_property
    def worth(self) -> Tensor:
        """The mean score of each set of channels, of which heads have none. Shape: (channels,)."""
        scores = torch.where(self.graph.is_head, 0.0, self.scores)
        counted = (~self.graph.is_head).double()
        size = torch.bincount(self.atoms, counted, minlength=len(scores))
        return torch.bincount(self.atoms, scores, minlength=len(scores)) / size.clamp(min=1)

    @cached_property
    def _owners(self) -> Tensor:
        """Per channel, the group its set belongs to: the first that has a part in it, or -1."""
        none = len(self.graph.groups)
        index = torch.where(self.graph.is_head, none, self.graph.group_index)
        index = torch.where(index < 0, none, index)
        first = torch.full_like(index, none).scatter_reduce(0, self.atoms, index, "amin")
        return torch.where(first < none, first, -1)[self.atoms]

    @cached_property
    def places(self) -> Tensor:
        """Per channel, the share of its group that is gone once it leaves; infinite: it stays."""
        count, owners = len(self.graph.groups), self._owners
        counted = ~self.graph.is_head & (owners >= 0)
        totals = torch.bincount(owners[counted], minlength=count)
        sizes = torch.bincount(self.atoms, counted.long(), minlength=len(self.scores))
        sets = self.atoms[~self.locked & (owners >= 0)].unique()
        sets = sets[self.worth[sets].argsort(stable=True)]
        sets = sets[owners[sets].argsort(stable=True)]  # by group, then by score
        run = sizes[sets].cumsum(0)
        own = owners[sets]
        before = torch.zeros(count + 1, dtype=run.dtype)
        before.scatter_reduce_(0, own, run, "amax")
        before = torch.cat([before.new_zeros(1), before.cummax(0).values])[own]
        places = torch.full((len(self.scores),), torch.inf, dtype=torch.float64)
        places[sets] = (run - before) / totals[own]
        return places[self.atoms]

    @cached_property
    def open_groups(self) -> list[int]:
        """The positions of groups from which something can leave, in the model's order."""
        found: list[int] = self._owners[self.places.isfinite()].unique().tolist()
        return found

    def at(self, rates: Tensor) -> Tensor:
        """Let each group lose its lowest-scored channels.

        Args:
            rates: The share that leaves at most. Shape: (groups,).

        Returns:
            A legal choice. Shape: (channels,).
        """
        allowed = torch.where(self._owners >= 0, rates.double()[self._owners], 0.0)
        return self.legality.repair(self.places > allowed + 1e-9)

    def fit(self, path: Callable[[float], Tensor], unit: Unit, limit: int) -> tuple[Tensor, float]:
        """Go along a path of growing rates until a budget is met.

        Args:
            path: From a number in [0, 1] to rates that grow with it.
            unit: Of the budget.
            limit: What may remain.

        Returns:
            The choice, and the number at which it was found.

        Raises:
            BudgetError: The end of the path leaves more.
        """
        low, high = 0.0, 1.0
        keep = self.at(path(high))
        if self.cost(keep, unit) > limit:
            raise cannot_meet(unit, limit, self.cost(keep, unit))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = self.at(path(middle))
            if self.cost(found, unit) <= limit:
                keep, high = found, middle
            else:
                low = middle
        return keep, high


def cannot_meet(unit: Unit, asked: int, least: int) -> BudgetError:
    """Say what a budget that cannot be met would have to allow."""
    return BudgetError(
        f"at most {asked} {unit} may remain, but {least} have to",
        hint="allow more, or relax `keep`, `max_removed` or `round_to`",
    )
