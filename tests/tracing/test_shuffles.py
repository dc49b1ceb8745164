"""Channel shuffles written out are traced as one op, and nothing else is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from tests.assertions import assert_same_output

X = torch.randn(2, 6, 4, 5, dtype=torch.double)
Function = Callable[[Tensor], Tensor]


class Moved(nn.Module):
    """Computes a function of what a convolution makes."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(6, 6, 1).double(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def from_sizes(x: Tensor) -> Tensor:
    b, c, h, w = x.size()
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


SHUFFLES: dict[str, Function] = {
    "sizes": from_sizes,
    "a permutation": lambda x: (
        x.reshape(x.shape[0], 2, 3, *x.shape[2:]).permute(0, 2, 1, 3, 4).reshape(x.shape)
    ),
    "named dims": lambda x: x.unflatten(1, (2, -1)).swapaxes(2, 1).flatten(1, 2),
    "a packed size": lambda x: x.view((-1, 2, 3, *x.shape[2:])).transpose(-3, -4).reshape(x.shape),
}


def changed(x: Tensor) -> Tensor:
    blocks = x.unflatten(1, (2, -1)).transpose(1, 2)
    return blocks.flatten(1, 2) + blocks.sum()


OTHERS: dict[str, Function] = {
    "blocks that others read": changed,
    "blocks by the height of the image": lambda x: (
        x.reshape(x.shape[0], x.shape[2] // 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
    ),
    "pixels that an image may move to the batch": lambda x: (
        x.reshape(-1, 2, 3, 4, 5).transpose(1, 2).reshape(-1, 6, 4, 5)
    ),
    "other dims": lambda x: (
        x.reshape(x.shape[0], 2, 3, *x.shape[2:]).transpose(0, 1).reshape(x.shape)
    ),
    "one block": lambda x: x.unflatten(1, (1, 6)).transpose(1, 2).flatten(1, 2),
    "a transpose and no second view": lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).relu(),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_it_is_one_call_at_every_size(name: str) -> None:
    model = Moved(SHUFFLES[name])
    traced = sg.trace(model, X)
    called = [node.target for node in traced.graph.nodes if node.op.startswith("call")]
    assert called == ["conv", torch.channel_shuffle]
    for inputs in (X, torch.randn(1, 6, 7, 3).double()):
        assert_same_output(model, traced, inputs)
        assert torch.equal(traced(inputs), F.channel_shuffle(model.conv(inputs), 2))


@pytest.mark.parametrize("name", sorted(SHUFFLES.keys() - {"a packed size"}))
def test_it_is_one_call_of_an_exported_program(name: str) -> None:
    model = Moved(SHUFFLES[name])
    traced = sg.trace(torch.export.export(model, (X,)), X)
    called = [node.target for node in traced.graph.nodes if node.op.startswith("call")]
    assert called[-1] is torch.channel_shuffle
    assert_same_output(model, traced, X)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_shuffle_stays(name: str) -> None:
    model = Moved(OTHERS[name])
    traced = sg.trace(model, X)
    assert torch.channel_shuffle not in [node.target for node in traced.graph.nodes]
    assert_same_output(model, traced, X)


def test_it_has_the_name_and_the_place_of_its_last_step() -> None:
    traced = sg.trace(Moved(from_sizes), X)
    (node,) = (n for n in traced.graph.nodes if n.target is torch.channel_shuffle)
    assert node.name == "view_1"
    assert node.meta["source"].startswith("tests/tracing/test_shuffles.py:")
    assert node.meta["val"].shape == X.shape
