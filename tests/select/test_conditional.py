"""One policy for all budgets: met whatever it says, learnt from some, good at others."""

import itertools
import json
import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel
from slimgraph.errors import BudgetError
from slimgraph.select import (
    Conditional,
    Greedy,
    Learning,
    Limits,
    Measure,
    Policy,
    Uniform,
    train_policy,
)
from slimgraph.select.candidates import Candidates
from slimgraph.select.conditional import Walk
from slimgraph.select.ddpg import Learner, Step
from tests.assertions import assert_same_output
from tests.groups import models


@lru_cache
def graph_of(name: str) -> sg.DependencyGraph:
    torch.manual_seed(0)
    if name != "chain":
        inputs = torch.randn(models.IMAGE, dtype=torch.double)
        return sg.analyze(sg.trace(getattr(models, name)().double().eval(), inputs))
    widths = (3, 24, 24, 24, 24)
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*parts, nn.Conv2d(24, 4, 1)).double().eval()
    return sg.analyze(sg.trace(net, torch.randn(1, 3, 6, 6, dtype=torch.double)))


def cost(graph: sg.DependencyGraph, keep: Tensor) -> int:
    return CostModel(graph).totals(keep).macs


def total(graph: sg.DependencyGraph) -> int:
    return cost(graph, torch.ones(len(graph.frozen), dtype=torch.bool))


def uneven(graph: sg.DependencyGraph) -> Measure:
    """Missing channels of the last two layers hurt most, about which the budget says nothing.

    What the budget forces on the actor falls on these layers, so it has to learn to save before.
    """
    sets = [group.components for group in graph.groups if group.prunable]

    def measure(keep: Tensor) -> float:
        gone = [1 - float(keep[own].double().mean()) for own in sets]
        return 1 - 0.1 * gone[0] ** 2 - 0.1 * gone[1] ** 2 - gone[2] ** 2 - gone[3] ** 2

    return measure


@settings(max_examples=30)
@given(
    name=st.sampled_from(["Residual", "Concat", "Gated", "chain"]),
    share=st.floats(0.5, 1),
    actions=st.lists(st.floats(0, 1), min_size=8, max_size=8),
    round_to=st.sampled_from([1, 2]),
)
def test_the_budget_is_met_whatever_the_actor_says(
    name: str, share: float, actions: list[float], round_to: int
) -> None:
    graph = graph_of(name)
    candidates = Candidates(graph, sg.score(graph), Limits(round_to=round_to))
    walk, said = Walk(candidates, "macs", 0.1), iter(actions)
    limit = int(share * walk.total)
    least = torch.zeros(len(graph.groups), dtype=torch.float64)
    least[walk.groups] = 0.9
    if cost(graph, candidates.at(least)) > limit:  # every group at its floor is too much
        with pytest.raises(BudgetError, match="may remain"):
            walk.go(limit, lambda _: next(said))
        return
    keep, steps = walk.go(limit, lambda _: next(said))
    assert cost(graph, keep) <= limit
    assert len(steps) == len(walk.groups)
    assert all(state.shape == (walk.features,) for state, _ in steps)
    assert all(bool(keep[group.components].any()) for group in graph.groups)


def test_a_slack_budget_leaves_decisions_alone_and_a_tight_one_shows_in_the_state() -> None:
    graph = graph_of("chain")
    walk = Walk(Candidates(graph, sg.score(graph)), "macs", 0.2)
    _, loose = walk.go(walk.total, lambda _: 0.6)
    assert [action for _, action in loose] == pytest.approx([0.6] * 4)
    keep, tight = walk.go(walk.total // 2, lambda _: 1.0)
    assert [action for _, action in tight] == sorted((a for _, a in tight), reverse=True)
    assert tight[0][1] == pytest.approx(1.0)
    assert cost(graph, keep) <= walk.total // 2
    assert not torch.equal(loose[0][0], tight[0][0])  # the budget is part of the state
    assert loose[0][0][0] == 1.0
    assert tight[0][0][0] == pytest.approx(0.5)


@lru_cache
def learnt() -> Policy:
    graph = graph_of("chain")
    how = Learning(shares=(0.3, 0.5, 0.7), episodes=240, warm_up=100, floor=0.1, seed=0)
    return train_policy(graph, sg.score(graph), uneven(graph), learning=how)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.35, 0.4, 0.45, 0.55, 0.6, 0.65])
