"""Greedy choice over all groups at once under a budget of channels, parameters or MACs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from slimgraph.cost import Unit
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Heads, compact
from slimgraph.select.candidates import Candidates, Limits, cannot_meet, check_known

Order = Literal["per_cost", "score"]
_POWER = 1.5


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
            more for what many layers read, per saved cost, revalued `rounds` times as the model
            shrinks, so no group is bled dry; `score` ranks by the score alone.
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
    check_known("order", order, Order)
    limits = Limits(max_removed, round_to, tuple([keep] if isinstance(keep, str) else keep), heads)
    return shrink(Candidates(graph, scores, limits), budget, order, rounds)[0]


def shrink(
    candidates: Candidates, budget: Budget, order: Order = "per_cost", rounds: int = 24
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Remove the lowest-ranked sets until a budget is met.

    Args:
        candidates: What may leave.
        budget: What may remain.
        order: As for `select`.
        rounds: As for `select`.

    Returns:
        The choice, shape (channels,), and per round what it aimed at and what was left.

    Raises:
        BudgetError: The budget cannot be met.
    """
    check_known("order", order, Order)
    greedy = _Greedy(candidates, budget.unit)
    start = candidates.cost(candidates.everything, budget.unit)
    limit = budget.limit(start)
    steps = rounds if order == "per_cost" else 1
    found: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        aim = max(limit, start - (start - limit) * step // steps)
        greedy.shrink_to(aim, order, limit)
        found.append({"round": step, "aim": aim, "left": greedy.cost(greedy.keep)})
    return greedy.keep, found


def check_order(order: str, heads: str = "dims") -> None:
    """Refuse an unknown way of ranking.

    Raises:
        BudgetError: It is none of `Order`, or `heads` none of `Heads`.
    """
    check_known("order", order, Order)
    check_known("heads", heads, Heads)


class _Greedy:
    """The state of one greedy choice."""

    def __init__(self, candidates: Candidates, unit: Unit) -> None:
        self.candidates = candidates
        self.graph, self.scores = candidates.graph, candidates.scores
        self.unit = unit
        self.atoms = candidates.atoms
        self.removed = torch.zeros(len(self.scores), dtype=torch.bool)
        self.stakes = stakes(self.graph)
        self.keep = candidates.legality.repair(~self.removed)

    def cost(self, keep: Tensor) -> int:
        """Return the cost of what is left, in the budget's unit."""
        return self.candidates.cost(keep, self.unit)

    def shrink_to(self, limit: int, order: Order, asked: int) -> None:
        """Remove the fewest further sets, in rank order, that meet a limit on the way."""
        ranked = self._ranking(order)
        low, high = 0, len(ranked)
        if self.cost(self.keep) <= limit:
            return
        if self.cost(self._without(ranked, high)) > limit:
            least = self.cost(self._without(ranked, high))
            raise cannot_meet(self.unit, asked, least)
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
        free = ~self.candidates.locked & ~self.removed
        count = len(self.scores)
        selected = self.graph.selected
        worth = self.candidates.worth
        if order == "per_cost":
            scores = selected.summed(self._shares(), self.keep)
            known = torch.where(free & ~self.graph.is_head, scores, torch.zeros_like(scores))
            costs = self.candidates.model.savings(self.keep, self.unit)
            savings = selected.summed(costs, self.keep)
            saved = torch.bincount(self.atoms, savings, minlength=count)
            worth = torch.bincount(self.atoms, known, minlength=count) / saved.clamp(min=1e-12)
        candidates: Tensor = self.atoms[free].unique()
        return candidates[worth[candidates].argsort(dim=0, stable=True)]

    def _shares(self) -> Tensor:
        """Return each score as a share of what its group still has, times what is at stake."""
        known = torch.where(self.keep & self.scores.isfinite(), self.scores, 0.0)
        index = self.graph.group_index.clamp(min=0)
        left = torch.bincount(index, known)
        shares: Tensor = self.scores / left[index].clamp(min=1e-300) * self.stakes
        return shares

    def _without(self, ranked: Tensor, count: int) -> Tensor:
        gone = torch.zeros_like(self.removed)
        gone[ranked[:count]] = True
        return self.candidates.legality.repair(~(self.removed | gone[self.atoms]))


def stakes(graph: DependencyGraph) -> Tensor:
    """Weigh each channel by how many ops read it; 1 for a single reader. Shape: (channels,).

    A channel of a residual stream is missed by every layer that reads the stream, and what they
    make of it meets again in the stream: the loss grows faster than their number. The power is
    a choice of ours.
    """
    count = torch.zeros(len(graph.frozen), dtype=torch.float64)
    for read in graph.ledger.reads:
        for layer in read.value.layers:
            count[graph.component[compact(layer).flatten()].unique()] += 1
    return count.clamp(min=1) ** _POWER
