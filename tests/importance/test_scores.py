"""Each criterion against plain sums over the weights of a residual net."""

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.importance import CRITERIA
from tests.groups.models import IMAGE, Gated, Residual


def net() -> Residual:
    model = Residual()
    torch.nn.init.uniform_(model.norm.weight, -1, 1)
    return model


def scores_of(model: torch.nn.Module, criterion: str, group: str, **options: object) -> Tensor:
    graph = sg.analyze(sg.trace(model, torch.randn(IMAGE)))
    scores = sg.score(graph, criterion, **options)  # type: ignore[arg-type]
    return scores[graph.group_of(group).components]


def made_by(model: Residual, channel: int) -> Tensor:
    """Return what makes a channel of the stream: weights of the stem and of the branch."""
    rows = [model.stem.weight[channel], model.b.weight[channel]]
    return torch.cat([row.detach().double().flatten() for row in rows])


def test_l1_sums_absolute_weights_of_all_tied_modules() -> None:
    model = net()
    expected = [float(made_by(model, channel).abs().sum()) for channel in range(6)]
    assert scores_of(model, "l1", "stem", normalize="none").tolist() == pytest.approx(expected)


def test_l2_is_the_norm_over_all_tied_modules() -> None:
    model = net()
    expected = [float(made_by(model, channel).square().sum().sqrt()) for channel in range(6)]
    assert scores_of(model, "l2", "stem", normalize="none").tolist() == pytest.approx(expected)


def test_oicsr_adds_the_energy_of_what_reads_the_channel() -> None:
    model = net()
    readers = (model.a.weight.detach().double(), model.head.weight.detach().double())
    expected = [
        float(made_by(model, channel).square().sum())
        + sum(float(weight[:, channel].square().sum()) for weight in readers)
        for channel in range(6)
    ]
    assert scores_of(model, "oicsr", "stem", normalize="none").tolist() == pytest.approx(expected)


def test_bn_scale_is_the_absolute_scale() -> None:
    model = net()
    expected = model.norm.weight.detach().abs().tolist()
    assert scores_of(model, "bn_scale", "a", normalize="none").tolist() == pytest.approx(expected)


def test_bn_scale_says_nothing_of_channels_without_a_norm() -> None:
    assert bool(scores_of(net(), "bn_scale", "stem").isinf().all())


def test_channels_the_criterion_says_nothing_of_are_never_chosen() -> None:
    result = sg.slim(net(), torch.randn(IMAGE), channels=8, criterion="bn_scale")
    assert set(result.mask) == {"a"}


@pytest.mark.parametrize("criterion", ["l1", "l2", "oicsr", "fpgm", "lamp", "random"])
@pytest.mark.parametrize("group", ["expand", "squeeze"])
def test_normalised_scores_have_mean_one_in_every_group(criterion: str, group: str) -> None:
    assert float(scores_of(Gated(), criterion, group).mean()) == pytest.approx(1)


def test_random_is_reproducible_by_its_seed() -> None:
    one, same, other = (scores_of(net(), "random", "stem", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_random_leaves_the_global_state_alone() -> None:
    graph = sg.analyze(sg.trace(net(), torch.randn(IMAGE)))
    before = torch.get_rng_state()
    sg.score(graph, "random")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(criterion: str, bad: float) -> None:
    model = net()
    with torch.no_grad():
        model.a.weight[1, 2, 0, 0] = bad
    with pytest.raises(SlimgraphError, match=r"`a.weight` holds NaN or infinite"):
        scores_of(model, criterion, "a")


def test_buffers_may_be_infinite_but_statistics_may_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    graph = sg.analyze(sg.trace(model, torch.randn(1, 3, 4, 4)))
    assert bool(sg.score(graph).isfinite().any())
    model[1].running_var[0] = torch.inf
    with pytest.raises(SlimgraphError, match=r"`1.running_var` holds NaN or infinite"):
        sg.score(graph)


def test_an_unknown_criterion_lists_the_known_ones() -> None:
    with pytest.raises(BudgetError, match="unknown criterion `l3`") as caught:
        scores_of(net(), "l3", "a")
    assert all(name in str(caught.value.hint) for name in CRITERIA)


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(BudgetError, match="unknown normalisation `max`"):
        scores_of(net(), "l2", "a", normalize="max")
