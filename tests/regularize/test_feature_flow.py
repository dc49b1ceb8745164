"""Feature flow: length and curvature of the path from layer to layer."""

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.regularize import FeatureFlow


class Path(nn.Module):
    """Adds given steps to its input."""

    def __init__(self, steps: list[float]) -> None:
        super().__init__()
        self.steps = nn.ParameterList(nn.Parameter(torch.tensor(step)) for step in steps)
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for step in self.steps:
            x = x + step
        return self.head(x)


def flow(steps: list[float], *, length: float, curvature: float, order: int = 1) -> FeatureFlow:
    graph = sg.analyze(sg.trace(Path(steps), torch.randn(2, 3, 4, 4)))
    nodes = [n.name for n in graph.traced.graph.nodes if n.name.startswith("add")]
    return FeatureFlow(graph, length, curvature, nodes=["conv", *nodes], order=order)


def value(regularizer: FeatureFlow) -> float:
    regularizer.model(torch.randn(2, 3, 4, 4))
    return regularizer().item()


def test_a_constant_path_costs_nothing() -> None:
    assert value(flow([0.0, 0.0], length=1, curvature=1)) == 0


def test_a_straight_path_costs_its_length() -> None:
    assert value(flow([0.5, 0.5, 0.5], length=2, curvature=7)) == pytest.approx(3.0, rel=1e-5)


def test_a_parabola_has_a_constant_second_difference() -> None:
    assert value(flow([1.0, 3.0, 5.0], length=0, curvature=1)) == pytest.approx(4.0, rel=1e-5)
    assert value(flow([1.0, 3.0], length=0, curvature=1, order=2)) == pytest.approx(4, rel=1e-5)


def test_the_gradient_reaches_the_weights_that_are_shared() -> None:
    regularizer = flow([0.5, 2.0], length=1, curvature=1)
    regularizer.model(torch.randn(2, 3, 4, 4))
    regularizer().backward()
    # |s0| + |s1| + |s1 - s0|
    steps = [regularizer.model.get_parameter(f"steps.{i}") for i in (0, 1)]
    assert [float(step.grad) for step in steps if step.grad is not None] == pytest.approx([0, 2])


def test_the_order_of_the_batch_and_halves_of_it_do_not_matter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            x = torch.relu(self.b(x))
            return self.head(torch.relu(self.c(x)))

    traced = sg.trace(Net(), torch.randn(2, 3, 4, 4))
    code = traced.code
    regularizer = FeatureFlow(sg.analyze(traced), 1.0, 1.0)
    assert regularizer.nodes == ("relu", "relu_1", "relu_2")
    x = torch.randn(6, 3, 4, 4)
    found = []
    for batch in (x, x[torch.randperm(6)], x[:3], x[3:]):
        torch.testing.assert_close(regularizer.model(batch), traced(batch))
        found.append(regularizer().item())
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert sum(found[2:]) / 2 == pytest.approx(found[0], rel=1e-5)
    assert traced.code == code
    assert not any(module._forward_hooks for module in traced.modules())


def test_only_neighbours_of_one_shape_enter_and_some_must() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU(),
                        nn.Conv2d(4, 2, 1))  # fmt: skip
    graph = sg.analyze(sg.trace(net, torch.randn(1, 3, 4, 4)))
    with pytest.raises(sg.SlimgraphError, match="one shape"):
        FeatureFlow(graph)
    with pytest.raises(sg.SlimgraphError, match="no node `nothing`"):
        FeatureFlow(graph, nodes=["nothing", "_1"])
    regularizer = FeatureFlow(graph, nodes=["_0", "_1"])
    with pytest.raises(sg.SlimgraphError, match="no forward pass"):
        regularizer()
