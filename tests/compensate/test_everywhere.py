"""Scores and repairs take a `DataLoader`, and follow the model's device and dtype."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import slimgraph as sg
from slimgraph.compensate import project, prune_in_turn, recalibrate, reconstruct, shift_means
from slimgraph.importance import DATA_CRITERIA
from tests.compensate.test_least_squares import images
from tests.compensate.test_projection import KEPT, with_bias

KINDS = [torch.float32, torch.float64, torch.bfloat16]


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    x = torch.cat(images()).float()
    return DataLoader(TensorDataset(x, torch.ones(48, 2, 4, 4)), batch_size=16)


def graph_of(device: torch.device, kind: torch.dtype) -> sg.DependencyGraph:
    model = with_bias(bias=False, norm=True).to(device, kind)
    return sg.analyze(sg.trace(model, images()[0][:2].to(device, kind)))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_scores(device: torch.device, kind: torch.dtype) -> None:
    graph = graph_of(device, kind)
    for criterion in DATA_CRITERIA:
        scores = sg.score(graph, criterion, data=loader(), loss=torch.nn.functional.mse_loss)
        assert scores.dtype == torch.float64
        assert bool(scores[graph.group_of("0").components].isfinite().all())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_repairs(device: torch.device, kind: torch.dtype) -> None:
    graph = graph_of(device, kind)
    x = torch.cat(images()).to(device, kind)
    wanted = graph.traced(x)
    plain = sg.compress(graph, {"0": KEPT})
    before = float((plain(x) - wanted).detach().norm())
    for repair in (project, shift_means, reconstruct):
        slim = sg.compress(graph, {"0": KEPT})
        assert repair(graph.traced, slim, loader())
        found = slim(x)
        assert found.device.type == device.type
        assert found.dtype == kind
        assert float((found - wanted).detach().norm()) < before
    assert recalibrate(plain, loader()) == 1
    turn = prune_in_turn(graph, {"0": 5}, loader())
    assert float((turn.model(x) - wanted).detach().norm()) < before
