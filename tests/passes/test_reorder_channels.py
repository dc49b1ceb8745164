from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.intervals import side_by_side
from slimgraph.passes.reorder_channels import ReorderChannels, reasons
from slimgraph.plan import slice_tensor
from tests.passes.contract import assert_leaves_alone, assert_rewrites, traced
from tests.passes.test_select_channels import Block, text

REORDER = ReorderChannels()
X = torch.rand(2, 3, 5, 5, dtype=torch.float64)


def selecting(model: nn.Module, mask: dict[str, Any]) -> fx.GraphModule:
    """Compress a model with selections."""
    return sg.compress(sg.with_selections(traced(model, X)), mask)


BEFORE = """
%x : [num_users=1] = placeholder[target=x]
%stem : [num_users=2] = call_module[target=stem](args = (%x,), kwargs = {})
%bn1_in_positions : [num_users=1] = get_attr[target=bn1_in_positions]
%bn1_in : [num_users=1] = call_function[target=torch.index_select](args = (%stem, 1, %bn1_in_positions), kwargs = {})
%bn1 : [num_users=1] = call_module[target=bn1](args = (%bn1_in,), kwargs = {})
"""  # noqa: E501 - fx prints one line per node
AFTER = """
%x : [num_users=1] = placeholder[target=x]
%stem : [num_users=2] = call_module[target=stem](args = (%x,), kwargs = {})
%bn1_in : [num_users=1] = call_function[target=operator.getitem](args = (%stem, (slice(None, None, None), slice(3, 6, None))), kwargs = {})
%bn1 : [num_users=1] = call_module[target=bn1](args = (%bn1_in,), kwargs = {})
"""  # noqa: E501 - fx prints one line per node


def test_a_gather_becomes_a_slice() -> None:
    before = selecting(Block(), {"bn1[in]": [1, 0, 0, 1, 0, 1]})
    after = assert_rewrites(REORDER, before, X)
    assert text(before).startswith(BEFORE.strip())
    assert text(after).startswith(AFTER.strip())
    assert REORDER.rewrite(before).removed == 1
    assert not [name for name, _ in after.named_buffers() if name.endswith("_positions")]
    assert torch.equal(after.stem.weight, before.stem.weight[[1, 2, 4, 0, 3, 5]])
    assert torch.equal(after.head.weight, before.head.weight[:, [1, 2, 4, 0, 3, 5]])
    assert torch.equal(after.bn1.weight, before.bn1.weight)


class Chained(nn.Module):
    """What one consumer selects, others select from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.mid = nn.Conv2d(8, 8, 1)
        self.act = nn.ReLU()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.head(x + self.mid(x))


def test_selections_of_selections_stay_where_they_are() -> None:
    made = traced(Chained(), X)
    for name in ("act", "mid", "head"):
        made = sg.with_selections(made, [name])
    masks = {"stem": [1, 1, 1, 0, 1, 1, 1, 1], "mid": [0, 0, 1, 0, 1, 0, 1, 1],
             "mid[in]": [0, 0, 0, 0, 0, 0, 1, 1], "head[in]": [0, 0, 1, 0, 1, 0, 0, 1]}  # fmt: skip
    before = sg.compress(made, masks)
    after = REORDER.rewrite(before).graph_module
    assert torch.allclose(before(X), after(X))
    assert not REORDER.rewrite(after).modified
    assert "others are selected of them" in " ".join(reasons(after).values())


def test_the_plan_follows() -> None:
    model = Block()
    before = selecting(model, {"stem": [1, 1, 1, 1, 0, 1], "bn1[in]": [1, 0, 0, 1, 0, 1]})
    after = REORDER.rewrite(before).graph_module
    assert after.plan.kept["stem.weight"][0].tolist() == [1, 2, 0, 3, 5]
    for name, tensor in after.state_dict().items():
        kept = after.plan.kept.get(name, ())
        assert torch.equal(slice_tensor(model.state_dict()[name], kept), tensor)
    assert after.plan.selections == ("bn1_in",)
    again = sg.compress(after, {"stem": [1, 0, 1, 1, 1]})
    assert again.plan.kept["stem.weight"][0].tolist() == [1, 0, 3, 5]


class Two(Block):
    """Two blocks read the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(torch.relu(self.bn1(x)))
        return self.head(x + self.second(torch.relu(self.bn2(x))))


