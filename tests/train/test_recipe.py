"""Recipes refuse what makes no sense, and rates and budgets follow them."""

import math
from typing import Any

import pytest

import slimgraph as sg
from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.train import Recipe
from slimgraph.train.recipe import Stage, budget_of, rate, stages

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "passes": ({"macs": 0.5, "passes": 0}, "`passes` is 0"),
    "epochs": ({"macs": 0.5, "sparse_epochs": -1}, "`sparse_epochs` is -1"),
    "batch": ({"macs": 0.5, "batch_size": 0}, "`batch_size` is 0"),
    "rate": ({"macs": 0.5, "lr": 0.0}, "`lr` is 0.0"),
    "distill": ({"macs": 0.5, "distill": 1.5}, "`distill` is 1.5"),
    "penalty": ({"macs": 0.5, "penalty": "l0"}, "unknown penalty `l0`"),
    "criterion": ({"macs": 0.5, "criterion": "luck"}, "unknown criterion `luck`"),
    "schedule": ({"macs": 0.5, "schedule": "up"}, "unknown schedule `up`"),
    "no budget": ({}, "takes one budget, and 0 are given"),
    "two budgets": ({"macs": 0.5, "params": 0.5}, "takes one budget, and 2 are given"),
    "a needless budget": ({"strategy": "stepwise", "macs": 0.5}, "takes no budget"),
    "budget": ({"macs": 1.5}, "out of range"),
    "no share": ({"strategy": "percentile"}, "`share` is for the strategy"),
    "a needless share": ({"macs": 0.5, "share": 0.5}, "`share` is for the strategy"),
    "share": ({"strategy": "percentile", "share": 1.5}, "does not lie in [0, 1)"),
    "limits": ({"macs": 0.5, "max_removed": 3.0}, "`max_removed` lie in [0, 1]"),
    "trials": ({"macs": 0.5, "strategy": "evolution", "trials": 1}, "`trials` at least 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recipes_that_make_no_sense_are_refused(name: str) -> None:
    options, says = REFUSED[name]
    with pytest.raises(SlimgraphError) as caught:
        Recipe(**options)
    assert says in str(caught.value)


def test_a_run_is_passes_of_three_kinds_of_stages() -> None:
    found = list(stages(Recipe(passes=2, sparse_epochs=2, tune_epochs=1, macs=0.5)))
    once = [("sparse", 1), ("sparse", 2), ("compress", 0), ("tune", 1)]
    assert found == [Stage(kind, n, epoch) for n in (1, 2) for kind, epoch in once]  # type: ignore[arg-type]
    assert str(found[1]) == "pass 1, sparsity training, epoch 2"
    assert str(found[-2]) == "pass 2, compress"


def test_every_pass_takes_away_the_same_share() -> None:
    dense = {"macs": 1_000_000, "params": 1000, "channels": 100}
    recipe = Recipe(passes=3, macs=0.125)
    left = [budget_of(recipe, number, dense) for number in (1, 2, 3)]
    assert left == [sg.Budget("macs", n) for n in (500_000, 250_000, 125_000)]
    count = Recipe(passes=2, params=250)
    assert budget_of(count, 2, dense) == sg.Budget("params", 250)
    assert budget_of(count, 1, dense) == sg.Budget("params", 500)
    assert budget_of(Recipe(strategy="stepwise"), 1, dense) is None


def test_rates_fall_in_steps_or_along_a_cosine() -> None:
    steps = Recipe(macs=0.5, sparse_epochs=4, tune_epochs=2, lr=0.1, tune_lr=0.01)
    sparse = [rate(steps, Stage("sparse", 1, epoch), 0.0) for epoch in (1, 2, 3, 4)]
    assert sparse == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert rate(steps, Stage("tune", 1, 2), 0.5) == pytest.approx(1e-4)
    wave = Recipe(macs=0.5, sparse_epochs=4, lr=0.1, schedule="cosine")
    assert rate(wave, Stage("sparse", 1, 3), 0.0) == pytest.approx(0.05)
    assert rate(wave, Stage("sparse", 1, 4), 0.5) == pytest.approx(
        0.05 * (1 + math.cos(math.pi * 7 / 8))
    )
    flat = Recipe(macs=0.5, schedule="constant")
    assert rate(flat, Stage("sparse", 1, 10), 0.9) == 0.1


def test_seeds_of_stages_do_not_meet() -> None:
    seeds = {Recipe(macs=0.5, seed=s).seed_at(stage) for s in range(5) for stage in range(50)}
    assert len(seeds) == 250


def test_budget_errors_are_budget_errors() -> None:
    with pytest.raises(BudgetError):
        Recipe()
