"""Custom autograd functions: `MyFunction.apply(x)` is traced as one call, so its backward stays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, fx
from torch.autograd import Function
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._pytree import tree_any, tree_leaves

from slimgraph.errors import TraceError
from slimgraph.rules import RuleTable


@contextmanager
def recorded_functions() -> Iterator[None]:
    """Record calls of custom autograd functions while a model is traced.

    torch would run their forward on the proxies, and the graph would forget their backward.
    `apply` itself lies in C++, and user code may hold on to it, but it looks `forward` up.
    """
    meta: Any = type(Function)

    def look_up(cls: type[Function], name: str) -> Any:
        found = type.__getattribute__(cls, name)
        if name not in ("forward", "setup_context") or found is _SETUP_CONTEXT:
            return found
        return partial(_record, cls, name, found)

    meta.__getattribute__ = look_up
    try:
        yield
    finally:
        del meta.__getattribute__


def _record(cls: type[Function], name: str, found: Callable[..., Any], *args: Any) -> Any:
    proxies = [leaf for leaf in tree_leaves(args) if isinstance(leaf, fx.Proxy)]
    if not proxies or cls.__module__.startswith("torch."):
        return found(*args)
    if name == "setup_context":
        return None
    given = args[1:] if _takes_context(cls) else args
    tracer = proxies[0].tracer
    try:
        return tracer.create_proxy("call_function", FunctionCall(cls), given, {})
    except TraceError:  # it cannot run without data, so it is looked into
        tracer.graph.erase_node(next(reversed(tracer.graph.nodes)))
        return found(*args)


def _takes_context(cls: type[Function]) -> bool:
    return type.__getattribute__(cls, "setup_context") is _SETUP_CONTEXT


_SETUP_CONTEXT = Function.setup_context


class FunctionCall:
    """What a graph calls for an autograd function.

    Args:
        function: Its class.
    """

    def __init__(self, function: type[Function]) -> None:
        self.function = function
        self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; without data, what it makes has none either."""
        without_data = any(isinstance(arg, Tensor) and arg.is_meta for arg in args)
        with torch.device("meta") if without_data else nullcontext():
            return self.function.apply(*args, **kwargs)


def is_elementwise(node: fx.Node, rules: RuleTable) -> bool:
    """Return whether a call is an autograd function whose forward is but element-wise ops.

    Args:
        node: A call.
        rules: They know the ops inside.
    """
    if not isinstance(node.target, FunctionCall) or node.kwargs:
        return False
    function = node.target.function
    graph = fx.Graph()
    tracer = GraphAppendingTracer(graph)
    given = [
        fx.Proxy(graph.placeholder(f"x{i}"), tracer) if isinstance(arg, fx.Node) else arg
        for i, arg in enumerate(node.args)
    ]
    context = [MagicMock()] if _takes_context(function) else []
    try:
        result = function.forward(*context, *given)
    except Exception:  # it looks at what a plain proxy does not know
        return False
    calls = [inner for inner in graph.nodes if inner.op != "placeholder"]
    return isinstance(result, fx.Proxy) and all(_passes(inner, rules) for inner in calls)


def _passes(node: fx.Node, rules: RuleTable) -> bool:
    if node.target is getattr:
        return node.args[1] in ("dtype", "device")
    rule = rules.for_function(node.target)
    constants = tree_any(lambda leaf: isinstance(leaf, Tensor), (node.args, node.kwargs))
    return rule is not None and rule.kind == "element-wise" and not constants
