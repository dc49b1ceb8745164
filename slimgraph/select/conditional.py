"""CACP: one policy, learnt once, that says for any budget how much each group keeps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from slimgraph.cost import Unit
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.select.budget import Budget
from slimgraph.select.candidates import Candidates, Limits, cannot_meet
from slimgraph.select.ddpg import Learner, Step
from slimgraph.select.strategy import Choice, Measure, Strategy

Decisions = Sequence[dict[str, Any]]
_HALVINGS = 12
_NOISE, _CALM = 0.5, 0.95


@dataclass(frozen=True, eq=False)
class Walk:
    """Going through the groups in the model's order, one decision each.

    Attributes:
        candidates: What may leave.
        unit: Of all budgets.
        floor: The least share that a group keeps.
    """

    candidates: Candidates
    unit: Unit
    floor: float

    @cached_property
    def groups(self) -> list[int]:
        """The groups that can shrink."""
        return self.candidates.open_groups

    @cached_property
    def total(self) -> int:
        """What the whole model costs."""
        return self.candidates.cost(self.candidates.everything, self.unit)

    @cached_property
    def facts(self) -> Tensor:
        """What does not change of each group, scaled to [0, 1]. Shape: (groups, facts)."""
        model, graph = self.candidates.model, self.candidates.graph
        savings = [model.savings(self.candidates.everything, u) for u in ("macs", "params")]
        rows = []
        for index in self.groups:
            group = graph.groups[index]
            costs = [float(each[group.components].sum()) for each in savings]
            rows.append([group.size, len(group.members), len(group.modules), *costs])
        found = torch.tensor(rows, dtype=torch.float32)
        low, high = found.min(0).values, found.max(0).values
        return (found - low) / (high - low).clamp(min=1e-12)

    @property
    def features(self) -> int:
        """Size of a state."""
        return self.facts.shape[1] + 5

    def state(self, place: int, limit: int, rates: Tensor, last: float) -> Tensor:
        """Say what is known before a decision.

        The budget as a share, how far the walk is, the facts of the group, what has left, what
        the groups ahead cost, both as shares of the whole, and the decision before.
        """
        left = self.candidates.cost(self.candidates.at(rates), self.unit) / self.total
        ahead = 1 - place / len(self.groups)
        start = torch.tensor([limit / self.total, place / len(self.groups)])
        return torch.cat([start, self.facts[place], torch.tensor([1 - left, ahead, last])])

    def go(
        self, limit: int, act: Callable[[Tensor], float]
    ) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        """Decide on every group, so that the budget is met whatever the policy says.

        Args:
            limit: What may remain.
            act: From a state to a number in [0, 1]: 0 keeps the floor, 1 everything.

        Returns:
            The choice, shape (channels,), and per group the state and what was done.

        Raises:
            BudgetError: All groups at the floor are too much.
        """
        most = 1 - self.floor
        rates = torch.zeros(len(self.candidates.graph.groups), dtype=torch.float64)
        rest = rates.clone()
        rest[self.groups] = most
        if (least := self._cost(rest)) > limit:
            raise cannot_meet(self.unit, limit, least)
        found, last = [], 1.0
        for place, index in enumerate(self.groups):
            state = self.state(place, limit, rates, last)
            rest[index] = self._allowed(rest, index, most * (1 - act(state)), limit)
            rates[index] = rest[index]
            last = 1 - float(rates[index]) / most
            found.append((state, last))
        return self.candidates.at(rates), found

    def _allowed(self, rest: Tensor, index: int, wanted: float, limit: int) -> float:
        """Return the smallest rate, at least the wanted one, with which the rest can do it."""
        trial, low, high = rest.clone(), wanted, float(rest[index])
        trial[index] = low
        if self._cost(trial) <= limit:
            return low
        for _ in range(_HALVINGS):
            trial[index] = middle = (low + high) / 2
            low, high = (low, middle) if self._cost(trial) <= limit else (middle, high)
        return high

    def _cost(self, rates: Tensor) -> int:
        return self.candidates.cost(self.candidates.at(rates), self.unit)


@dataclass(frozen=True)
class Learning:
    """How a policy is learnt.

    Attributes:
        shares: The budgets that it is trained on, as shares of the whole; they take turns.
        episodes: Models that are tried.
        warm_up: So many of them at random.
        floor: The least share that a group keeps.
        seed: Of all that is drawn.

    Raises:
        BudgetError: A number is out of range.
    """

    shares: tuple[float, ...] = (0.3, 0.5, 0.7)
    episodes: int = 900
    warm_up: int = 100
    floor: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0 < self.floor < 1 and self.episodes > self.warm_up >= 1):
            raise BudgetError(
                "`floor` must lie in (0, 1), and `warm_up` be at least 1 and less than `episodes`"
            )


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy that has been learnt.

    Attributes:
        walk: Of the model it was learnt on.
        learner: Its networks.
        learning: How it was learnt.
        episodes: What was tried, in order: the budget's share, the quality, and the choice.
    """

    walk: Walk
    learner: Learner
    learning: Learning
    episodes: tuple[tuple[float, float, Tensor], ...]

    def choose(self, share: float) -> Choice:
        """Choose for any budget, also one that it was not trained on; nothing is measured.

        Args:
            share: Of the whole model, in (0, 1], in the unit it was trained with.

        Raises:
            BudgetError: The budget cannot be met with every group at its floor.
        """
        strategy = Conditional(
            budget=Budget(self.walk.unit, share),
            learning=self.learning,
            limits=self.walk.candidates.limits,
        )
        keep, steps = self.walk.go(strategy.budget.limit(self.walk.total), self.learner.act)
        groups = self.walk.candidates.graph.groups
        decisions = [
            {"group": groups[index].name, "kept": self.walk.floor + (1 - self.walk.floor) * action}
            for index, (_, action) in zip(self.walk.groups, steps, strict=True)
        ]
        return strategy.chosen(self.walk.candidates, keep, decisions)


