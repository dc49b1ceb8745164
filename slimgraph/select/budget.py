"""Greedy choice over all groups at once under a budget of channels, parameters or MACs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from slimgraph.cost import CostModel, Unit
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Heads, compact
from slimgraph.naming import named_channels
from slimgraph.select.blocks import Legality

Order = Literal["per_cost", "score"]


@dataclass(frozen=True)
class Budget:
    """How much may remain, in one unit.

    Attributes:
        unit: `channels` of prunable groups, `params`, or `macs`.
        amount: A fraction in (0, 1] of what there is, or an absolute count as an int.
    """

    unit: Unit
    amount: float

    @classmethod
    def of(
        cls,
        channels: float | None = None,
        params: float | None = None,
        macs: float | None = None,
    ) -> "Budget":
        """Make a budget from exactly one keyword argument.

        Raises:
            BudgetError: None or several are given, or the amount is out of range.
        """
        units: dict[Unit, float | None] = {"channels": channels, "params": params, "macs": macs}
        given = [(unit, amount) for unit, amount in units.items() if amount is not None]
        if len(given) != 1:
            raise BudgetError(
                f"{len(given)} budgets are given",
                hint="give exactly one of `channels=`, `params=`, `macs=`",
            )
        return cls(*given[0])

    def __post_init__(self) -> None:
        """Check the range."""
        whole = isinstance(self.amount, int)
        in_range = self.amount >= 1 if whole else 0 < self.amount <= 1
        if isinstance(self.amount, bool) or not in_range:
            raise BudgetError(
                f"the budget `{self.unit}={self.amount}` is out of range",
                hint="a fraction in (0, 1] says what remains; an integer is an absolute count",
            )

    def limit(self, total: int) -> int:
        """Return the absolute count that may remain."""
        if isinstance(self.amount, int):
            return self.amount
        return int(self.amount * total + 1e-9)


def select(  # noqa: PLR0913 - each option is one keyword of the command line
    graph: DependencyGraph,
    scores: Tensor,
    budget: Budget,
    *,
    order: Order = "per_cost",
    heads: Heads = "dims",
    round_to: int = 1,
    max_removed: float = 1.0,
    keep: Sequence[str] = (),
    rounds: int = 24,
) -> Tensor:
    """Choose which channels stay: the lowest scores leave first, until the budget is met.

    The cost of what remains is at most the budget, and with the last set of channels still in
    it would exceed it. No group is emptied.

    Args:
        graph: The groups.
        scores: Higher = keep; infinite = always. Shape: (channels,).
        budget: What may remain.
        order: `per_cost` ranks by the share of its group's remaining score that a channel holds,
            per saved cost, revalued `rounds` times as the model shrinks, so no group is bled
            dry; `score` ranks by the score alone.
        heads: What leaves of attention: `dims`, as many of the channels of every head, or `whole`
            heads, by the mean score of their channels (of heads that share a table or a norm:
            as they were analysed).
        round_to: Each group keeps a multiple of this many channels, or all.
        max_removed: At most this share of any group's channels leaves.
        keep: What stays whole, by name; as `freeze` of `analyze`.
        rounds: How often `per_cost` ranks anew.

    Returns:
        Bool tensor, True = keep. Shape: (channels,).

    Raises:
        BudgetError: The budget cannot be met (says what can), or an option is out of range.
        UnknownGroupError: `keep` names nothing.
    """
    check_order(order, heads)
    if round_to < 1 or not 0 <= max_removed <= 1:
        raise BudgetError("`round_to` must be at least 1 and `max_removed` lie in [0, 1]")
    if not any(group.prunable for group in graph.groups):
        raise BudgetError(
            "no channel of this model can leave", hint="`graph.explain(name)` says why"
        )
    greedy = _Greedy(
        graph, scores, budget.unit, Legality(graph, scores, round_to, heads == "whole")
    )
    greedy.protect(max_removed, keep)
    start = greedy.cost(torch.ones(len(scores), dtype=torch.bool))
    limit = budget.limit(start)
    steps = rounds if order == "per_cost" else 1
    for step in range(1, steps + 1):
        greedy.shrink_to(max(limit, start - (start - limit) * step // steps), order, limit)
    return greedy.keep


def check_order(order: str, heads: str = "dims") -> None:
    """Refuse an unknown way of ranking.

    Raises:
        BudgetError: It is none of `Order`, or `heads` none of `Heads`.
    """
    for name, given, known in (("order", order, Order), ("heads", heads, Heads)):
        if given not in get_args(known):
            hint = f"use {' or '.join(get_args(known))}"
            raise BudgetError(f"unknown {name} `{given}`", hint=hint)


class _Greedy:
    """The state of one greedy choice."""

    def __init__(
        self, graph: DependencyGraph, scores: Tensor, unit: Unit, legality: Legality
    ) -> None:
        self.graph = graph
        self.model = CostModel(graph)
        self.unit = unit
        self.legality = legality
        self.atoms = legality.atoms
        self.scores = scores
        self.removed = torch.zeros(len(scores), dtype=torch.bool)
        self.locked = ~self.model.prunable | scores.isinf()  # heads too
        if legality.whole_heads:
            self.locked &= ~graph.is_head
        self.locked |= graph.frozen
        self.readers = _readers(graph)
        self.keep = self.legality.repair(~self.removed)

    def cost(self, keep: Tensor) -> int:
        """Return the cost of what is left, in the budget's unit."""
        found: int = getattr(self.model.totals(keep), self.unit)
        return found

    def protect(self, max_removed: float, keep: Sequence[str]) -> None:
        """Lock what must stay: named groups, and the best channels of every group."""
        for channels, _ in named_channels(self.graph, keep, "keep"):
            self.locked[channels] = True
        for group in self.graph.groups:
            allowed = min(int(group.size * max_removed), group.size - 1)
            self.locked[group.components[self._beyond(group.components, allowed)]] = True
        self.locked = self.graph.selected.with_sources(self.locked)
        spread = torch.zeros_like(self.locked)
        spread[self.atoms[self.locked]] = True
        self.locked = spread[self.atoms]  # a set with one locked channel is locked

    def _beyond(self, channels: Tensor, allowed: int) -> Tensor:
        """Mark all but the lowest-scored sets that hold no more channels than are allowed."""
        sets, place, sizes = self.atoms[channels].unique(return_inverse=True, return_counts=True)
        order = self._mean_scores()[sets].argsort(dim=0, stable=True)
        fits = torch.zeros(len(sets), dtype=torch.bool)
        fits[order] = sizes[order].cumsum(0) <= allowed
        return ~fits[place]

    def _mean_scores(self) -> Tensor:
        """Return the mean score of each set of channels, of which heads have none."""
        counted = (~self.graph.is_head).double()
        scores = torch.where(self.graph.is_head, 0.0, self.scores)
        size = torch.bincount(self.atoms, counted, minlength=len(scores))
        return torch.bincount(self.atoms, scores, minlength=len(scores)) / size.clamp(min=1)

    def shrink_to(self, limit: int, order: Order, asked: int) -> None:
        """Remove the fewest further sets, in rank order, that meet a limit on the way."""
        ranked = self._ranking(order)
        low, high = 0, len(ranked)
        if self.cost(self.keep) <= limit:
            return
        if self.cost(self._without(ranked, high)) > limit:
            least = self.cost(self._without(ranked, high))
            raise BudgetError(
                f"at most {asked} {self.unit} may remain, but {least} have to",
                hint="allow more, or relax `keep`, `max_removed` or `round_to`",
            )
        while high - low > 1:
            middle = (low + high) // 2
            if self.cost(self._without(ranked, middle)) <= limit:
                high = middle
            else:
                low = middle
        self.keep = self._without(ranked, high)
        gone = torch.zeros_like(self.removed)
        gone[ranked[:high]] = True
        self.removed |= gone[self.atoms]

    def _ranking(self, order: Order) -> Tensor:
        """Rank the sets that may still leave, by their lowest worth first."""
        free = ~self.locked & ~self.removed
        count = len(self.scores)
        selected = self.graph.selected
        worth = self._mean_scores()
        if order == "per_cost":
            scores = selected.summed(self._shares(), self.keep)
            known = torch.where(free & ~self.graph.is_head, scores, torch.zeros_like(scores))
            savings = selected.summed(self.model.savings(self.keep, self.unit), self.keep)
            saved = torch.bincount(self.atoms, savings, minlength=count)
            worth = torch.bincount(self.atoms, known, minlength=count) / saved.clamp(min=1e-12)
        candidates: Tensor = self.atoms[free].unique()
        return candidates[worth[candidates].argsort(dim=0, stable=True)]

    def _shares(self) -> Tensor:
        """Return each score as a share of what its group still has, once per reader.

        A channel of a residual stream is missed by every layer that reads the stream.
        """
        known = torch.where(self.keep & self.scores.isfinite(), self.scores, 0.0)
        index = self.graph.group_index.clamp(min=0)
        left = torch.bincount(index, known)
        shares: Tensor = self.scores / left[index].clamp(min=1e-300) * self.readers
        return shares

    def _without(self, ranked: Tensor, count: int) -> Tensor:
        gone = torch.zeros_like(self.removed)
        gone[ranked[:count]] = True
        return self.legality.repair(~(self.removed | gone[self.atoms]))


def _readers(graph: DependencyGraph) -> Tensor:
    """Count the ops that read each channel, at least one. Shape: (channels,)."""
    count = torch.zeros(len(graph.frozen), dtype=torch.float64)
    for read in graph.ledger.reads:
        for layer in read.value.layers:
            count[graph.component[compact(layer).flatten()].unique()] += 1
    return count.clamp(min=1)
