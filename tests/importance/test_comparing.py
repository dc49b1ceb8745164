"""Scores that compare channels with each other, against their definitions."""

import pytest
import torch
from torch import nn

import slimgraph as sg
from slimgraph.importance.geometry import geometric_median, layer_adaptive
from slimgraph.importance.magnitude import out_in_energy


def graph() -> sg.DependencyGraph:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    return sg.analyze(sg.trace(net.double(), torch.randn(1, 3, 9, 9).double()))


def test_distances_are_those_between_filters() -> None:
    found = graph()
    scores = geometric_median(found)
    weight = found.traced.get_parameter("0.weight").detach().flatten(1)
    wanted = [sum(float((a - b).norm()) for b in weight) for a in weight]
    assert scores[found.group_of("0").components].tolist() == pytest.approx(wanted)


def test_a_filter_and_its_negative_are_far_apart() -> None:
    found = graph()
    weight = found.traced.get_parameter("0.weight")
    with torch.no_grad():
        weight[1] = -weight[0]
        weight[2] = weight[3]
    scores = geometric_median(found)[found.group_of("0").components]
    assert scores[0] > scores[2]
    assert scores[2] == pytest.approx(float(scores[3]))


def test_each_channel_is_a_share_of_those_above_it() -> None:
    found = graph()
    scores, energy = layer_adaptive(found), out_in_energy(found)
    for group in found.groups:
        own = energy[group.components]
        wanted = [float(e / own[own >= e].sum()) for e in own]
        assert scores[group.components].tolist() == pytest.approx(wanted)
        assert scores[group.components].max() == 1