def train_policy(
    graph: DependencyGraph,
    scores: Tensor,
    measure: Measure,
    *,
    unit: Unit = "macs",
    learning: Learning | None = None,
    limits: Limits | None = None,
) -> Policy:
    """Learn one policy for all budgets.

    Args:
        graph: The groups.
        scores: Within a group, the lowest leave first. Shape: (channels,).
        measure: The reward: how good a model is, without fine-tuning. See `slimgraph.Trial`.
        unit: Of the budgets.
        learning: How.
        limits: What stays in any case.

    Raises:
        BudgetError: A budget cannot be met.

    Source: Liu et al., Conditional Automated Channel Pruning for Deep Neural Networks, IEEE SPL
    28, 2021, and the first author's code. Best readings: it decides layer by layer and knows facts
    of a layer, here of a group of layers; a decision is the share that stays. Budgets hold after
    rounding, where that code may overshoot.
    """
    how = learning or Learning()
    if not how.shares:
        raise BudgetError("there is no budget to learn from", hint="give `shares`")
    walk = Walk(Candidates(graph, scores, limits or Limits()), unit, how.floor)
    learner = Learner(walk.features, how.warm_up * len(walk.groups), how.seed)
    tried: list[tuple[float, float, Tensor]] = []
    for episode in range(how.episodes):
        share = how.shares[episode % len(how.shares)]
        limit = Budget(unit, share).limit(walk.total)
        keep, steps = walk.go(limit, _act(learner, episode - how.warm_up))
        quality = measure(keep)
        tried.append((share, quality, keep))
        if math.isfinite(quality):
            learner.remember(_steps(steps, quality))
        if episode >= how.warm_up and learner.memory:
            learner.learn(len(steps))
    return Policy(walk, learner, how, tuple(tried))


def _act(learner: Learner, age: int) -> Callable[[Tensor], float]:
    """Act at random before age 0, and then with noise that calms down."""
    if age < 0:
        return lambda _: learner.draw()
    return partial(learner.act, noise=_NOISE * _CALM**age)


def _steps(steps: list[tuple[Tensor, float]], reward: float) -> list[Step]:
    """Give the reward of an episode to every decision in it."""
    after = [*(state for state, _ in steps[1:]), torch.zeros_like(steps[0][0])]
    last = len(steps) - 1
    return [
        Step(state, action, reward, after[i], last=i == last)
        for i, (state, action) in enumerate(steps)
    ]


@dataclass(frozen=True, kw_only=True)
class Conditional(Strategy):
    """CACP for a single budget: learn the policy, and take the best model it makes or has tried.

    For many budgets, learn once with `train_policy`.

    Attributes:
        budget: What may remain; the policy is trained on it alone, or in turn with `shares`.
        learning: How; `shares` are other budgets in the same unit.

    Source: See `train_policy`.
    """

    name: ClassVar[str] = "cacp"
    measures: ClassVar[bool] = True
    budget: Budget
    learning: Learning = Learning(episodes=300)

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        assert measure is not None
        unit = self.budget.unit
        whole = candidates.cost(candidates.everything, unit)
        limit = min(self.budget.limit(whole), whole)
        share = min((limit + 0.5) / whole, 1.0)  # of which the limit is the whole part
        policy = train_policy(
            candidates.graph,
            candidates.scores,
            measure,
            unit=unit,
            learning=replace(self.learning, shares=(share, *self.learning.shares)),
            limits=candidates.limits,
        )
        final = policy.choose(share).keep
        tried = [*policy.episodes, (share, measure(final), final)]
        own = [(quality, keep) for budget, quality, keep in tried if budget == share]
        best = max(own, key=lambda each: -math.inf if math.isnan(each[0]) else each[0])
        decisions = [
            {"share": budget, "quality": quality if math.isfinite(quality) else None}
            for budget, quality, _ in tried
        ]
        return best[1], decisions
