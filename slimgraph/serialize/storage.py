"""Tensors that share memory, or are one object under two names, stay so in a file.

Every parameter and buffer is an entry of a table, and modules refer to entries by number. Most
entries are simply a tensor of the file. Where tensors overlap in memory, the span of memory they
cover is stored once, flat, and each entry is a strided view of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.container import extent, overlapping
from slimgraph.errors import SlimgraphError
from slimgraph.serialize.errors import MalformedError

_SPAN = "slimgraph.span/"
_STORABLE = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 complex64 bool"
    " int64 int32 int16 int8 uint64 uint32 uint16 uint8"
)


class TensorPacker:
    """Collects the tensors of a model on their way into a file."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._items: list[tuple[str, Tensor]] = []

    def add(self, name: str, tensor: Tensor) -> int:
        """Return the number of a tensor's entry; one object has one entry.

        Raises:
            SlimgraphError: The tensor has no plain data: meta, sparse, quantized, a subclass.
        """
        if id(tensor) not in self._numbers:
            _check_plain(name, tensor)
            self._numbers[id(tensor)] = len(self._items)
            self._items.append((name, tensor))
        return self._numbers[id(tensor)]

    def pack(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return the entries, as JSON, and the tensors they need, by their name in the file."""
        entries = [_entry(tensor) for _, tensor in self._items]
        stored: dict[str, Tensor] = {}
        for group in overlapping([tensor for _, tensor in self._items]):
            first_name, first = self._items[group[0]]
            layouts = {_layout(self._items[number][1]) for number in group}
            if len(layouts) == 1 and not _keeps_strides(first):
                key, data = first_name, _plain(first)
            else:
                key, data = _SPAN + first_name, _span(first_name, self._items, group, entries)
            stored[key] = data
            for number in group:
                entries[number]["key"] = key
        return entries, stored


def _check_plain(name: str, tensor: Tensor) -> None:
    problem = None
    if type(tensor) not in (Tensor, nn.Parameter):
        problem = f"is a `{type(tensor).__name__}`"
    elif tensor.device.type == "meta":
        problem = "has no data (it is on the meta device)"
    elif tensor.layout is not torch.strided:
        problem = f"is sparse ({tensor.layout})"
    elif str(tensor.dtype).removeprefix("torch.") not in _STORABLE.split():
        problem = f"has dtype `{tensor.dtype}`"
    if problem:
        raise SlimgraphError(
            f"`{name}` cannot be saved: it {problem}", hint="make it a plain dense tensor first"
        )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _entry(tensor: Tensor) -> dict[str, Any]:
    parameter = isinstance(tensor, nn.Parameter)
    return {"parameter": parameter, "requires_grad": tensor.requires_grad}


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride()


def _keeps_strides(tensor: Tensor) -> bool:
    """Tell whether a tensor is dense in another order of dims, such as channels last."""
    if tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        return False
    dims = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    expected = 1
    for stride, size in dims:
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _span(
    name: str,
    items: Sequence[tuple[str, Tensor]],
    group: Sequence[int],
    entries: Sequence[dict[str, Any]],
) -> Tensor:
    """Return the memory a group covers as one flat tensor; say in the entries where each lies."""
    tensors = [items[number][1].detach() for number in group]
    if len({tensor.dtype for tensor in tensors}) > 1 or any(_is_expanded(t) for t in tensors):
        raise SlimgraphError(
            f"`{name}` cannot be saved: it shares memory with a tensor of another dtype, "
            "or is expanded",
            hint="clone one of them",
        )
    start = min(tensor.data_ptr() for tensor in tensors)
    size = tensors[0].element_size()
    offsets = [(tensor.data_ptr() - start) // size for tensor in tensors]
    length = max(at + extent(tensor) for at, tensor in zip(offsets, tensors, strict=True))
    for number, offset, tensor in zip(group, offsets, tensors, strict=True):
        entries[number]["view"] = [offset, list(tensor.shape), list(tensor.stride())]
    first = tensors[offsets.index(0)]
    return first.as_strided((length,), (1,), first.storage_offset())


def _is_expanded(tensor: Tensor) -> bool:
    return tensor.numel() > extent(tensor)


class TensorUnpacker:
    """Finds the tensors of a model by the number of their entry."""

    def __init__(self, entries: Any, tensors: Mapping[str, Tensor]) -> None:
        if not isinstance(entries, list):
            raise MalformedError("the table of tensors is no list")
        self._entries = entries
        self._tensors = tensors
        self._stored: dict[str, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def parameter(self, number: Any) -> nn.Parameter:
        """Return the parameter of an entry; the same object each time.

        Raises:
            MalformedError: There is no such entry, or the file lacks its data.
        """
        tensor = self._tensor(number)
        if not isinstance(tensor, nn.Parameter):
            raise MalformedError(f"tensor {number} is no parameter")
        return tensor

    def buffer(self, number: Any) -> Tensor:
        """Return the buffer of an entry; the same object each time.

        Raises:
            MalformedError: There is no such entry, or the file lacks its data.
        """
        tensor = self._tensor(number)
        if isinstance(tensor, nn.Parameter):
            raise MalformedError(f"tensor {number} is a parameter, not a buffer")
        return tensor

    def _tensor(self, number: Any) -> Tensor:
        if type(number) is not int or not 0 <= number < len(self._entries):
            raise MalformedError(f"{number!r} is no entry of the table of tensors")
        if number not in self._made:
            self._made[number] = self._make(self._entries[number])
        return self._made[number]

    def _make(self, entry: Any) -> Tensor:
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            raise MalformedError("an entry of the table of tensors has no key")
        key = entry["key"]
        if key not in self._tensors:
            raise MalformedError(f"the tensor `{key}` is missing")
        if key not in self._stored:
            self._stored[key] = self._tensors[key]
        data = self._stored[key]
        if "view" in entry:
            data = _view(key, data, entry["view"])
        requires_grad = entry.get("requires_grad") is True
        if entry.get("parameter") is True:
            return nn.Parameter(data, requires_grad=requires_grad)
        return data.detach().requires_grad_(requires_grad)


def _view(key: str, data: Tensor, view: Any) -> Tensor:
    offset, shape, strides = view
    numbers = [offset, *shape, *strides]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise MalformedError(f"the view of `{key}` has sizes that are no sizes")
    reach = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) + 1
    if data.ndim != 1 or reach > data.numel() or math.prod(shape) > data.numel():
        raise MalformedError(f"the view of `{key}` reaches beyond its {data.numel()} elements")
    return data.as_strided(shape, strides, data.storage_offset() + offset)
