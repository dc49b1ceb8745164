"""Slicing keeps the right numbers, in the right place, with no memory to spare."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimgraph.slicing import slice_tensor


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3), (8, 6, 1, 1), (8, 6, 2, 2, 2)])
@pytest.mark.parametrize("rows", [None, [0, 3, 7]])
@pytest.mark.parametrize("columns", [None, [5, 1]])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_slicing_indexes_both_dims(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    rows: list[int] | None,
    columns: list[int] | None,
    at_once: int,
) -> None:
    monkeypatch.setattr("slimgraph.slicing._AT_ONCE", at_once)
    tensor = torch.randn(shape)
    kept = tuple(None if entry is None else torch.tensor(entry) for entry in (rows, columns))
    result = slice_tensor(tensor, (*kept, *[None] * (len(shape) - 2)))
    expected = tensor[rows or slice(None)][:, columns or slice(None)]
    assert torch.equal(result, expected)
    assert result.data_ptr() != tensor.data_ptr()
    assert result.untyped_storage().nbytes() == result.numel() * result.element_size()


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize("columns", [None, [5, 1]])
def test_slicing_keeps_the_memory_format(
    monkeypatch: pytest.MonkeyPatch, columns: list[int] | None, at_once: int
) -> None:
    monkeypatch.setattr("slimgraph.slicing._AT_ONCE", at_once)
    tensor = torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last)
    kept = (torch.tensor([0, 3]), None if columns is None else torch.tensor(columns), None, None)
    result = slice_tensor(tensor, kept)
    assert torch.equal(result, tensor[[0, 3]][:, columns or slice(None)])
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_each_group_keeps_its_own_positions() -> None:
    tensor = torch.randn(6, 4, 3)
    kept = torch.tensor([[0, 2], [1, 3]])
    result = slice_tensor(tensor, (torch.tensor([0, 1, 3, 5]), kept, None))
    expected = torch.cat([tensor[[0, 1]][:, [0, 2]], tensor[[3, 5]][:, [1, 3]]])
    assert torch.equal(result, expected)


def test_one_channel_per_group_is_taken_by_its_row() -> None:
    tensor = torch.randn(6, 1, 3)  # a depth-wise weight: its dim 1 cannot shrink
    every = torch.zeros(6, 1, dtype=torch.long)
    assert torch.equal(
        slice_tensor(tensor, (torch.tensor([1, 4]), every[:2], None)), tensor[[1, 4]]
    )
    copy = slice_tensor(tensor, (None, every, None))
    assert torch.equal(copy, tensor)
    assert copy.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_large_result_is_a_tensor_as_any_other(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(4096 * 4096).reshape(4096, 4096).to(dtype)  # 4 MB are left, or more
    half, file = torch.arange(1, 4096, 2), tmp_path / "large.pt"
    result = slice_tensor(tensor, (half, half))
    assert torch.equal(result, tensor[half][:, half])
    assert result.data_ptr() % 64 == 0
    torch.save(result, file)
    assert file.stat().st_size < result.nbytes * 1.01
    assert torch.equal(torch.load(file), result)
    assert torch.equal(result.clone().share_memory_(), result)
    assert result.resize_(4096, 4096).shape == (4096, 4096)


class _Sizes(TorchDispatchMode):
    """Notes how many bytes each op allocates at most."""

    def __init__(self) -> None:
        super().__init__()
        self.selected = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        result: Tensor = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.index_select.default, torch.ops.aten.index_select.out):
            self.selected = max(self.selected, result.nbytes)
        return result


def test_a_large_matrix_is_sliced_without_memory_beyond_the_result() -> None:
    half = torch.arange(0, 4096, 2)
    tensor = torch.zeros(4096, 4096)  # half of its rows, gathered at once, would be 32 MB more
    with _Sizes() as sizes:
        slice_tensor(tensor, (half, half))
    assert 0 < sizes.selected <= 4 << 20
