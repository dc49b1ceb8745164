"""Slicing: the kept positions of a tensor, as a tensor of its own."""

import ctypes
import mmap
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

    Rows of a large matrix are gathered into a buffer that fits a processor's cache before their
    columns are, so it is sliced without memory beyond the result.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def slice(self, tensor: Tensor, kept: Kept) -> Tensor:
        """Do as `slice_tensor` says."""
        source = tensor.detach()
        if source.ndim == 1 and len(kept) == 1 and kept[0] is not None:  # most are, of norms
            return source.index_select(0, kept[0].to(source.device))
        given = [
            (dim, entry.to(source.device))
            for dim, entry in enumerate(kept)
            if entry is not None and (entry.ndim == 1 or source.shape[dim] > 1)  # else one of one
        ]
        if not given:
            return source.clone()
        if len(given) == 2 and given[0][0] == 0 and source.nbytes > _SMALL:
            (_, rows), (dim, columns) = given
            if columns.ndim == 1:  # short indices are read faster
                return _laid_out(self._in_parts(source, rows, dim, columns.int()), source)
        return _laid_out(_select(source, given), source)

    def _in_parts(self, source: Tensor, rows: Tensor, dim: int, columns: Tensor) -> Tensor:
        room = self._room_for_rows(source)
        if len(rows) <= len(room):
            some = torch.index_select(source, 0, rows, out=room[: len(rows)])
            return some.index_select(dim, columns)
        shape = list(source.shape)
        shape[0], shape[dim] = len(rows), len(columns)
        result = _in_huge_pages(source.new_empty(shape))
        for part, target in zip(rows.split(len(room)), result.split(len(room)), strict=True):
            some = torch.index_select(source, 0, part, out=room[: len(part)])
            torch.index_select(some, dim, columns, out=target)
        return result

    def _room_for_rows(self, source: Tensor) -> Tensor:
        """Return room for as many rows of a tensor as fit, at least one."""
        key, width = (source.dtype, source.device), source[0].numel()
        count = max(1, _AT_ONCE // (width * source.element_size()))
        if key not in self._buffers or len(self._buffers[key]) < count * width:
            self._buffers[key] = source.new_empty(
                max(count * width, _AT_ONCE // source.element_size())
            )
        return self._buffers[key][: count * width].view(count, *source.shape[1:])


_SMALL, _LARGE = 1 << 17, 1 << 22  # bytes
_AT_ONCE = 1 << 20  # bytes


def _in_huge_pages(room: Tensor) -> Tensor:
    """Ask Linux to back a large tensor by pages of 2 MB before it is written.

    It is no more than advice, and halves the time that it takes to write into fresh memory.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None and room.nbytes >= _LARGE and type(room) is Tensor and room.is_cpu:
        start = room.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        size = room.data_ptr() + room.nbytes - start
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)
    return room


def _select(tensor: Tensor, kept: Sequence[tuple[int, Tensor]]) -> Tensor:
    for dim, index in kept:
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
