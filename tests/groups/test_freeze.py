"""`freeze=`: channels that the user asks to stay, by name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import FrozenChannelError, UnknownGroupError
from tests.groups.models import IMAGE


class Deep(nn.Module):
    """Layers in layers, and a scale that belongs to no module of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.trunk = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()) for _ in range(3)
        )
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.trunk:
            x = layer(x)
        return self.head(x * self.scale)


def frozen(freeze: Any) -> set[str]:
    """Return the groups that stay, of those before the head."""
    graph = sg.analyze(sg.trace(Deep(), torch.randn(IMAGE)), freeze=freeze)
    return {group.name for group in graph.groups if not group.prunable} - {"head"}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ([], set()),
        (["stem"], {"stem"}),
        ("stem", {"stem"}),
        (["trunk.1"], {"trunk.1.0"}),
        (["trunk"], {"trunk.0.0", "trunk.1.0", "trunk.2.0"}),
        (["trunk.*.0", "stem"], {"stem", "trunk.0.0", "trunk.1.0", "trunk.2.0"}),
        (["*.2.*"], {"trunk.2.0"}),
        (["trunk.0.1"], {"trunk.0.0"}),  # a norm has the channels of its convolution
        (["trunk.1.0.weight"], {"trunk.0.0", "trunk.1.0"}),  # all of its dims
        (["trunk.1.0.bias"], {"trunk.1.0"}),
        (["head.*"], {"trunk.2.0"}),
        (["scale"], {"trunk.2.0"}),
    ],
)
def test_names_and_patterns_mean_channels(freeze: Any, expected: set[str]) -> None:
    assert frozen(freeze) == expected


def test_the_reason_says_that_it_was_asked_for() -> None:
    graph = sg.analyze(sg.trace(Deep(), torch.randn(IMAGE)), freeze=["stem"])
    (reason,) = graph.group_of("stem").reasons
    assert reason.message == "was asked to stay (freeze=)"
    assert reason.node == "stem"
    assert "to free it: leave its name out of `freeze`" in str(graph.explain("stem"))
    with pytest.raises(FrozenChannelError, match="was asked to stay"):
        sg.compress(graph, {"stem": [0, 1, 1, 1, 1, 1]})


@pytest.mark.parametrize(
    ("name", "near"), [("trunc.1.0", "trunk.1.0"), ("scala", "scale"), ("head.wait*", "head")]
)
def test_an_unknown_name_gets_the_nearest_one(name: str, near: str) -> None:
    with pytest.raises(UnknownGroupError, match="`freeze` names") as caught:
        sg.analyze(sg.trace(Deep(), torch.randn(IMAGE)), freeze=[name])
    assert near in str(caught.value.hint)


def test_what_is_frozen_leaves_the_rest_to_a_budget() -> None:
    graph = sg.analyze(sg.trace(Deep(), torch.randn(IMAGE)), freeze=["trunk.1"])
    keep = sg.select(graph, sg.score(graph, "l2"), sg.Budget.of(channels=0.5))
    slim = sg.compress(graph, sg.Mask.of_channels(graph, keep))
    assert slim.get_submodule("trunk.1.0").out_channels == 6
    assert slim.get_submodule("trunk.0.0").out_channels < 6
