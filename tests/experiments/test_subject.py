"""A subject counts work as slimgraph does, knows its layers, and meets its budget in every way."""

import pytest
import torch

import slimgraph as sg
from slimgraph.cost import CostModel
from tools.experiments.networks import build
from tools.experiments.subject import IN_TURN, OWN, REPAIRS, Subject, shrunk

SHAPE = (1, 8, 8)


def subject(name: str, width: float = 0.25) -> Subject:
    images, labels = torch.randn(2, 32, *SHAPE), torch.randint(10, (2, 32))
    model = build(name, SHAPE, width=width)
    model(images[0])  # norms see something
    batches = list(zip(images, labels, strict=True))
    return Subject(model.eval(), batches, batches, batches)


@pytest.mark.parametrize("name", ["resnet-20", "mobilenet-v2"])
def test_work_is_what_the_library_counts(name: str) -> None:
    found = subject(name)
    everything = torch.ones_like(found.graph.frozen)
    assert found.macs == CostModel(found.graph).totals(everything).macs


def test_choosing_in_turn_meets_the_budget_where_channels_of_a_group_cost_differently() -> None:
    found = subject("resnet-20")
    small = shrunk(found, "obs", "prune_in_turn", 0.5)
    left = CostModel(sg.analyze(sg.trace(small, found.example)))
    assert left.totals(torch.ones_like(left.graph.frozen)).macs <= 0.5 * found.macs


@pytest.mark.parametrize("repair", REPAIRS)
def test_every_repair_gives_a_network_that_runs(repair: str) -> None:
    found = subject("cifarnet")
    small = shrunk(found, "lasso", repair, 0.7)
    assert small(found.example).shape == (1, 10)


def test_repairs_are_those_that_make_sense() -> None:
    bare, normed = subject("cifarnet"), subject("resnet-20")
    assert "recalibrate" not in bare.repairs("l2"), "there is no norm"
    assert "recalibrate" in normed.repairs("l2")
    assert {c for c in OWN if "prune_in_turn" in normed.repairs(c)} == set(IN_TURN)


def test_coupled_layers_are_those_of_shortcuts() -> None:
    assert subject("cifarnet").coupled == ()
    found = subject("resnet-20").coupled
    assert found == ("first.0", *(f"blocks.{index}.branch.3" for index in range(9)))
    assert "blocks.1.branch.3" not in subject("mobilenet-v2").coupled, "a depth-wise layer"
