"""Slicing: the kept positions of a tensor, as a tensor of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

Kept = tuple[Tensor | None, ...]


def slice_tensor(tensor: Tensor, kept: Kept) -> Tensor:
    """Keep positions of a tensor; the result is a copy of what is left and nothing more.

    Args:
        tensor: Any tensor.
        kept: Per dim a vector of positions, a matrix (groups, positions) on dim 1 of a grouped
            weight, or `None` for all.

    Returns:
        The kept part, on the same device, in the same dtype and memory format.
    """
    return Slicer().slice(tensor, kept)


class Slicer:
    """Slices one tensor after the other, and reuses the memory that it needs on the way.

    Rows are gathered into a buffer that fits a processor's cache before their columns are, so a
    large matrix is sliced without memory beyond the result.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def slice(self, tensor: Tensor, kept: Kept) -> Tensor:
        """Do as `slice_tensor` says."""
        source = tensor.detach()
        given = [None if entry is None else entry.to(source.device) for entry in kept]
        if all(entry is None for entry in given):
            return source.clone()
        rows, *others = given
        crossed = [(dim, entry) for dim, entry in enumerate(others, 1) if entry is not None]
        if rows is None or len(crossed) != 1 or crossed[0][1].ndim > 1 or not source.numel():
            return _laid_out(_select(source, given), source)
        ((dim, columns),) = crossed
        buffer = self._rows_of(source)
        shape = [size if k is None else len(k) for size, k in zip(source.shape, given, strict=True)]
        result = source.new_empty(shape)
        for part, target in zip(rows.split(len(buffer)), result.split(len(buffer)), strict=True):
            some = torch.index_select(source, 0, part, out=buffer[: len(part)])
            torch.index_select(some, dim, columns, out=target)
        return _laid_out(result, source)

    def _rows_of(self, source: Tensor) -> Tensor:
        """Return room for as many rows of a tensor as fit, at least one."""
        key, width = (source.dtype, source.device), source[0].numel()
        count = max(1, _AT_ONCE // (width * source.element_size()))
        if key not in self._buffers or len(self._buffers[key]) < count * width:
            self._buffers[key] = source.new_empty(
                max(count * width, _AT_ONCE // source.element_size())
            )
        return self._buffers[key][: count * width].view(count, *source.shape[1:])


_AT_ONCE = 1 << 20  # bytes


def _select(tensor: Tensor, kept: Sequence[Tensor | None]) -> Tensor:
    for dim, index in enumerate(kept):
        if index is not None:
            plain = index.ndim == 1
            tensor = tensor.index_select(dim, index) if plain else _per_group(tensor, index)
    return tensor


def _laid_out(result: Tensor, source: Tensor) -> Tensor:
    """Give a result the memory format of its source, which torch's selections forget."""
    wanted = {4: torch.channels_last, 5: torch.channels_last_3d}.get(source.ndim)
    if source.is_contiguous() or wanted is None or not source.is_contiguous(memory_format=wanted):
        return result
    return result.contiguous(memory_format=wanted)


def _per_group(weight: Tensor, positions: Tensor) -> Tensor:
    groups, count = positions.shape
    rows = weight.reshape(groups, -1, *weight.shape[1:])
    index = positions.reshape(groups, 1, count, *([1] * (weight.ndim - 2)))
    index = index.expand(groups, rows.shape[1], count, *weight.shape[2:])
    return rows.gather(2, index).flatten(0, 1)
