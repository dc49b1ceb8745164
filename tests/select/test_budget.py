"""The budget holds for the model that comes out, counted anew, and nothing more leaves."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel, Totals
from slimgraph.errors import BudgetError, UnknownGroupError
from slimgraph.select.blocks import Legality
from slimgraph.select.levels import level_sets
from tests.groups import models
from tests.nets import attention, sampling
from tests.nets.base import Example, build

UNITS = ("channels", "params", "macs")
NAMES = ("Residual", "Concat", "Gated", "Flattened")


@lru_cache
def graph_of(name: str) -> sg.DependencyGraph:
    torch.manual_seed(0)
    return sg.analyze(sg.trace(getattr(models, name)(), torch.randn(models.IMAGE)))


def everything(graph: sg.DependencyGraph) -> Tensor:
    return torch.ones(len(graph.frozen), dtype=torch.bool)


def recount(graph: sg.DependencyGraph, keep: Tensor) -> Totals:
    """Count the cost of the compressed model by analysing that model."""
    slim = sg.compress(graph, sg.Mask.of_channels(graph, keep))
    again = sg.analyze(slim)
    totals = CostModel(again).totals(everything(again))
    prunable = CostModel(graph).prunable
    return totals._replace(channels=int((keep & prunable).sum()))


def choose(graph: sg.DependencyGraph, budget: sg.Budget, **options: Any) -> Tensor:
    return sg.select(graph, sg.score(graph), budget, **options)


@pytest.mark.parametrize("order", ["per_cost", "score"])
@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=12)
@given(name=st.sampled_from(NAMES), share=st.floats(0.55, 1))
def test_the_compressed_model_meets_the_budget(
    unit: str, order: str, name: str, share: float
) -> None:
    graph = graph_of(name)
    keep = choose(graph, sg.Budget.of(**{unit: share}), order=order)
    total = getattr(CostModel(graph).totals(everything(graph)), unit)
    assert getattr(recount(graph, keep), unit) <= share * total + 1e-6


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=12)
@given(name=st.sampled_from(NAMES), share=st.floats(0.55, 1))
def test_some_removed_channel_would_break_the_budget(unit: str, name: str, share: float) -> None:
    graph = graph_of(name)
    keep = choose(graph, sg.Budget.of(**{unit: share}))
    removed = (~keep).nonzero().flatten().tolist()
    total = getattr(CostModel(graph).totals(everything(graph)), unit)
    legality = Legality(graph, sg.score(graph))
    costs = []
    for channel in removed:
        more = keep.clone()
        more[channel] = True
        costs.append(getattr(CostModel(graph).totals(legality.repair(more)), unit))
    assert not costs or max(costs) > int(share * total + 1e-9)


@settings(max_examples=20)
@given(name=st.sampled_from(NAMES), share=st.floats(0.35, 1), unit=st.sampled_from(UNITS))
def test_no_group_is_emptied(name: str, share: float, unit: str) -> None:
    graph = graph_of(name)
    try:
        keep = choose(graph, sg.Budget.of(**{unit: share}))
    except BudgetError:
        keep = everything(graph)  # refused, as it may be
    assert all(bool(keep[group.components].any()) for group in graph.groups)


@pytest.mark.parametrize("unit", UNITS)
def test_an_integer_is_an_absolute_count(unit: str) -> None:
    graph = graph_of("Residual")
    limit = getattr(CostModel(graph).totals(everything(graph)), unit) * 3 // 5
    keep = choose(graph, sg.Budget.of(**{unit: limit}))
    assert getattr(recount(graph, keep), unit) <= limit


def test_a_budget_of_channels_is_met_exactly() -> None:
    graph = graph_of("Residual")
    assert recount(graph, choose(graph, sg.Budget.of(channels=7))).channels == 7


def test_the_whole_budget_removes_nothing() -> None:
    graph = graph_of("Gated")
    assert bool(choose(graph, sg.Budget.of(macs=1.0)).all())


@pytest.mark.parametrize("multiple", [2, 3, 4])
def test_groups_keep_a_multiple_or_everything(multiple: int) -> None:
    graph = graph_of("Gated")
    keep = choose(graph, sg.Budget.of(channels=0.8), round_to=multiple)
    for group in graph.groups:
        left = int(keep[group.components].sum())
        assert left % multiple == 0 or left == group.size
    assert not bool(keep.all())


def test_at_most_the_allowed_share_of_each_group_leaves() -> None:
    graph = graph_of("Residual")
    keep = choose(graph, sg.Budget.of(channels=0.75), max_removed=0.34)
    for group in graph.groups:
        assert int((~keep[group.components]).sum()) <= 0.34 * group.size
    assert not bool(keep.all())


def test_half_of_each_block_of_a_grouped_convolution_may_leave() -> None:
    """Blocks keep equally many channels, so they leave in sets, and so are protected."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1, groups=4), nn.Conv2d(16, 2, 1))
    graph = sg.analyze(sg.trace(net, torch.randn(1, 3, 4, 4)))
    keep = choose(graph, sg.Budget.of(channels=0.5), max_removed=0.5)
    assert [int(keep[group.components].sum()) for group in graph.groups] == [8, 8, 2]


