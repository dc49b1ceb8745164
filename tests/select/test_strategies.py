"""Every strategy meets its budget, heeds its limits and says what it did."""

import json
import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel
from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.select import (
    STRATEGIES,
    Choice,
    Evolution,
    Greedy,
    Limits,
    Percentile,
    Sensitivity,
    Stepwise,
    Strategy,
    Uniform,
)
from slimgraph.select.candidates import Candidates
from tests.assertions import assert_same_output
from tests.groups import models
from tests.nets.attention import Scaled
from tests.nets.base import randomized
from tests.nets.shapes import ShuffleModule

NAMES = ("Residual", "Concat", "Gated", "Flattened")
BUDGETED: dict[str, Any] = {
    "greedy": Greedy,
    "uniform": Uniform,
    "sensitivity": Sensitivity,
    "evolution": lambda **options: Evolution(trials=6, population=3, **options),
}


class Vgg(nn.Sequential):
    """Three convolutions, each with a norm, whose scales are known."""

    def __init__(self) -> None:
        parts: list[nn.Module] = []
        for inputs, outputs in ((3, 12), (12, 20), (20, 16)):
            parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
        with torch.no_grad():
            for norm in self.norms():
                norm.weight.copy_(torch.randn(norm.num_features))
                norm.bias.copy_(torch.randn(norm.num_features))

    def norms(self) -> list[nn.BatchNorm2d]:
        return [m for m in self if isinstance(m, nn.BatchNorm2d)]


IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.double)


@lru_cache
def vgg() -> tuple[Vgg, sg.DependencyGraph]:
    torch.manual_seed(1)
    net = Vgg().double().eval()
    return net, sg.analyze(sg.trace(net, IMAGES))


@lru_cache
def graph_of(name: str) -> sg.DependencyGraph:
    torch.manual_seed(0)
    inputs = torch.randn(models.IMAGE, dtype=torch.double)
    return sg.analyze(sg.trace(getattr(models, name)().double().eval(), inputs))


def likeness(graph: sg.DependencyGraph, inputs: Tensor) -> sg.Trial:
    """How little the outputs change."""
    wanted = graph.traced.eval()(inputs).detach()
    return sg.Trial(graph, lambda slim: -float((slim(inputs) - wanted).square().mean()))


def shares(choice: Choice) -> dict[str, float]:
    return {name: left / size for name, (left, size) in choice.trace.groups.items()}


@pytest.mark.parametrize("strategy", BUDGETED)
@pytest.mark.parametrize("unit", ["channels", "params", "macs"])
@settings(max_examples=5)
@given(name=st.sampled_from(NAMES), share=st.floats(0.6, 1))
def test_budgets_are_met_and_traces_are_json(
    unit: str, strategy: str, name: str, share: float
) -> None:
    graph = graph_of(name)
    scores = sg.score(graph)
    known = torch.where(scores.isfinite(), scores, 0.0)
    found: Strategy = BUDGETED[strategy](budget=sg.Budget.of(**{unit: share}))
    choice = found.choose(graph, scores, lambda keep: float(known[keep].square().sum()))
    cost = CostModel(graph)
    total = getattr(cost.totals(torch.ones_like(choice.keep)), unit)
    assert getattr(cost.totals(choice.keep), unit) <= sg.Budget.of(**{unit: share}).limit(total)
    inputs = torch.randn(models.IMAGE, dtype=torch.double)
    assert_same_output(sg.masked(graph, choice.mask), sg.compress(graph, choice.mask), inputs)
    told = json.loads(json.dumps(choice.trace.to_dict(), allow_nan=False))
    assert told["strategy"] == strategy
    assert told["options"]["budget"] == {"unit": unit, "amount": share}
    assert told["decisions"]


@settings(max_examples=40)
@given(share=st.floats(0, 0.999), normal=st.integers(0, 5))
def test_the_percentile_of_network_slimming_bit_for_bit(share: float, normal: int) -> None:
    net, graph = vgg()
    with torch.no_grad():  # ties, now and then
        for norm in net.norms():
            norm.weight[:normal] = 0.25
    choice = Percentile(share=share, rule="slimming").choose(
        graph, sg.score(graph, "bn_scale", normalize="none")
    )
    scales = torch.cat([norm.weight.detach().abs() for norm in net.norms()]).numpy()
    threshold = np.sort(scales)[int(len(scales) * share)]
    for norm, name in zip(net.norms(), ("0", "3", "6"), strict=True):
        above = norm.weight.detach().abs() > float(threshold)
        kept = choice.keep[graph.group_of(name).components]
        if above.any():
            assert torch.equal(kept, above), name
        else:  # that code fails here
            assert kept.sum() == 1
    assert choice.trace.decisions[0]["threshold"] == threshold


@given(share=st.floats(0, 0.95))
@settings(max_examples=30)
def test_the_exact_percentile_counts(share: float) -> None:
    _, graph = vgg()
    scores = sg.score(graph, "l1", normalize="none")
    choice = Percentile(share=share).choose(graph, scores)
    gone = ~choice.keep & CostModel(graph).prunable
    assert int(gone.sum()) == min(int(share * 48), 45)
    assert choice.trace.decisions[0]["removed"] == int(gone.sum())