def test_it_is_good_at_budgets_it_has_not_seen(share: float) -> None:
    graph, policy = graph_of("chain"), learnt()
    choice = policy.choose(share)
    assert cost(graph, choice.keep) <= share * total(graph)
    measure = uneven(graph)
    for baseline in (Uniform, Greedy):
        other = baseline(budget=sg.Budget.of(macs=share)).choose(graph, sg.score(graph))
        assert measure(choice.keep) > measure(other.keep)
    json.dumps(choice.trace.to_dict(), allow_nan=False)
    inputs = torch.randn(1, 3, 6, 6, dtype=torch.double)
    assert_same_output(sg.masked(graph, choice.mask), sg.compress(graph, choice.mask), inputs)


@pytest.mark.slow
def test_smaller_budgets_leave_less() -> None:
    graph = graph_of("chain")
    left = [cost(graph, learnt().choose(share).keep) for share in (0.3, 0.4, 0.5, 0.6, 0.7)]
    assert left == sorted(left)
    assert left[0] < left[-1]


@pytest.mark.slow
def test_rewards_are_what_was_measured_and_budgets_take_turns() -> None:
    policy, measure = learnt(), uneven(graph_of("chain"))
    assert [share for share, _, _ in policy.episodes[:4]] == [0.3, 0.5, 0.7, 0.3]
    assert all(quality == measure(keep) for _, quality, keep in policy.episodes[::20])
    assert policy.learner.memory[-1].reward == policy.episodes[-1][1]


def test_the_strategy_takes_the_best_it_has_tried_and_repeats_itself() -> None:
    graph = graph_of("chain")
    how = Learning(shares=(0.7,), episodes=12, warm_up=6, seed=3)
    strategy = Conditional(budget=sg.Budget.of(macs=0.5), learning=how)
    before = torch.random.get_rng_state()
    one, two = (strategy.choose(graph, sg.score(graph), uneven(graph)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.trace == two.trace
    assert torch.equal(one.keep, two.keep)
    assert cost(graph, one.keep) <= 0.5 * total(graph)
    own = [e["quality"] for e in one.trace.decisions if e["share"] != 0.7]
    assert uneven(graph)(one.keep) == max(own)
    assert len(one.trace.decisions) == 13


def test_a_model_that_cannot_be_measured_teaches_nothing() -> None:
    graph = graph_of("chain")
    how = Learning(shares=(0.5,), episodes=4, warm_up=2)
    policy = train_policy(graph, sg.score(graph), lambda _: math.nan, learning=how)
    assert not policy.learner.memory
    assert policy.choose(0.5).keep.any()


def test_the_learner_finds_the_best_action() -> None:
    """A single decision whose reward is highest at 0.8."""
    learner = Learner(3, 200, seed=0)
    state = torch.tensor([0.5, 0.1, 0.9])
    for round_ in range(250):
        action = learner.draw() if round_ < 100 else learner.act(state, 0.3)
        reward = 1 - (action - 0.8) ** 2
        learner.remember([Step(state, action, reward, torch.zeros(3), last=True)])
        if round_ >= 100:
            learner.learn(4)
    assert learner.act(state) == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("options", [{"floor": 0.0}, {"episodes": 5, "warm_up": 5}, {"warm_up": 0}])
def test_learning_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="`floor` must lie in"):
        Learning(**options)  # type: ignore[arg-type]


def test_there_must_be_budgets_to_learn_from() -> None:
    graph = graph_of("chain")
    with pytest.raises(BudgetError, match="no budget to learn from"):
        train_policy(graph, sg.score(graph), lambda _: 0.0, learning=Learning(shares=()))


def test_a_floor_that_is_too_high_says_so() -> None:
    graph = graph_of("chain")
    how = Learning(shares=(0.1,), episodes=4, warm_up=2, floor=0.9)
    with pytest.raises(BudgetError, match="may remain, but"):
        train_policy(graph, sg.score(graph), lambda _: 0.0, learning=how)
