"""The networks of the experiments can be traced, shrink exactly, and meet their budgets."""

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel
from tests.assertions import assert_same_output, random_mask
from tools.experiments.networks import NETWORKS, build

SHAPES = [(1, 28, 28), (3, 32, 32)]


def trained_looking(name: str, shape: tuple[int, ...], width: float) -> tuple[nn.Module, Tensor]:
    """Make a network in double precision whose norms have seen something."""
    model, images = build(name, shape, width=width).double(), torch.randn(4, *shape).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    model(images)
    return model.eval(), images


CASES = [
    (name, selections)
    for name, network in NETWORKS.items()
    for selections in (False, True)[: 1 + network.selections]
]


@pytest.mark.parametrize(("name", "selections"), CASES)
def test_half_of_the_channels_leave_exactly(name: str, selections: bool) -> None:
    model, images = trained_looking(name, SHAPES[len(name) % 2], 0.25)
    traced = sg.trace(model, images[:1])
    assert traced.meta["rung"] == 1
    graph = sg.analyze(sg.with_selections(traced) if selections else traced)
    mask = random_mask(graph, seed=0)
    kept = torch.cat(list(mask.values()))
    assert 0.2 < float(kept.double().mean()) < 0.8
    assert_same_output(sg.masked(graph, mask), sg.compress(graph, mask), images)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_work_is_a_budget_they_meet(name: str) -> None:
    shape = SHAPES[len(name) % 2 - 1]
    model, images = trained_looking(name, shape, 0.25)
    result = sg.slim(model, images[:1], macs=0.5)
    totals = result.report["totals"]
    assert 0.35 * totals["before"]["macs"] < totals["after"]["macs"]
    assert totals["after"]["macs"] <= 0.5 * totals["before"]["macs"]
    graph = sg.analyze(sg.trace(result.model, images[:1]))
    assert CostModel(graph).totals(torch.ones_like(graph.frozen)).macs == totals["after"]["macs"]
    assert result.model(images).shape == (4, 10)


def test_a_width_scales_every_layer() -> None:
    def sizes(width: float) -> list[int]:
        model = build("resnet-20", (1, 8, 8), width=width)
        return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]

    assert [2 * size for size in sizes(0.5)] == sizes(1.0)
    assert sizes(1.0)[0] == 16
    assert sizes(1.0)[-1] == 64
