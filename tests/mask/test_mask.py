"""What a mask may say, and how each thing it may not say is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.errors import (
    EmptiedGroupError,
    FrozenChannelError,
    MaskConflictError,
    MaskError,
    MaskLengthError,
    UnevenBlocksError,
    UnknownGroupError,
)
from slimgraph.mask import keep_channels
from tests.groups.models import IMAGE, Concat, Residual

STEM = [True, False, True, True, False, True]
OTHER = [True, True, False, True, False, True]


def traced() -> fx.GraphModule:
    return sg.trace(Residual(), torch.randn(IMAGE))


def kept_of(mask: sg.Mask | dict[str, Any], name: str = "stem") -> list[bool]:
    graph = sg.analyze(traced())
    found: list[bool] = keep_channels(graph, mask)[graph.group_of(name).components].tolist()
    return found


@pytest.mark.parametrize("name", ["stem", "b"])
def test_a_module_entry_speaks_of_its_groups_channels(name: str) -> None:
    assert kept_of({name: STEM}) == STEM


def test_what_is_not_named_stays() -> None:
    assert kept_of({"stem": STEM}, "a") == [True] * 4


class Shared(nn.Module):
    """The group of `first` holds more channels than `first` makes: a sum ties half of them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 5, 1)
        self.both = nn.Conv2d(3, 9, 1)
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1) + self.both(x))


@pytest.mark.parametrize("length", [4, 9])
def test_the_length_tells_a_module_entry_from_a_group_entry_of_that_name(length: int) -> None:
    graph = sg.analyze(sg.trace(Shared(), torch.randn(IMAGE)))
    assert graph.group_of("left").size == 9
    keep = keep_channels(graph, {"left": [False] + [True] * (length - 1)})
    own = keep[graph.components("both", 9)]
    assert own.tolist() == [False] + [True] * 8


@pytest.mark.parametrize(
    "entry",
    [STEM, np.array(STEM), torch.tensor(STEM), [1, 0, 1, 1, 0, 1], torch.tensor(STEM) * 1.0],
)
def test_lists_arrays_and_tensors_of_zeros_and_ones_are_accepted(entry: Any) -> None:
    assert sg.Mask({"stem": entry})["stem"].tolist() == STEM


@pytest.mark.parametrize("entry", [[0, 2, 1], [[True, False]], 0.5, [0.5, 1.0]])
def test_an_entry_that_is_no_vector_of_bools_is_refused(entry: Any) -> None:
    with pytest.raises(MaskError, match="the mask of `stem` is a"):
        sg.Mask({"stem": entry})


def test_something_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(MaskError, match="expected a mask, not `list`"):
        sg.compress(traced(), [True])  # type: ignore[arg-type]


def test_an_entry_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(MaskLengthError, match="has 3 entries, but `stem` has 6 channels"):
        sg.compress(traced(), {"stem": [True, False, True]})


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownGroupError, match="did you mean `stem`"):
        sg.compress(traced(), {"sten": STEM})


def test_entries_that_disagree_are_refused_by_name() -> None:
    with pytest.raises(MaskConflictError, match="`b` and `stem` disagree about 2 channels"):
        sg.compress(traced(), {"stem": STEM, "b": OTHER})


def test_entries_that_agree_are_no_conflict() -> None:
    assert kept_of({"stem": STEM, "b": STEM}) == STEM


@pytest.mark.parametrize("order", [("stem", "b"), ("b", "stem")])
def test_on_conflict_keep_keeps_what_any_entry_keeps(order: tuple[str, str]) -> None:
    mask = sg.Mask(dict(zip(order, (STEM, OTHER), strict=True)), on_conflict="keep")
    assert kept_of(mask) == [a or b for a, b in zip(STEM, OTHER, strict=True)]


@pytest.mark.parametrize("order", [("stem", "b"), ("b", "stem")])
def test_on_conflict_drop_removes_what_any_entry_removes(order: tuple[str, str]) -> None:
    mask = sg.Mask(dict(zip(order, (STEM, OTHER), strict=True)), on_conflict="drop")
    assert kept_of(mask) == [a and b for a, b in zip(STEM, OTHER, strict=True)]


def test_an_unknown_on_conflict_is_refused() -> None:
    with pytest.raises(MaskError, match="`on_conflict` is 'ask'"):
        sg.Mask({}, on_conflict="ask")  # type: ignore[arg-type]


def test_an_emptied_group_is_refused() -> None:
    with pytest.raises(EmptiedGroupError, match="all 4 channels of group `a`"):
        sg.compress(traced(), {"a": [False] * 4})


def test_a_whole_branch_of_a_concat_cannot_leave() -> None:
    with pytest.raises(EmptiedGroupError, match="`left`"):
        sg.compress(sg.trace(Concat(), torch.randn(IMAGE)), {"left": [False] * 4})


def test_a_frozen_channel_is_refused_with_its_reason() -> None:
    said = "channel 1 of group `head` cannot leave: reaches the model's output at %output"
    with pytest.raises(FrozenChannelError, match=said):
        sg.compress(traced(), {"head": [True, False]})


def grouped() -> fx.GraphModule:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1))
    return sg.trace(net, torch.randn(IMAGE))


def test_uneven_blocks_of_a_grouped_convolution_are_refused() -> None:
    with pytest.raises(UnevenBlocksError, match="keeps 3 or 4 channels in 2 blocks"):
        sg.compress(grouped(), {"0": [False] + [True] * 7})


def test_a_group_that_loses_its_inputs_alone_is_refused() -> None:
    with pytest.raises(UnevenBlocksError, match="removes all of block 0 on one side"):
        sg.compress(grouped(), {"0": [False] * 4 + [True] * 4})


def test_different_channels_of_each_block_may_leave() -> None:
    slim = sg.compress(grouped(), {"0": [0, 1, 1, 1, 1, 1, 0, 1]})
    assert slim.get_submodule("1").weight.shape == (8, 3, 1, 1)
    assert slim.get_submodule("1").groups == 2


def test_a_mask_survives_save_and_load(tmp_path: Path) -> None:
    mask = sg.Mask({"stem": STEM, "a": [1, 0, 1, 1]})
    mask.save(tmp_path / "mask.safetensors")
    loaded = sg.Mask.load(tmp_path / "mask.safetensors")
    assert {name: entry.tolist() for name, entry in loaded.items()} == {
        name: entry.tolist() for name, entry in mask.items()
    }


@pytest.mark.parametrize("choice", ["error", "keep", "drop"])
def test_on_conflict_survives_save_and_load(tmp_path: Path, choice: Any) -> None:
    sg.Mask({"stem": STEM}, on_conflict=choice).save(tmp_path / "mask.safetensors")
    assert sg.Mask.load(tmp_path / "mask.safetensors").on_conflict == choice


def test_a_mask_of_channels_names_only_groups_that_shrink() -> None:
    graph = sg.analyze(traced())
    mask = sg.Mask.of_channels(graph, keep_channels(graph, {"b": STEM}))
    assert {name: entry.tolist() for name, entry in mask.items()} == {"stem": STEM}