@pytest.mark.parametrize("second", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1], [0, 1, 1, 0, 1, 0]])
def test_selections_that_overlap_may_lie_side_by_side(second: list[int]) -> None:
    before = selecting(Two(), {"bn1[in]": [1, 0, 0, 1, 0, 1], "bn2[in]": second})
    after = assert_rewrites(REORDER, before, X)
    assert "index_select" not in after.code


class Three(Two):
    def __init__(self) -> None:
        super().__init__()
        self.bn3 = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(torch.relu(self.bn1(x)))
        x = x + self.second(torch.relu(self.bn2(x)))
        return self.head(x + self.third(torch.relu(self.bn3(x))))


def test_a_circle_of_selections_leaves_one_gather() -> None:
    masks = {"bn1[in]": [1, 0, 1, 0, 0, 0], "bn2[in]": [0, 0, 1, 0, 1, 0]}
    before = selecting(Three(), {**masks, "bn3[in]": [1, 0, 0, 0, 1, 0]})
    after = assert_rewrites(REORDER, before, X)
    assert after.code.count("index_select") == 1
    assert reasons(before) == {"bn3_in": "lies across other selections of these channels"}


class Joined(Block):
    """The stream is joined with something else, where its order would show."""

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        y = self.conv(torch.relu(self.bn1(stem)))
        return self.head(torch.cat([stem, y], 1)[:, :6])


class Shuffled(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(torch.relu(self.bn1(x)))
        return self.head(x + torch.channel_shuffle(y, 2))


class Output(Block):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return x, self.conv(torch.relu(self.bn1(x)))


class Grouped(Block):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.head = nn.Conv2d(6, 4, 1, groups=2)


class Neighbours(Block):
    """A norm over windows of channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(torch.relu(self.bn1(x)))
        return self.head(nn.functional.local_response_norm(x + y, 3))


class Attended(Block):
    """ECA: a convolution over channels. Seed 3417 of `tools.laws`."""

    def __init__(self) -> None:
        super().__init__()
        self.over = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(torch.relu(self.bn1(x)))
        return self.head((x + y) * self.over((x + y).mean((2, 3))[:, None])[:, 0, :, None, None])


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Joined, "`%cat` holds them in another order, with others"),
        (Shuffled, "dim 0 of `conv.weight` holds them in another order"),
        (Output, "`%output` keeps some of the channels where they are"),
        (Grouped, "`%head` looks at blocks of them"),
        (Neighbours, "`%local_response_norm` looks at neighbours of them"),
        (Attended, "`%over` looks at neighbours of them"),
    ],
)
def test_an_order_that_shows_stays(kind: type[Block], says: str) -> None:
    before = selecting(kind(), {"bn1[in]": [1, 0, 0, 1, 0, 1]})
    assert "index_select" in before.code
    assert_leaves_alone(REORDER, before)
    (why,) = reasons(before).values()
    assert why.startswith(says)


def test_what_selects_nothing_is_left_alone() -> None:
    assert_leaves_alone(REORDER, traced(Block(), X))
    assert_leaves_alone(REORDER, selecting(Block(), {"bn1[in]": [0, 1, 1, 1, 0, 0]}))


class OwnPositions(nn.Module):
    """The model itself picks channels, the same ones as a depth-wise branch beside it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.left = nn.Conv2d(3, 2, 1)
        self.right = nn.Conv2d(6, 2, 1)
        self.register_buffer("index", torch.tensor([5, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(self.stem(x))
        return self.left(torch.index_select(x, 1, self.index)) + self.right(x)


def test_positions_of_the_models_own_move_too() -> None:
    before = traced(OwnPositions(), X)
    after = assert_rewrites(REORDER, before, X)
    assert "torch.index_select" not in after.code
    assert torch.equal(after.index, before.index), "the buffer is the model's"
    assert after.left.weight[:, 0].tolist() == before.left.weight[:, 1].tolist()


def test_sets_become_intervals() -> None:
    sets = [frozenset({1, 4, 6}), frozenset({4, 6, 0}), frozenset({0, 2}), frozenset({1, 2})]
    order = side_by_side(7, sets)
    assert sorted(order) == list(range(7))
    places = [sorted(order.index(p) for p in each) for each in sets]
    assert [found[-1] - found[0] + 1 == len(found) for found in places] == [True, True, True, False]
