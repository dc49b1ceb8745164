"""Taylor scores against gates that are really there."""

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.importance.gradients import taylor


class Gated(nn.Module):
    """A convolution with a norm, one without, tied by a sum; gates can be set."""

    def __init__(self, *, gated: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.two, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.gates = nn.Parameter(torch.ones(2, 6, 1, 1)) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.norm(self.one(x)), self.two(x)
        if self.gates is not None:
            one, two = one * self.gates[0], two * self.gates[1]
        return self.head(torch.relu(one + two).mean((2, 3)))


def data() -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(3)
    return [
        (torch.randn(5, 3, 8, 8, generator=chance).double(), torch.arange(5) % 4) for _ in range(3)
    ]


def test_gates_behind_norms_and_convolutions() -> None:
    model = Gated(gated=False).double().eval()
    graph = sg.analyze(sg.trace(model, data()[0][0]))
    scores = taylor(graph, data())
    gated = Gated(gated=True).double()
    wanted = torch.zeros(6)
    assert gated.gates is not None
    for x, target in data():
        loss = nn.functional.cross_entropy(gated.eval()(x), target)
        (gradient,) = torch.autograd.grad(loss, gated.gates)
        wanted = wanted + gradient.square().sum((0, 2, 3)) / 3
    torch.testing.assert_close(scores[graph.group_of("two").components], wanted)


def test_the_weight_form() -> None:
    model = Gated(gated=False).double().eval()
    traced = sg.trace(model, data()[0][0])
    graph = sg.analyze(traced)
    scores = taylor(graph, data(), form="weight")
    wanted = torch.zeros(6, dtype=torch.double)
    for x, target in data():
        model.zero_grad()
        nn.functional.cross_entropy(traced(x), target).backward()
        for parameter in (model.one.weight, model.two.weight, model.norm.weight,
                          model.norm.bias, model.two.bias):  # fmt: skip
            assert parameter is not None
            assert parameter.grad is not None
            wanted += (
                (parameter * parameter.grad).square().flatten(1).sum(1).detach() / 3
                if parameter.ndim > 1
                else (parameter * parameter.grad).square().detach() / 3
            )
    torch.testing.assert_close(scores[graph.group_of("two").components], wanted)


def test_targets_are_needed_and_gradients_left_alone() -> None:
    model = Gated(gated=False).double().eval()
    graph = sg.analyze(sg.trace(model, data()[0][0]))
    with pytest.raises(sg.SlimgraphError, match="targets"):
        taylor(graph, [batch for batch, _ in data()])  # type: ignore[misc]
    with pytest.raises(sg.SlimgraphError, match="no batch"):
        taylor(graph, [])
    taylor(graph, data())
    assert all(parameter.grad is None for parameter in model.parameters())
