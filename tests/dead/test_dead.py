"""Dead channels leave without changing an output; live ones stay."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import slimgraph as sg
from slimgraph.keeping import Semantics

IMAGE = (2, 3, 5, 5)


class Net(nn.Module):
    """Convolution, BatchNorm, activation, twice."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.activation = activation or nn.ReLU()
        self.b = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.activation(self.norm(self.a(x)))).relu())


def kept(model: nn.Module, constants: Semantics = "keep") -> dict[str, list[int]]:
    """Remove what is dead; return what stays of groups that shrink, having compared outputs."""
    x = torch.randn(IMAGE)
    model.eval()
    result = sg.slim(model, x, constants=constants)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x), rtol=0, atol=1e-6)
    return {name: entry.nonzero().flatten().tolist() for name, entry in result.mask.items()}


def set_norm(net: Net, channel: int, scale: float, shift: float) -> Net:
    with torch.no_grad():
        net.norm.weight[channel], net.norm.bias[channel] = scale, shift
    return net


def test_a_freshly_made_net_has_no_dead_channel() -> None:
    assert kept(Net()) == {}


def test_a_norm_that_makes_zero_kills_its_channel() -> None:
    assert kept(set_norm(Net(), 2, 0, 0)) == {"a": [0, 1, 3, 4, 5]}


def test_a_negative_shift_before_relu_makes_zero() -> None:
    assert kept(set_norm(Net(), 1, 0, -0.5)) == {"a": [0, 2, 3, 4, 5]}


def test_a_positive_shift_leaves_as_a_constant() -> None:
    assert kept(set_norm(Net(), 1, 0, 0.5)) == {"a": [0, 2, 3, 4, 5]}
    assert kept(set_norm(Net(), 1, 0, 0.5), "zero") == {}


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid()])
def test_an_activation_that_maps_zero_elsewhere_makes_a_constant(activation: nn.Module) -> None:
    assert kept(set_norm(Net(activation), 2, 0, 0)) == {"a": [0, 1, 3, 4, 5]}
    assert kept(set_norm(Net(activation), 2, 0, 0), "zero") == {}


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Tanh()])
def test_an_activation_that_keeps_zero_lets_it_leave(activation: nn.Module) -> None:
    assert kept(set_norm(Net(activation), 2, 0, 0), "zero") == {"a": [0, 1, 3, 4, 5]}


def test_a_channel_nobody_reads_is_dead() -> None:
    net = Net()
    with torch.no_grad():
        net.b.weight[:, 4] = 0
    assert kept(net) == {"a": [0, 1, 2, 3, 5]}


def test_filters_pruned_by_torch_leave() -> None:
    net = Net()
    prune.ln_structured(net.b, "weight", amount=2, n=2, dim=0)
    with torch.no_grad():
        assert net.b.bias is not None
        net.b.bias.zero_()
    alive = net.b.weight.detach().flatten(1).any(1).nonzero().flatten().tolist()
    assert len(alive) == 3
    assert kept(net) == {"b": alive}


def test_what_only_dead_channels_read_dies_too() -> None:
    net = Net()
    with torch.no_grad():
        net.head.weight[:, 3] = 0
        net.b.weight[[0, 1, 2, 4], 5] = 0  # channel 5 feeds channel 3 alone
    assert kept(net) == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 4]}


def test_the_last_channel_of_a_group_stays() -> None:
    net = Net()
    with torch.no_grad():
        net.head.weight.zero_()
    assert {name: len(left) for name, left in kept(net).items()} == {"a": 1, "b": 1}
