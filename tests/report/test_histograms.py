"""Histograms of scores: what is counted, where, and what has no place on the axis."""

import math

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.report import histogram


@pytest.fixture
def graph() -> sg.DependencyGraph:
    """A layer of 100 channels that may leave, and one of 4 that may not."""
    net = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 4))
    return sg.analyze(sg.trace(net, torch.ones(1, 3)))


def scored(graph: sg.DependencyGraph, values: Tensor, rest: float = 7.0) -> Tensor:
    """Scores of the channels that may leave; those that may not get `rest`."""
    scores = torch.full((len(graph.frozen),), rest, dtype=torch.float64)
    scores[graph.groups[0].components] = values.double()
    return scores


def test_every_free_channel_is_counted_once(graph: sg.DependencyGraph) -> None:
    values = torch.linspace(1, 2, 100)
    keep = torch.ones_like(graph.frozen)
    keep[graph.groups[0].components[:30]] = False
    found = histogram(graph, "l2", scored(graph, values), keep)
    assert (sum(found["kept"]), sum(found["removed"])) == (70, 30)
    assert found["edges"][0] == 1
    assert found["edges"][-1] == 2
    assert not found["log"]
    assert found["unscored"] == 0
    last = max(i for i, count in enumerate(found["removed"]) if count)
    assert not any(found["kept"][:last])  # the lowest ones left


def test_bins_count_what_numpy_counts(graph: sg.DependencyGraph) -> None:
    import numpy as np

    values = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = histogram(graph, "l2", scored(graph, values))
    assert found["kept"] == np.histogram(values.numpy(), found["edges"])[0].tolist()


def test_scores_over_decades_get_a_logarithmic_axis(graph: sg.DependencyGraph) -> None:
    values = torch.logspace(-6, 0, 100)
    values[:5] = 0
    found = histogram(graph, "taylor", scored(graph, values))
    assert found["log"]
    assert found["zeros"] == {"kept": 5, "removed": 0}
    assert sum(found["kept"]) == 95
    ratios = [b / a for a, b in zip(found["edges"], found["edges"][1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-300, 1e300])
def test_constant_scores_are_one_bar(graph: sg.DependencyGraph, value: float) -> None:
    found = histogram(graph, "l2", scored(graph, torch.full((100,), value, dtype=torch.float64)))
    assert found["kept"] == [100]
    assert found["removed"] == [0]
    assert found["edges"][0] < value < found["edges"][1]


def test_what_is_not_finite_is_counted_apart(graph: sg.DependencyGraph) -> None:
    values = torch.linspace(1, 2, 100)
    values[:3] = torch.tensor([math.inf, math.nan, -math.inf])
    found = histogram(graph, "l2", scored(graph, values))
    assert found["unscored"] == 3
    assert sum(found["kept"]) == 97
    assert all(map(math.isfinite, found["edges"]))


def test_without_finite_scores_there_are_no_edges(graph: sg.DependencyGraph) -> None:
    found = histogram(graph, "l2", scored(graph, torch.full((100,), math.inf)))
    assert found["edges"] == []
    assert found["kept"] == []
    assert found["unscored"] == 100


def test_reports_of_a_budget_hold_the_histogram() -> None:
    net = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 4))
    (found,) = sg.slim(net, torch.ones(1, 3), channels=0.4, criterion="l1").report["histograms"]
    assert found["criterion"] == "l1"
    assert (sum(found["kept"]), sum(found["removed"])) == (40, 60)