def test_slimming_takes_one_more_than_asked() -> None:
    """Of 48 channels 30 %: 14, and 15 by the rule of the code."""
    net, graph = vgg()
    with torch.no_grad():
        for norm in net.norms():
            norm.weight.copy_(torch.rand(norm.num_features) + 0.1)
    scores = sg.score(graph, "bn_scale", normalize="none")
    left = [
        int(Percentile(share=0.3, rule=rule).choose(graph, scores).keep.sum())
        for rule in ("exact", "slimming")
    ]
    assert left[0] - left[1] == 1


@pytest.mark.parametrize("rule", ["exact", "slimming"])
def test_no_group_loses_more_than_the_cap(rule: Any) -> None:
    _, graph = vgg()
    scores = sg.score(graph, "l1", normalize="none")  # the first layer's are by far the lowest
    loose = Percentile(share=0.4, rule=rule).choose(graph, scores)
    capped = Percentile(share=0.4, rule=rule, limits=Limits(max_removed=0.5)).choose(graph, scores)
    assert min(shares(loose).values()) < 0.5
    assert min(shares(capped).values()) >= 0.5


def test_greedy_is_what_select_does() -> None:
    graph, budget = graph_of("Residual"), sg.Budget.of(macs=0.6)
    choice = Greedy(budget=budget).choose(graph, sg.score(graph))
    assert torch.equal(choice.keep, sg.select(graph, sg.score(graph), budget))
    assert choice.trace.decisions[-1]["left"] <= choice.trace.decisions[-1]["aim"]
    capped = Greedy(budget=sg.Budget.of(channels=0.6), order="score", limits=Limits(0.5))
    assert min(shares(capped.choose(graph, sg.score(graph))).values()) >= 0.5


def test_uniform_takes_the_same_share_of_every_group() -> None:
    _, graph = vgg()
    choice = Uniform(budget=sg.Budget.of(channels=0.5)).choose(graph, sg.score(graph))
    assert set(shares(choice).values()) == {0.5}
    assert choice.trace.decisions[0]["rate"] == pytest.approx(0.5)


@pytest.mark.parametrize("net", [Scaled, ShuffleModule])
def test_rates_leave_blocks_rectangular(net: Any) -> None:
    inputs = torch.randn(2, 7, 5, dtype=torch.double) if net is Scaled else IMAGES
    graph = sg.analyze(sg.trace(randomized(net()), inputs))
    for budget in (0.8, 0.5):
        choice = Uniform(budget=sg.Budget.of(params=budget)).choose(graph, sg.score(graph))
        assert_same_output(sg.masked(graph, choice.mask), sg.compress(graph, choice.mask), inputs)


def test_what_is_named_stays_whole() -> None:
    _, graph = vgg()
    limits = Limits(keep=("3",), round_to=4)
    choice = Uniform(budget=sg.Budget.of(channels=0.7), limits=limits).choose(
        graph, sg.score(graph)
    )
    left = choice.trace.groups
    assert left["3"] == (20, 20)
    assert all(kept % 4 == 0 for kept, _ in left.values())
    assert "3" not in choice.mask


def test_sensitivity_spares_the_sensitive() -> None:
    _, graph = vgg()
    first = graph.group_of("0").components

    def measure(keep: Tensor) -> float:
        return 10 * float(keep[first].double().mean()) + float(keep.double().mean())

    choice = Sensitivity(budget=sg.Budget.of(channels=0.6)).choose(graph, sg.score(graph), measure)
    left = shares(choice)
    assert left["0"] > max(left["3"], left["6"])
    tried = [entry for entry in choice.trace.decisions if "group" in entry]
    assert len(tried) == 3 * len(Sensitivity.shares)


def test_the_stepwise_bound_falls_in_equal_steps_and_holds() -> None:
    _, graph = vgg()
    trial = likeness(graph, IMAGES)
    choice = Stepwise(drop=0.02, trials=5).choose(graph, sg.score(graph), trial)
    start, *tried = choice.trace.decisions
    floors = list(dict.fromkeys(entry["floor"] for entry in tried))
    assert floors == pytest.approx([start["quality"] - 0.02 * k / 3 for k in (1, 2, 3)])
    assert all(entry["accepted"] == (entry["quality"] >= entry["floor"]) for entry in tried)
    assert trial(choice.keep) >= floors[-1]
    assert len(tried) == 15
    nothing = Stepwise(drop=0.0, trials=3).choose(graph, sg.score(graph), trial)
    assert trial(nothing.keep) >= start["quality"]


def test_a_stepwise_group_whose_repair_breaks_down_stays_whole() -> None:
    _, graph = vgg()
    second = graph.group_of("3").components

    def measure(keep: Tensor) -> float:
        if not bool(keep[second].all()):
            raise torch.linalg.LinAlgError("not positive definite")
        return 1.0

    choice = Stepwise().choose(graph, sg.score(graph), measure)
    assert choice.trace.groups["3"] == (20, 20)
    assert choice.trace.groups["0"][0] < 12
    assert [e["quality"] for e in choice.trace.decisions if e.get("group") == "3"] == [None]


