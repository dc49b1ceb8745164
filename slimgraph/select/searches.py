"""Strategies that try models out: sensitivity, the stepwise search of CaP, evolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.select.budget import Budget, shrink
from slimgraph.select.candidates import Candidates
from slimgraph.select.strategy import Measure, Strategy

Decisions = Sequence[dict[str, Any]]
_FAILURES = (SlimgraphError, ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Strategy):
    """Groups that can lose channels at little cost in quality lose more of them.

    Each group alone is thinned out to a few shares, and the quality measured. Then one tolerance
    for all groups grows until the budget is met: each loses the largest share that costs no more
    than the tolerance, interpolated between those measured.

    Attributes:
        budget: What may remain.
        shares: What is tried of each group, ascending, inside (0, 1).

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2, measures
    each layer's sensitivity; the single tolerance takes the place of its choice by hand.
    """

    name: ClassVar[str] = "sensitivity"
    measures: ClassVar[bool] = True
    budget: Budget
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        """Check the shares."""
        ordered = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not ordered or not 0 < self.shares[0] <= self.shares[-1] < 1:
            raise BudgetError(
                f"the shares {self.shares} do not ascend inside (0, 1)",
                hint="use (0.1, 0.3, 0.5, 0.7, 0.9), for example",
            )

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        assert measure is not None
        start, groups = measure(candidates.everything), candidates.graph.groups
        curves: dict[int, list[float]] = {}
        decisions: list[dict[str, Any]] = [{"quality": _json(start)}]
        for index in candidates.open_groups:
            found = []
            for share in self.shares:
                found.append(measure(candidates.at(_one(candidates, index, share))))
                decisions.append(
                    {"group": groups[index].name, "rate": share, "quality": _json(found[-1])}
                )
            curves[index] = [0.0, *(start - quality for quality in found)]
        unit = self.budget.unit
        limit = self.budget.limit(candidates.cost(candidates.everything, unit))
        keep, tolerance = candidates.fit(self._path(candidates, curves), unit, limit)
        decisions.append({"tolerance": tolerance, "left": candidates.cost(keep, unit)})
        return keep, decisions

    def _path(self, candidates: Candidates, curves: dict[int, list[float]]) -> Any:
        """Return the rates at each share of the worst drop."""
        finite = [drop for curve in curves.values() for drop in curve if math.isfinite(drop)]
        worst = max(*finite, 1e-12)
        shares = np.array([0.0, *self.shares, 1.0])
        # A drop never shrinks with the share, and all of a group costs what the worst does.
        rising = {
            index: np.maximum.accumulate(np.nan_to_num([*curve, worst], nan=worst, posinf=worst))
            for index, curve in curves.items()
        }

        def path(tolerance: float) -> Tensor:
            rates = torch.zeros(len(candidates.graph.groups), dtype=torch.float64)
            for index, drops in rising.items():
                slope = drops + np.arange(len(drops)) * 1e-12 * worst  # no two are equal
                rates[index] = float(np.interp(tolerance * slope[-1], slope, shares))
            return rates if tolerance < 1 else torch.ones_like(rates)

        return path


@dataclass(frozen=True, kw_only=True)
class Stepwise(Strategy):
    """Group after group, in the model's order, loses as much as a falling bound on quality allows.

    The bound falls in equal steps, one per group, from the quality of the whole model to `drop`
    below it. For each group the share is found by bisection, with what the groups before have
    lost. Scores, and so the order within a group, are those of the whole model. A group for which
    the repair in `measure` fails numerically stays whole.

    Attributes:
        drop: What may be lost of the quality in all.
        trials: Steps of each bisection.
        highest: The largest share that is tried.

    Source: Xie et al., Pruning with Compensation, 2021 (arXiv 2108.13728), and the first author's
    code; measure on data that is neither for training nor for testing, where that code tests.
    """

    name: ClassVar[str] = "stepwise"
    measures: ClassVar[bool] = True
    drop: float = 0.02
    trials: int = 6
    highest: float = 0.95

    def __post_init__(self) -> None:
        """Check the options."""
        if not (self.drop >= 0 and self.trials >= 1 and 0 < self.highest <= 1):
            raise BudgetError(
                "`drop` must be at least 0, `trials` at least 1 and `highest` lie in (0, 1]"
            )

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        assert measure is not None
        start, groups = measure(candidates.everything), candidates.open_groups
        rates = torch.zeros(len(candidates.graph.groups), dtype=torch.float64)
        decisions: list[dict[str, Any]] = [{"quality": _json(start)}]
        for number, index in enumerate(groups, start=1):
            floor = start - self.drop * number / len(groups)
            low, high = 0.0, self.highest
            for _ in range(self.trials):
                rates[index] = middle = (low + high) / 2
                quality = _tried(measure, candidates.at(rates))
                accepted = quality >= floor  # false for NaN
                decisions.append(
                    {
                        "group": candidates.graph.groups[index].name, "rate": middle,
                        "floor": floor, "quality": _json(quality), "accepted": accepted,
                    }
                )  # fmt: skip
                if math.isnan(quality):
                    low = 0.0
                    break
                low, high = (middle, high) if accepted else (low, middle)
            rates[index] = low
        return candidates.at(rates), decisions


@dataclass(frozen=True, kw_only=True)
class Evolution(Strategy):
    """A genetic search (NSGA-II, by optuna) for how the groups share the loss of channels.

    Every model that is tried meets the budget: a group keeps the share `s^k` of its channels, the
    search finds one exponent k per group, and s follows from the budget. The uniform and the
    greedy choice are in the first generation, so the result is at least as good as both.

    Attributes:
        budget: What may remain.
        trials: How many models are tried.
        population: Models per generation.
        seed: Of the search.
    """

    name: ClassVar[str] = "evolution"
    measures: ClassVar[bool] = True
    budget: Budget
    trials: int = 60
    population: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.population < 2 or self.trials < 3:
            raise BudgetError("`population` must be at least 2 and `trials` at least 3")

    def _choose(self, candidates: Candidates, measure: Measure | None) -> tuple[Tensor, Decisions]:
        assert measure is not None
        optuna = _optuna()
        unit, groups = self.budget.unit, candidates.open_groups
        limit = self.budget.limit(candidates.cost(candidates.everything, unit))
        greedy, _ = shrink(candidates, self.budget)
        tried = [("greedy", greedy, measure(greedy))]

        def quality(trial: Any) -> float:
            powers = [trial.suggest_float(str(i), 1 / 16, 16, log=True) for i in groups]
            keep, _ = candidates.fit(_powers(candidates, groups, powers), unit, limit)
            tried.append(("search", keep, measure(keep)))
            return tried[-1][2]

        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            sampler = optuna.samplers.NSGAIISampler(population_size=self.population, seed=self.seed)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.enqueue_trial({str(i): 1.0 for i in groups})
            study.enqueue_trial(_exponents(candidates, greedy))
            study.optimize(quality, n_trials=self.trials - 1)
        finally:
            optuna.logging.set_verbosity(before)
        _, keep, _ = max(tried, key=lambda each: -math.inf if math.isnan(each[2]) else each[2])
        decisions = [
            {"from": origin, "quality": _json(found), "left": candidates.cost(own, unit)}
            for origin, own, found in tried
        ]
        return keep, decisions


def _powers(candidates: Candidates, groups: list[int], powers: list[float]) -> Any:
    exponents = torch.zeros(len(candidates.graph.groups), dtype=torch.float64)
    exponents[groups] = torch.tensor(powers, dtype=torch.float64)

    def path(lost: float) -> Tensor:
        return 1 - torch.tensor(1 - lost, dtype=torch.float64) ** exponents

    return path


def _exponents(candidates: Candidates, keep: Tensor) -> dict[str, float]:
    """Return the exponents that come closest to a choice."""
    groups = candidates.graph.groups
    shares = {i: float(keep[groups[i].components].double().mean()) for i in candidates.open_groups}
    logs = {i: -math.log(share) for i, share in shares.items()}
    mean = sum(logs.values()) / len(logs) or 1.0
    return {str(i): min(max(log / mean, 1 / 16), 16.0) for i, log in logs.items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SlimgraphError(
            "the strategy `evolution` needs optuna", hint="pip install 'slimgraph[search]'"
        ) from error
    return optuna


def _one(candidates: Candidates, index: int, share: float) -> Tensor:
    rates = torch.zeros(len(candidates.graph.groups), dtype=torch.float64)
    rates[index] = share
    return rates


def _tried(measure: Measure, keep: Tensor) -> float:
    """Measure, with NaN for a model whose repair breaks down."""
    try:
        return measure(keep)
    except _FAILURES:
        return math.nan


def _json(quality: float) -> float | None:
    return quality if math.isfinite(quality) else None
