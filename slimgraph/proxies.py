"""Proxies that carry values without data, and the tracer that makes them."""

import inspect
import math
import operator
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, Scope, ScopeContextManager
from torch.utils._pytree import tree_leaves

from slimgraph.attention import attend, can_attend
from slimgraph.errors import TraceError
from slimgraph.shapes import MetaRunner, attribute, device_of, place, to_meta

_HERE = f"{Path(__file__).parent}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_CALL = nn.Module.__call__
_FACTORIES = (torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn)


def _source_of_frame(frame: Any) -> str:
    """Find the innermost line of the user's model: neither torch's code nor ours."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_HERE) and frame.f_code.co_name == "_trace":
            return ""
        if not name.startswith((_HERE, _TORCH, "<")):
            return f"{_short(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@lru_cache(maxsize=1024)
def _short(filename: str) -> str:
    roots = [f"{root.rstrip(os.sep)}{os.sep}" for root in (*sys.path, str(Path.cwd())) if root]
    inside = [root for root in roots if filename.startswith(root)]
    return filename[len(max(inside, key=len)) :] if inside else Path(filename).name


def raised_at(error: BaseException) -> str | None:
    """Find the line of the user's model where an exception came up."""
    found = None
    trace_back = error.__traceback__
    while trace_back is not None:
        name = trace_back.tb_frame.f_code.co_filename
        if not name.startswith((_HERE, _TORCH, "<")):
            found = f"{_short(name)}:{trace_back.tb_lineno}"
        trace_back = trace_back.tb_next
    return found


class ValueTracer(fx.Tracer):
    """An fx tracer that runs every node on meta tensors while it records it."""

    proxy_buffer_attributes = True

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: Sequence[str],
    ) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=_FACTORIES)
        self._autowrap_search.append(torch)  # `torch.zeros(x.shape[0], 4)` has no tensor argument
        self.examples = (args, kwargs)
        self.leaves = frozenset(leaves)
        self.run = MetaRunner(model, device_of(model))
        self.evaluating = False
        stored = chain(model.named_parameters(), model.named_buffers())
        self.names = {id(tensor): name for name, tensor in stored}
        unknown = self.leaves - {name for name, _ in model.named_modules()}
        if unknown:
            raise TraceError(f"`leaves` names `{min(unknown)}`, which is no submodule")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep torch.nn modules, and those the caller named, as one node."""
        return module_qualified_name in self.leaves or super().is_leaf_module(
            m, module_qualified_name
        )

    def proxy(self, node: fx.Node) -> "ValueProxy":
        """Make the proxy of a node."""
        return ValueProxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        """Record a node, its value, and the line of the model it comes from."""
        if kind == "call_function" and _is_wrapped(target):
            return target(*args, **kwargs)  # look inside functions marked with `fx.wrap`
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        node = proxy.node
        node.meta["source"] = _source_of_frame(sys._getframe(1))
        if kind != "placeholder":
            self.evaluating = True
            try:
                node.meta["val"] = self.run(node)
            finally:
                self.evaluating = False
        return proxy

    def create_node(self, kind: str, target: Any, *rest: Any, **more: Any) -> fx.Node:
        """Record a node; constants that forward makes come this way only."""
        node = super().create_node(kind, target, *rest, **more)
        if kind == "get_attr":
            outer, self.evaluating = self.evaluating, True  # `getattr` would record it again
            node.meta.update(val=to_meta(attribute(self.root, target)), source="")
            self.evaluating = outer
        return node

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a call of a submodule; while a node is evaluated, just run it."""
        if self.evaluating:
            return forward(*args, **kwargs)
        if can_attend(m):
            with ScopeContextManager(self.scope, Scope(self.path_of_module(m), type(m))):
                output, weights = attend(m, *args, **kwargs)
            if isinstance(weights, fx.Proxy):
                weights.node.meta["optional"] = True  # nobody may ask for them
            return output, weights
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Turn a parameter or buffer that user code reads into a `get_attr` node."""
        if self.evaluating or not isinstance(attr_val, Tensor) or id(attr_val) not in self.names:
            return attr_val
        name = self.names[id(attr_val)]
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_args_for_root(
        self,
        root_fn: Any,
        is_module: bool,  # noqa: FBT001 - as in fx
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Make one placeholder per example tensor; plain values become constants."""
        args, kwargs = self.examples
        try:
            bound = inspect.signature(self.root.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise TraceError(
                f"the example inputs do not fit the forward of `{type(self.root).__name__}`: "
                f"{error}"
            ) from error
        signature = inspect.signature(self.root.forward)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            bound.arguments[name] = self._arguments(name, kind, value)

        def call() -> Any:
            return _CALL(self.root, *bound.args, **bound.kwargs)  # with the model's own hooks

        return call, []

    def _arguments(self, name: str, kind: Any, value: Any) -> Any:
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return tuple(self._argument(f"{name}_{i}", item) for i, item in enumerate(value))
        if kind is inspect.Parameter.VAR_KEYWORD:
            return {key: self._argument(key, item) for key, item in value.items()}
        return self._argument(name, value)

    def _argument(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            proxy = self.create_proxy("placeholder", name, (), {})
            proxy.node.meta["val"] = to_meta(value)
            return proxy
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            raise TraceError(
                f"input `{name}` is a `{type(value).__name__}` of tensors",
                hint="trace a wrapper module that takes the tensors one by one",
            )
        return value


def _is_wrapped(target: Any) -> bool:
    module = getattr(target, "__module__", None) or ""
    library = ("torch", "_operator", "operator", "math", "builtins")
    return inspect.isfunction(target) and module.partition(".")[0] not in library


class ValueProxy(fx.Proxy):
    """A proxy that knows its value: data-less tensors, true sizes."""

    @property
    def _value(self) -> Any:
        return self.node.meta["val"]

    def _concrete(self, what: str) -> Any:
        value = self._value
        if isinstance(value, Tensor):
            raise TraceError(
                f"{what} needs the data of a tensor, which tracing does not have",
                _source_of_frame(sys._getframe(2)) or place(self.node),
                "replace it by tensor code such as `torch.where`, or keep the submodule whole "
                "with `leaves=[...]`",
            )
        return value

    def __getattr__(self, name: str) -> Any:
        value = self.node.meta.get("val")
        if isinstance(value, Tensor) and name in ("ndim", "is_meta", "requires_grad"):
            return getattr(value, name)
        found = getattr(value, name, None)
        if found is None or callable(found):
            return ValueAttribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __bool__(self) -> bool:
        return bool(self._concrete("a branch"))

    def __int__(self) -> int:
        return int(self._concrete("`int()`"))

    def __index__(self) -> int:
        return int(self._concrete("an index"))

    def __float__(self) -> float:
        return float(self._concrete("`float()`"))

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        items = [operator.getitem(self, index) for index in range(len(self._value))]
        return iter(items)

    def __contains__(self, item: object) -> bool:
        return item in self._concrete("`in`")

    def __hash__(self) -> int:
        return id(self)

    def dim(self) -> int:
        """Return the number of dims, a plain int: it never changes."""
        return int(self._value.ndim)

    def item(self) -> Any:
        """Refuse: the value of a tensor is data."""
        return self._concrete("`item()`")

    def tolist(self) -> Any:
        """Refuse: the values of a tensor are data."""
        return self._concrete("`tolist()`")


class ValueAttribute(Attribute, ValueProxy):
    """A method of a proxied value; calling it records the call."""