def test_trials_leave_the_model_as_it_was() -> None:
    net, graph = vgg()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph.traced.train()

    def repair(dense: Any, slim: Any) -> None:
        assert not dense.training
        for parameter in slim.parameters():
            parameter.zero_()

    trial = sg.Trial(graph, lambda slim: float(slim(IMAGES).abs().sum()), repair)
    assert trial(torch.ones(len(graph.frozen), dtype=torch.bool)) == 0
    assert graph.traced.training
    graph.traced.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_evolution_is_never_worse_than_its_baselines_and_repeats_itself() -> None:
    _, graph = vgg()
    budget, trial = sg.Budget.of(macs=0.5), likeness(graph, IMAGES)
    search = Evolution(budget=budget, trials=16, population=4, seed=3)
    one, two = (search.choose(graph, sg.score(graph), trial) for _ in range(2))
    assert torch.equal(one.keep, two.keep)
    assert one.trace == two.trace
    assert len(one.trace.decisions) == 16
    for baseline in (Greedy(budget=budget), Uniform(budget=budget)):
        assert trial(one.keep) >= trial(baseline.choose(graph, sg.score(graph)).keep)
    best = max(entry["quality"] for entry in one.trace.decisions)
    assert trial(one.keep) == best


def test_a_model_of_no_quality_never_wins() -> None:
    _, graph = vgg()
    seen: list[float] = []

    def measure(_: Tensor) -> float:
        seen.append(math.nan if len(seen) % 2 else float(len(seen)))
        return seen[-1]

    choice = Evolution(budget=sg.Budget.of(macs=0.5), trials=4, population=2).choose(
        graph, sg.score(graph), measure
    )
    assert [entry["quality"] for entry in choice.trace.decisions] == [0.0, None, 2.0, None]


def test_a_choice_goes_into_slim_and_its_report() -> None:
    _, graph = vgg()
    choice = Uniform(budget=sg.Budget.of(channels=0.5)).choose(graph, sg.score(graph))
    result = sg.slim(graph.traced, mask=choice)
    assert result.report["settings"]["trace"] == choice.trace.to_dict()
    assert result.report["totals"]["after"]["channels"] == 24
    assert repr(choice) == "Choice(uniform: keeps 24 of 48 channels)"
    assert ("3", "10", "20") in choice.to_rows().rows


def test_places_grow_with_the_scores_of_a_group() -> None:
    _, graph = vgg()
    scores = sg.score(graph)
    candidates = Candidates(graph, scores)
    for name in ("0", "3", "6"):
        own = graph.group_of(name).components
        order = scores[own].argsort()
        wanted = torch.arange(1, len(own) + 1).double() / len(own)
        wanted[-1] = torch.inf  # one stays
        torch.testing.assert_close(candidates.places[own][order], wanted)


REFUSED: dict[str, tuple[Any, str]] = {
    "share": (lambda: Percentile(share=1.0), "does not lie in [0, 1)"),
    "rule": (lambda: Percentile(share=0.5, rule="other"), "unknown rule `other`"),
    "shares": (lambda: Sensitivity(budget=sg.Budget.of(macs=0.5), shares=(0.5, 0.1)), "ascend"),
    "drop": (lambda: Stepwise(drop=-1), "`drop` must be at least 0"),
    "trials": (lambda: Evolution(budget=sg.Budget.of(macs=0.5), trials=1), "`population`"),
    "limits": (lambda: Limits(max_removed=2.0), "`max_removed` lie in [0, 1]"),
    "heads": (lambda: Limits(heads="tails"), "unknown heads `tails`"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_out_of_range_are_refused(name: str) -> None:
    make, says = REFUSED[name]
    with pytest.raises(BudgetError) as caught:
        make()
    assert says in str(caught.value)


@pytest.mark.parametrize("name", [name for name, own in STRATEGIES.items() if own.measures])
def test_who_tries_models_out_needs_a_measure(name: str) -> None:
    options = {} if name == "stepwise" else {"budget": sg.Budget.of(macs=0.5)}
    with pytest.raises(BudgetError) as caught:
        STRATEGIES[name](**options).choose(graph_of("Residual"), sg.score(graph_of("Residual")))
    assert "give `measure=" in str(caught.value)


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    _, graph = vgg()
    strategy = Uniform(budget=sg.Budget.of(channels=0.1), limits=Limits(max_removed=0.5))
    with pytest.raises(BudgetError) as caught:
        strategy.choose(graph, sg.score(graph))
    assert "at most 4 channels may remain, but 24 have to" in str(caught.value)


def test_evolution_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    strategy = Evolution(budget=sg.Budget.of(macs=0.5))
    with pytest.raises(SlimgraphError) as caught:
        strategy.choose(graph_of("Residual"), sg.score(graph_of("Residual")), lambda _: 0.0)
    assert "slimgraph[search]" in str(caught.value)