@pytest.mark.parametrize("name", ["fused attention", "attention by einsum", "no prefix"])
@pytest.mark.parametrize("order", ["per_cost", "score"])
def test_whole_heads_leave_if_asked(name: str, order: Any) -> None:
    """Of each head all channels leave or none, those with the lowest mean score first."""
    example = attention.EXAMPLES[name]
    graph = sg.analyze(sg.trace(build(example), example.inputs(2, example.size)))
    keep = choose(graph, sg.Budget.of(channels=0.75), order=order, heads="whole", keep=["stem"])
    for tops, rows in graph.heads:
        assert keep[tops].tolist() == keep[rows].any(1).tolist() == keep[rows].all(1).tolist()
        assert not bool(keep[tops].all())
    assert (
        recount(graph, keep).channels <= 0.75 * CostModel(graph).totals(everything(graph)).channels
    )


def test_heads_are_thinned_out_otherwise() -> None:
    example = attention.EXAMPLES["fused attention"]
    graph = sg.analyze(sg.trace(build(example), example.inputs(2, example.size)))
    keep = choose(graph, sg.Budget.of(channels=0.75))
    assert all(bool(keep[tops].all()) for tops, _ in graph.heads)
    assert not all(bool(keep[rows].all()) for _, rows in graph.heads)


@pytest.mark.parametrize(
    ("example", "group", "left"),
    [
        (sampling.EXAMPLES["selective kernel of one layer"], "a", 4),
        (attention.EXAMPLES["grouped queries"], "q", 5),
    ],
)
def test_half_of_what_is_tied_to_tables_or_gates_may_leave(
    example: Example, group: str, left: int
) -> None:
    torch.manual_seed(0)
    graph = sg.analyze(sg.trace(example.make(), example.inputs(2, example.size)))
    keep = choose(graph, sg.Budget.of(channels=0.5), order="score", max_removed=0.5)
    assert int(keep[graph.group_of(group).components].sum()) == left


def test_sets_take_as_many_from_every_row() -> None:
    """Channel 0 lies twice in the first row, so two of the second row leave with it."""
    rows = torch.tensor([[0, 0, 1, 1], [2, 3, 4, 5]])
    scores = torch.tensor([2.0, 1.0, 3.0, 1.0, 2.0, 4.0])
    found = [own.tolist() for own in level_sets(rows, scores)]
    assert found == [[1, 3, 4], [0, 2, 5]]


@pytest.mark.parametrize("pattern", ["stem", "b", "ste*"])
def test_named_groups_stay_whole(pattern: str) -> None:
    graph = graph_of("Residual")
    keep = choose(graph, sg.Budget.of(channels=0.8), keep=[pattern])
    assert bool(keep[graph.group_of("stem").components].all())
    assert int((~keep[graph.group_of("a").components]).sum()) == 2


