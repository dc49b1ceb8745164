"""Blocks keep equally many channels each, and each may keep others than the next."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from tests.assertions import assert_same_output
from tests.nets.attention import Rotary, RotaryShared, Scaled
from tests.nets.base import Net, conv, randomized
from tests.nets.convolutions import Chain
from tests.nets.shapes import Shuffle, ShuffleLiteral, ShuffleModule

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.double)
SEQUENCES = torch.randn(2, 7, 5, dtype=torch.double)


class GroupedConvolution(Chain):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 8, groups=2), "head": conv(8, 2)}


class GroupedNorm(Chain):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "norm": nn.GroupNorm(2, 8), "head": conv(8, 2)}


# A net, its input, the module whose channels form blocks, how many blocks, and a mask.
CASES: dict[str, tuple[type[Net], Tensor, str, int, list[int]]] = {
    "groups of a convolution": (GroupedConvolution, IMAGES, "stem", 2, [1, 0, 1, 0, 0, 1, 0, 1]),
    "its outputs": (GroupedConvolution, IMAGES, "mid", 2, [1, 1, 1, 0, 0, 1, 1, 1]),
    "groups of a norm": (GroupedNorm, IMAGES, "stem", 2, [1, 0, 0, 1, 0, 1, 1, 0]),
    "heads": (
        Scaled, SEQUENCES, "qkv", 9,
        [*[1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1] * 2, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0],
    ),
}  # fmt: skip


def weighted(name: str) -> nn.Module:
    """Build a net in which other positions of each block have the largest weights."""
    made, _, module, _, mask = CASES[name]
    net = randomized(made())
    with torch.no_grad():
        for parameter in net.get_submodule(module).parameters():
            wanted = torch.tensor(mask, dtype=torch.double)
            parameter.mul_((0.1 + wanted).reshape(-1, *[1] * (parameter.ndim - 1)))
    return net


def kept_of(plan: sg.Plan, module: str, blocks: int, size: int) -> Tensor:
    """Return which positions of each block stay, block by block."""
    kept = torch.zeros(size, dtype=torch.bool)
    positions = plan.kept[f"{module}.weight"][0]
    assert positions is not None
    kept[positions] = True
    return kept.reshape(blocks, -1)


def assert_rectangular(rows: Tensor, parts: int) -> None:
    """Check that blocks differ in what they keep, not in how much; queries and values may."""
    counts = rows.sum(1).reshape(parts, -1)
    assert bool((counts == counts[:, :1]).all())
    assert len(rows.unique(dim=0)) > 1


@pytest.mark.parametrize("name", CASES)
def test_a_mask_may_keep_other_positions_in_each_block(name: str) -> None:
    _, inputs, module, blocks, mask = CASES[name]
    graph = sg.analyze(sg.trace(weighted(name), inputs))
    slim = sg.compress(graph, {module: mask})
    assert_same_output(sg.masked(graph, {module: mask}), slim, inputs)
    rows = kept_of(vars(slim)["plan"], module, blocks, len(mask))
    assert_rectangular(rows, 3 if name == "heads" else 1)


@pytest.mark.parametrize("name", CASES)
def test_a_budget_chooses_in_each_block(name: str) -> None:
    _, inputs, module, blocks, mask = CASES[name]
    result = sg.slim(weighted(name), inputs, channels=0.6, criterion="l1")
    rows = kept_of(result.plan, module, blocks, len(mask))
    assert_rectangular(rows, 3 if name == "heads" else 1)
    assert_same_output(sg.masked(result.graph, result.mask), result.model, inputs)


@pytest.mark.parametrize("kind", [Shuffle, ShuffleLiteral, ShuffleModule])
def test_a_shuffle_keeps_other_positions_in_each_block(kind: type[Net]) -> None:
    graph = sg.analyze(sg.trace(randomized(kind()), IMAGES))
    mask = {"stem": [1, 1, 1, 0, 1, 0, 1, 1]}  # as many for each group of what reads them
    slim = sg.compress(graph, mask)
    assert "index_select" in slim.code
    assert_same_output(sg.masked(graph, mask), slim, IMAGES)


def test_a_shuffle_stays_one_where_blocks_keep_the_same_positions() -> None:
    graph = sg.analyze(sg.trace(randomized(Shuffle()), IMAGES))
    mask = {"stem": [1, 0, 1, 0] * 2}
    slim = sg.compress(graph, mask)
    assert "torch.channel_shuffle(relu, 2)" in slim.code
    assert_same_output(sg.masked(graph, mask), slim, IMAGES)


@pytest.mark.parametrize(("kind", "heads"), [(Rotary, 4), (RotaryShared, 2)])
def test_heads_that_share_a_table_leave_as_wholes_if_asked(kind: type[Net], heads: int) -> None:
    graph = sg.analyze(sg.trace(randomized(kind()), SEQUENCES), heads="whole")
    assert graph.group_of("q").size == heads
    assert graph.group_of("turns.speeds").frozen.all()
    assert "is shared by heads" in str(graph.explain("turns.speeds"))
    mask = {"q": [True] * (heads - 1) + [False]}
    slim = sg.compress(graph, mask)
    assert slim.get_submodule("q").out_features == 16 * (heads - 1) // heads
    assert slim.get_buffer("turns.speeds").shape == (2,)
    assert_same_output(sg.masked(graph, mask), slim, SEQUENCES)


def test_a_budget_takes_whole_heads_that_share_a_table() -> None:
    result = sg.slim(randomized(Rotary()), SEQUENCES, channels=0.5, heads="whole")
    assert result.model.get_submodule("q").out_features in (4, 8, 12)
    assert_same_output(sg.masked(result.graph, result.mask), result.model, SEQUENCES)


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(sg.errors.BudgetError, match="unknown heads `rows`"):
        sg.analyze(sg.trace(randomized(Scaled()), SEQUENCES), heads="rows")  # type: ignore[arg-type]
