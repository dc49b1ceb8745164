"""Proxies that carry values without data, so that Python that looks at sizes runs as usual."""

import math
import operator
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.graph import inplace_methods
from torch.fx.proxy import Attribute

from slimgraph.errors import TraceError
from slimgraph.shapes import place
from slimgraph.sources import source_of_frame


class ValueProxy(fx.Proxy):
    """A proxy that knows its value: data-less tensors, true sizes."""

    tracer: Any

    @property
    def _value(self) -> Any:
        return self.node.meta["val"]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` goes by."""
        meta = self.node.meta
        return type(meta["val"]) if "val" in meta else type(self)

    def _concrete(self, what: str) -> Any:
        value = self._value
        if isinstance(value, Tensor):
            raise TraceError(
                f"{what} needs the data of a tensor, which tracing does not have",
                source_of_frame(sys._getframe(2)) or place(self.node),
                "replace it by tensor code such as `torch.where`, or keep the submodule whole "
                "with `leaves=[...]`",
            )
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("node", "tracer"):
            raise AttributeError(name)
        value = self.node.meta.get("val")
        if isinstance(value, dict) and name in ("values", "items"):
            items = {key: operator.getitem(self, key) for key in value}
            return getattr(items, name)
        found = getattr(value, name)
        symbolic = isinstance(found, Tensor | torch.Size | torch.dtype | torch.device)
        if not symbolic and callable(found):
            return ValueAttribute(self, name)
        if isinstance(value, Tensor) and not symbolic:
            kind = name.removeprefix("is_")
            return kind == self.tracer.device.type if kind in _DEVICES else found
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __bool__(self) -> bool:
        return bool(self._concrete("a branch"))

    def __int__(self) -> int:
        return int(self._concrete("`int()`"))

    def __index__(self) -> int:
        return int(self._concrete("an index"))

    def __float__(self) -> float:
        return float(self._concrete("`float()`"))

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._concrete("`round()`"), digits)

    def __floor__(self) -> int:
        return math.floor(self.__float__())

    def __ceil__(self) -> int:
        return math.ceil(self.__float__())

    def __trunc__(self) -> int:
        return int(self._concrete("`math.trunc()`"))

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __format__(self, spec: str) -> str:
        return repr(self) if isinstance(self._value, Tensor) else format(self._value, spec)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._value, dict):
            return iter(self._value)
        return iter([operator.getitem(self, index) for index in range(len(self._value))])

    def __contains__(self, item: object) -> bool:
        return item in self._concrete("`in`")

    def __hash__(self) -> int:
        return id(self)

    def keys(self) -> Any:
        """Return the keys of a dict, which are no data."""
        return self._value.keys()

    def dim(self) -> int:
        """Return the number of dims, a plain int: it never changes."""
        return int(self._value.ndim)

    def item(self) -> Any:
        """Refuse: the value of a tensor is data."""
        return self._concrete("`item()`")

    def tolist(self) -> Any:
        """Refuse: the values of a tensor are data."""
        return self._concrete("`tolist()`")


_DEVICES = ("cpu", "cuda", "meta", "mps", "xpu")


def _define_in_place(name: str) -> None:
    """`x += y` writes into a tensor; on sizes it is plain arithmetic."""
    target = getattr(operator, name)

    def method(self: ValueProxy, other: Any) -> Any:
        if not isinstance(self._value, Tensor):
            return NotImplemented
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    setattr(ValueProxy, f"__{name}__", method)


for _name in inplace_methods.keys() - {"setitem"}:
    _define_in_place(_name)


class ValueAttribute(Attribute, ValueProxy):
    """A method of a proxied value; calling it records the call."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` goes by."""
        return type(getattr(self.root.node.meta["val"], self.attr))
