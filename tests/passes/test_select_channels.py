import torch
from torch import Tensor, fx, nn

from slimgraph.passes.select_channels import SelectChannels
from tests.passes.contract import assert_leaves_alone, assert_rewrites, traced

SELECT = SelectChannels()
X = torch.rand(2, 3, 5, 5, dtype=torch.float64)


class Block(nn.Module):
    """A stem whose result is read by a block that starts with a norm, and by the sum behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.conv(torch.relu(self.bn1(x))))


class InPlace(Block):
    """The chain starts by overwriting what the sum reads."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.conv(torch.relu_(x)) + x)


class Alone(Block):
    """Nobody else reads what the norm reads."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(torch.relu(self.bn1(self.stem(x)))))


class Overlooked(Block):
    """The chain ends in a sum, not only in a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.relu(self.bn1(x))
        return self.head(x + y + self.conv(y))


class NormOverChannels(Block):
    """What a norm over channels computes depends on which there are."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.GroupNorm(2, 6)


def text(graph_module: fx.GraphModule) -> str:
    return "\n".join(node.format_node() or "" for node in graph_module.graph.nodes)


BEFORE = """
%x : [num_users=1] = placeholder[target=x]
%stem : [num_users=2] = call_module[target=stem](args = (%x,), kwargs = {})
%bn1 : [num_users=1] = call_module[target=bn1](args = (%stem,), kwargs = {})
"""
AFTER = """
%x : [num_users=1] = placeholder[target=x]
%stem : [num_users=2] = call_module[target=stem](args = (%x,), kwargs = {})
%bn1_in : [num_users=1] = call_function[target=slimgraph.selection.select](args = (%stem, 1, bn1[in]), kwargs = {})
%bn1 : [num_users=1] = call_module[target=bn1](args = (%bn1_in,), kwargs = {})
"""  # noqa: E501 - fx prints one line per node


def test_a_fork_stands_in_front_of_the_chain() -> None:
    before = traced(Block(), X)
    after = assert_rewrites(SELECT, before, X)
    assert text(before).startswith(BEFORE.strip())
    assert text(after).startswith(AFTER.strip())
    tail = text(before).removeprefix(BEFORE.strip())
    assert text(after).removeprefix(AFTER.strip()) == tail


def test_the_consumer_may_be_named() -> None:
    after = assert_rewrites(SelectChannels(at=("conv",)), traced(Block(), X), X)
    assert "args = (%relu, 1, conv[in])" in text(after)


def test_other_chains_are_left_alone() -> None:
    for kind in (InPlace, Alone, Overlooked):
        assert_leaves_alone(SELECT, traced(kind(), X))


def test_a_norm_over_channels_reads_all_of_them() -> None:
    after = assert_rewrites(SELECT, traced(NormOverChannels(), X), X)
    assert "args = (%bn1, 1, conv[in])" in text(after)
