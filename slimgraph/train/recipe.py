"""Recipes: everything that decides how a run goes, as data; the command line is made of it."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from typer import Option

from slimgraph import regularize
from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.importance import CRITERIA, DATA_CRITERIA
from slimgraph.regularize import Regularizer
from slimgraph.select import STRATEGIES, Budget, Learning, Limits, Strategy

Kind = Literal["sparse", "compress", "tune"]
Schedule = Literal["step", "cosine", "constant"]
Penalty = Literal["none", "slimming", "oicsr", "lasso", "l1", "pull"]
StrategyName = Literal[
    "greedy", "percentile", "uniform", "sensitivity", "stepwise", "evolution", "cacp"
]
Repair = Literal["none", "recalibrate", "reconstruct"]
Unit = Literal["channels", "params", "macs"]


class Stage(NamedTuple):
    """One piece of a run: an epoch, or the compression between epochs. Both count from 1."""

    kind: Kind
    number: int
    epoch: int

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.kind == "compress":
            return f"pass {self.number}, compress"
        name = "sparsity training" if self.kind == "sparse" else "fine-tuning"
        return f"pass {self.number}, {name}, epoch {self.epoch}"


@dataclass(frozen=True)
class Recipe:
    """How a run goes: passes of sparsity training, compression and fine-tuning.

    Every field is an option of `slimgraph-train`, and its help says what it means. Defaults are
    those of Network Slimming where its paper gives them.

    Raises:
        SlimgraphError: An option is out of range, or would be ignored.

    Source: Liu et al., Network Slimming, ICCV 2017, section 4.2 and figure 2 (multi-pass).
    """

    passes: Annotated[int, Option(help="Rounds of train, compress, fine-tune.")] = 1
    sparse_epochs: Annotated[int, Option(help="Epochs with the penalty, per pass.")] = 10
    tune_epochs: Annotated[int, Option(help="Epochs without, after each compression.")] = 10
    batch_size: Annotated[int, Option(help="Of all processes together.")] = 64
    optimizer: Annotated[Literal["sgd", "adamw"], Option(help="Keeps its state throughout.")] = (
        "sgd"
    )
    lr: Annotated[float, Option(help="Learning rate of sparsity training.")] = 0.1
    tune_lr: Annotated[float, Option(help="Learning rate of fine-tuning.")] = 0.01
    schedule: Annotated[
        Schedule, Option(help="step (a tenth at 50 % and 75 % of a phase), cosine, constant.")
    ] = "step"
    momentum: Annotated[float, Option(help="Nesterov momentum of sgd.")] = 0.9
    weight_decay: Annotated[float, Option(help="Of all parameters.")] = 1e-4
    penalty: Annotated[
        Penalty, Option(help="slimming, oicsr, lasso, l1, pull (DepGraph) or none.")
    ] = "slimming"
    strength: Annotated[float, Option(help="Weight of the penalty.")] = 1e-4
    scale_init: Annotated[
        float | None, Option(help="Scales of norms start at it; the slimming paper takes 0.5.")
    ] = None
    criterion: Annotated[str, Option(help="How channels are scored; see docs/methods.md.")] = "l2"
    normalize: Annotated[
        Literal["mean", "none"], Option(help="Divide scores by their group's mean, or not.")
    ] = "mean"
    strategy: Annotated[
        StrategyName, Option(help="How channels are chosen; see docs/methods.md.")
    ] = "greedy"
    channels: Annotated[float | None, Option(help="Share or number that remains at last.")] = None
    params: Annotated[float | None, Option(help="Share or number that remains at last.")] = None
    macs: Annotated[float | None, Option(help="Share or number that remains at last.")] = None
    share: Annotated[float | None, Option(help="percentile: what leaves in each pass.")] = None
    rule: Annotated[Literal["exact", "slimming"], Option(help="percentile: how it counts.")] = (
        "exact"
    )
    drop: Annotated[float, Option(help="stepwise: accuracy each pass may lose.")] = 0.02
    trials: Annotated[int, Option(help="evolution, cacp: models they try.")] = 60
    order: Annotated[Literal["per_cost", "score"], Option(help="greedy: how it ranks.")] = (
        "per_cost"
    )
    heads: Annotated[
        Literal["dims", "whole"], Option(help="What leaves of attention: dims, or whole heads.")
    ] = "dims"
    max_removed: Annotated[float, Option(help="Largest share a group loses per pass.")] = 1.0
    round_to: Annotated[int, Option(help="Keep multiples of this many channels.")] = 1
    selections: Annotated[
        bool, Option("--selections", help="Readers of a value may each lose other channels of it.")
    ] = False
    keep: Annotated[tuple[str, ...], Option(help="Group or module to keep whole.")] = ()
    repair: Annotated[
        Repair, Option(help="After compression: none, recalibrate norms, reconstruct layers.")
    ] = "recalibrate"
    calibration: Annotated[int, Option(help="Images for it, without labels.")] = 256
    distill: Annotated[
        float, Option(help="Weight in fine-tuning of the dense model's answers, 0 to 1.")
    ] = 0.0
    temperature: Annotated[float, Option(help="Of these answers.")] = 4.0
    curve: Annotated[
        bool, Option("--curve", help="Report held-out accuracy at several shares of MACs, too.")
    ] = False
    seed: Annotated[int, Option(help="Of the order of the images and of all that is drawn.")] = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        kinds = get_type_hints(type(self))
        for field in fields(self):
            known = get_args(kinds[field.name])
            given = getattr(self, field.name)
            if known and all(isinstance(word, str) for word in known) and given not in known:
                raise SlimgraphError(
                    f"unknown {field.name} `{given}`", hint=f"use {', '.join(known)}"
                )
        criteria = (*CRITERIA, *DATA_CRITERIA)
        if self.criterion not in criteria:
            raise SlimgraphError(
                f"unknown criterion `{self.criterion}`", hint=f"use one of {', '.join(criteria)}"
            )
        for name, holds, wanted in self._ranges():
            if not holds:
                given = getattr(self, name)
                raise SlimgraphError(f"`{name}` is {given}", hint=f"give {wanted}")
        budgets = [unit for unit in get_args(Unit) if getattr(self, unit) is not None]
        takes = self.strategy not in ("percentile", "stepwise")
        if len(budgets) != takes:
            raise BudgetError(
                f"the strategy `{self.strategy}` takes {'one budget' if takes else 'no budget'}, "
                f"and {len(budgets)} are given",
                hint="a budget is `channels`, `params` or `macs`",
            )
        if (self.share is not None) != (self.strategy == "percentile"):
            raise BudgetError("`share` is for the strategy `percentile`, which needs it")
        strategy_of(self, self.budget or Budget("macs", 1.0))  # it checks its own options

    def _ranges(self) -> list[tuple[str, bool, str]]:
        return [
            ("passes", self.passes >= 1, "1 or more"),
            ("sparse_epochs", self.sparse_epochs >= 0, "0 or more"),
            ("tune_epochs", self.tune_epochs >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("lr", self.lr > 0, "a rate above 0"),
            ("tune_lr", self.tune_lr > 0, "a rate above 0"),
            ("strength", self.strength >= 0, "0 or more"),
            ("calibration", self.calibration >= 1, "1 or more"),
            ("distill", 0 <= self.distill <= 1, "a number from 0 to 1"),
            ("temperature", self.temperature > 0, "a number above 0"),
        ]

    @property
    def budget(self) -> Budget | None:
        """What may remain at last, if anything says so."""
        given = {unit: getattr(self, unit) for unit in get_args(Unit)}
        given = {unit: amount for unit, amount in given.items() if amount is not None}
        return Budget.of(**given) if given else None

    def seed_at(self, done: int) -> int:
        """Return the seed of the stage before which so many are over."""
        return (self.seed * 1_000_003 + done) % 2**32

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self) | {"keep": list(self.keep)}


def stages(recipe: Recipe) -> Iterator[Stage]:
    """Yield the pieces of a run in order."""
    for number in range(1, recipe.passes + 1):
        for epoch in range(1, recipe.sparse_epochs + 1):
            yield Stage("sparse", number, epoch)
        yield Stage("compress", number, 0)
        for epoch in range(1, recipe.tune_epochs + 1):
            yield Stage("tune", number, epoch)


def budget_of(recipe: Recipe, number: int, dense: dict[str, int]) -> Budget | None:
    """Return what may remain after a pass: each pass takes away the same share.

    Args:
        recipe: Of the run.
        number: Of the pass, from 1.
        dense: What the dense model costs, by unit.
    """
    if (last := recipe.budget) is None:
        return None
    total = dense[last.unit]
    left = last.limit(total)
    if number < recipe.passes:
        left = int(total * (left / total) ** (number / recipe.passes))
    return Budget(last.unit, left)


def strategy_of(recipe: Recipe, budget: Budget | None) -> Strategy:
    """Make the strategy that a recipe names."""
    limits = Limits(recipe.max_removed, recipe.round_to, recipe.keep, recipe.heads)
    options: dict[str, dict[str, Any]] = {
        "greedy": {"budget": budget, "order": recipe.order},
        "percentile": {"share": recipe.share, "rule": recipe.rule},
        "stepwise": {"drop": recipe.drop},
        "evolution": {"budget": budget, "trials": recipe.trials, "seed": recipe.seed},
        "cacp": {"budget": budget, "learning": _learning(recipe)},
    }
    own = options.get(recipe.strategy, {"budget": budget})
    return STRATEGIES[recipe.strategy](limits=limits, **own)


def _learning(recipe: Recipe) -> Learning:
    warm_up = max(recipe.trials // 3, 1)
    return Learning((), max(recipe.trials, 2), warm_up, seed=recipe.seed)


def penalty_of(recipe: Recipe, graph: DependencyGraph, *, first: bool) -> Regularizer | None:
    """Make the regulariser that a recipe names.

    Args:
        recipe: Of the run.
        graph: Of the model as it is.
        first: Whether training begins: then scales of norms start at `scale_init`.
    """
    if recipe.penalty == "none":
        return None
    if recipe.penalty == "slimming":
        init = recipe.scale_init if first else None
        return regularize.NetworkSlimming(graph, recipe.strength, init=init)
    kinds: dict[str, Any] = {
        "oicsr": regularize.OICSR,
        "lasso": regularize.GroupLasso,
        "l1": regularize.L1,
        "pull": regularize.GroupPull,
    }
    made: Regularizer = kinds[recipe.penalty](graph, recipe.strength)
    return made


def optimizer_of(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Make the optimizer that a recipe names."""
    if recipe.optimizer == "adamw":
        return AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    return SGD(
        model.parameters(),
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )


def rate(recipe: Recipe, stage: Stage, done: float) -> float:
    """Return the learning rate.

    Args:
        recipe: Of the run.
        stage: The epoch.
        done: The share of it that is over.
    """
    base, epochs = recipe.lr, recipe.sparse_epochs
    if stage.kind == "tune":
        base, epochs = recipe.tune_lr, recipe.tune_epochs
    share = (stage.epoch - 1 + done) / epochs
    if recipe.schedule == "cosine":
        return base * (1 + math.cos(math.pi * share)) / 2
    tenths = (share >= 0.5) + (share >= 0.75) if recipe.schedule == "step" else 0
    return base * 0.1**tenths
