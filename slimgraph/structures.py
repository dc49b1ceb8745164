"""Nested values: tensors in tuples, lists, dicts, named tuples and dataclasses."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def is_record(value: Any) -> bool:
    """Return whether a value is an instance of a dataclass that torch does not take apart."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type | dict)


def leaves(value: Any) -> Iterator[Any]:
    """Yield what a nested value holds, dataclasses included."""
    for leaf in tree_leaves(value):
        if is_record(leaf):
            for field in dataclasses.fields(leaf):
                yield from leaves(getattr(leaf, field.name))
        else:
            yield leaf


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Replace every tensor in a nested value; everything else stays what it is."""

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        return _map_record(function, leaf) if is_record(leaf) else leaf

    return replace(value) if isinstance(value, Tensor) else tree_map(replace, value)


def _map_record(function: Callable[[Tensor], Any], record: Any) -> Any:
    """Copy a dataclass without its constructor, which may compute."""
    copy = object.__new__(type(record))
    for name, value in vars(record).items():
        object.__setattr__(copy, name, map_tensors(function, value))
    return copy


def holds_tensor(value: Any) -> bool:
    """Return whether there is a tensor in a nested value."""
    return isinstance(value, Tensor) or any(isinstance(leaf, Tensor) for leaf in leaves(value))
