"""Strategies that look at scores alone: greedy, global percentile, uniform."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from slimgraph.errors import BudgetError
from slimgraph.select.budget import Budget, Order, shrink
from slimgraph.select.candidates import Candidates, check_known
from slimgraph.select.strategy import Measure, Strategy

Decisions = Sequence[dict[str, Any]]
Rule = Literal["exact", "slimming"]


@dataclass(frozen=True, kw_only=True)
class Greedy(Strategy):
    """The lowest-ranked channels of all groups leave first, until a budget is met.

    With `order="score"` and `limits=Limits(max_removed=0.5)` it is one round of OICSR's global
    greedy pruning: sorted by energy, no group loses more than half of its channels per round.

    Attributes:
        budget: What may remain.
        order: See `slimgraph.select`.
        rounds: How often `per_cost` ranks anew.

    Source: Li et al., OICSR, CVPR 2019 (best reading: the cap counts per round, and a round ends
    at its budget; the paper's quota per round is not public).
    """

    name: ClassVar[str] = "greedy"
    budget: Budget
    order: Order = "per_cost"
    rounds: int = 24

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        return shrink(candidates, self.budget, self.order, self.rounds)


@dataclass(frozen=True, kw_only=True)
class Percentile(Strategy):
    """A share of all scored channels leaves: those with the lowest scores, whatever their group.

    Attributes:
        share: How many leave, in [0, 1).
        rule: `exact`: `int(share * n)` of the n channels of groups that can shrink.
            `slimming`: as the code of Network Slimming does, bit for bit: the threshold is the
            score at position `int(share * n)` of all n scored channels, frozen ones too, and
            what is not above it leaves, so one more than asked for, and ties together. Score
            with `normalize="none"`. A group keeps its best channel, where that code fails.

    Source: Liu et al., Network Slimming, ICCV 2017, section 3 and the authors' code; its rule for
    multi-pass training is `share=0.5, limits=Limits(max_removed=0.5)`.
    """

    name: ClassVar[str] = "percentile"
    share: float
    rule: Rule = "exact"

    def __post_init__(self) -> None:
        """Check the options."""
        check_known("rule", self.rule, Rule)
        if not 0 <= self.share < 1:
            raise BudgetError(
                f"the share {self.share} does not lie in [0, 1)",
                hint="0.7 lets 70 % of the channels leave",
            )

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        if self.rule == "slimming":
            return self._as_slimming(candidates)
        total = candidates.cost(candidates.everything, "channels")
        left = Budget("channels", max(total - int(self.share * total), 1))
        keep, _ = shrink(candidates, left, "score")
        scored = candidates.scores[~keep & candidates.model.prunable]
        threshold = float(scored.max()) if len(scored) else None
        removed = total - candidates.cost(keep, "channels")
        return keep, [{"of": total, "threshold": threshold, "removed": removed}]

    def _as_slimming(self, candidates: Candidates) -> tuple[Tensor, Decisions]:
        scores, graph = candidates.scores, candidates.graph
        known = scores.isfinite() & (graph.group_index >= 0) & ~graph.is_head
        ranked = scores[known].sort().values
        if not len(ranked):
            raise BudgetError("no channel has a score", hint="use another criterion")
        threshold = ranked[int(len(ranked) * self.share)]
        below = known & ~(scores > threshold)
        keep = candidates.legality.repair(~(below & ~candidates.locked))
        decision = {
            "of": len(ranked),
            "threshold": float(threshold),
            "removed": int((~keep & known).sum()),
            "spared": int((below & keep).sum()),
        }
        return keep, [decision]


@dataclass(frozen=True, kw_only=True)
class Uniform(Strategy):
    """Every group loses the same share of its channels, as large as a budget asks for.

    Attributes:
        budget: What may remain.
    """

    name: ClassVar[str] = "uniform"
    budget: Budget

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        unit = self.budget.unit
        limit = self.budget.limit(candidates.cost(candidates.everything, unit))
        ones = torch.ones(len(candidates.graph.groups), dtype=torch.float64)
        keep, rate = candidates.fit(lambda share: share * ones, unit, limit)
        return keep, [{"rate": rate, "left": candidates.cost(keep, unit), "limit": limit}]