def test_keeping_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownGroupError, match="`keep` names `trunk`"):
        choose(graph_of("Residual"), sg.Budget.of(channels=0.8), keep=["trunk"])


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        ({"channels": 1}, {}),
        ({"params": 0.01}, {}),
        ({"macs": 1}, {}),
        ({"channels": 0.5}, {"max_removed": 0.1}),
        ({"channels": 0.5}, {"keep": ["*"]}),
    ],
)
def test_an_impossible_budget_says_what_has_to_remain(budget: Any, options: Any) -> None:
    with pytest.raises(BudgetError, match=r"at most \d+ \w+ may remain, but \d+ have to"):
        choose(graph_of("Residual"), sg.Budget.of(**budget), **options)


@pytest.mark.parametrize("amount", [0.0, -0.5, 1.5, float("nan"), 0, -3, True])
def test_a_budget_out_of_range_is_refused(amount: float) -> None:
    with pytest.raises(BudgetError, match="out of range"):
        sg.Budget.of(macs=amount)


@pytest.mark.parametrize("given_budgets", [{}, {"macs": 0.5, "params": 0.5}])
def test_exactly_one_budget_is_needed(given_budgets: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="budgets are given"):
        sg.Budget.of(**given_budgets)


@pytest.mark.parametrize("options", [{"round_to": 0}, {"max_removed": 1.2}, {"max_removed": -1}])
def test_options_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(BudgetError, match="`round_to` must be at least 1"):
        choose(graph_of("Residual"), sg.Budget.of(macs=0.5), **options)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(BudgetError, match="unknown order `scores`"):
        choose(graph_of("Residual"), sg.Budget.of(macs=0.5), order="scores")


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": "l1"},
        {"keep": ["stem"]},
        {"round_to": 8},
        {"seed": 1},
        {"normalize": "none"},
    ],
)
@pytest.mark.parametrize("mask", [None, {}])
def test_options_that_nothing_heeds_are_refused(options: Any, mask: Any) -> None:
    with pytest.raises(BudgetError, match=f"`{next(iter(options))}` has no use without a budget"):
        sg.slim(models.Residual(), torch.randn(models.IMAGE), mask=mask, **options)


def test_a_mask_and_a_budget_are_refused() -> None:
    with pytest.raises(BudgetError, match="a mask leaves no choice"):
        sg.slim(models.Residual(), torch.randn(models.IMAGE), mask={}, macs=0.5)


def test_an_unknown_part_of_attention_is_refused() -> None:
    with pytest.raises(BudgetError, match="unknown heads `half`"):
        choose(graph_of("Residual"), sg.Budget.of(macs=0.5), heads="half")


def test_order_by_score_removes_the_lowest_scores() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1))
    graph = sg.analyze(sg.trace(net, torch.randn(models.IMAGE)))
    scores = sg.score(graph)
    keep = sg.select(graph, scores, sg.Budget.of(channels=9), order="score")
    prunable = CostModel(graph).prunable
    lowest = scores[prunable].sort().values[:5]
    assert scores[prunable & ~keep].sort().values.tolist() == lowest.tolist()


@pytest.mark.parametrize("unit", ["channels", "params", "macs"])
def test_a_model_in_which_nothing_can_leave_says_so(unit: str) -> None:
    with pytest.raises(BudgetError, match="no channel of this model can leave"):
        sg.slim(torch.nn.Linear(4, 6), torch.randn(2, 4), **{unit: 0.5})


def test_frozen_parameters_and_switched_off_gradients_do_not_keep_channels() -> None:
    model = models.Residual().requires_grad_(requires_grad=False)
    with torch.inference_mode():
        slim = sg.slim(model, torch.randn(models.IMAGE), channels=0.5).model
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
