"""A compressed model is a model like any other: it trains, and is compressed again."""

import pytest
import torch
from torch import fx, nn

import slimgraph as sg
from tests.groups.models import IMAGE, Concat, Flattened, Gated, Residual

MODELS = [Residual, Concat, Gated, Flattened]


def slim_of(make: type[nn.Module]) -> fx.GraphModule:
    return sg.slim(make(), torch.randn(IMAGE), channels=0.7).model.train()


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - 1).square().mean()


@pytest.mark.parametrize("make", MODELS)
def test_every_parameter_gets_a_gradient(make: type[nn.Module]) -> None:
    slim = slim_of(make)
    loss_of(slim, torch.randn(IMAGE)).backward()
    assert [name for name, p in slim.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("make", MODELS)
def test_a_few_steps_lower_the_loss(make: type[nn.Module]) -> None:
    slim, x = slim_of(make), torch.randn(IMAGE)
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.01)
    before = float(loss_of(slim, x).detach())
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(slim, x).backward()
        optimizer.step()
    assert float(loss_of(slim, x).detach()) < before


def test_training_moves_the_running_statistics() -> None:
    slim = slim_of(Residual)
    before = slim.get_buffer("norm.running_mean").clone()
    slim(torch.randn(IMAGE))
    assert not torch.equal(before, slim.get_buffer("norm.running_mean"))


def test_training_leaves_the_first_model_alone() -> None:
    model = Residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slim = sg.slim(model, torch.randn(IMAGE), channels=0.7).model.train()
    loss_of(slim, torch.randn(IMAGE)).backward()
    torch.optim.SGD(slim.parameters(), lr=0.1).step()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("make", MODELS)
def test_a_trained_slim_model_is_traced_and_compressed_again(make: type[nn.Module]) -> None:
    slim, x = slim_of(make), torch.randn(IMAGE)
    loss_of(slim, x).backward()
    torch.optim.SGD(slim.parameters(), lr=0.01).step()
    again = sg.slim(sg.trace(slim, x), channels=0.8)
    after = again.report["totals"]["after"]["params"]
    assert after < sum(p.numel() for p in slim.parameters())
    assert again.model(x).shape == slim(x).shape
