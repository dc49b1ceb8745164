"""The tracer whose proxies carry values without data."""

import inspect
import math
import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import inplace_methods
from torch.fx.immutable_collections import immutable_dict
from torch.fx.proxy import Scope, ScopeContextManager
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from slimgraph.arguments import flat_arguments, put_arguments
from slimgraph.attention import attend, can_attend
from slimgraph.errors import SlimgraphError, TraceError
from slimgraph.modes import Choice, Flag
from slimgraph.patches import FACTORIES, proxies_pass
from slimgraph.proxied import ValueProxy
from slimgraph.shapes import (
    MetaRunner,
    attribute,
    device_of,
    give,
    stored_tensors,
    to_meta,
)
from slimgraph.sources import raised_at, source_of_frame
from slimgraph.structures import holds_tensor, is_record
from slimgraph.two_modes import RecordedError, TwoModes

_CALL = nn.Module.__call__
# torch.nn classes whose forward is Python over other modules: the tracer looks inside.
_COMPOSED = (
    nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)  # fmt: skip
# What arguments mostly are; fx asks many more questions before it lets them pass.
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, fx.Node})
# torch's own parametrisations that change their state in training: they stay calls.
_STATEFUL = frozenset({"_SpectralNorm", "_Orthogonal"})


class _Stack(OrderedDict[str, Any]):
    """The modules around a call; fx copies it for every node, which an ordered dict does slowly."""

    def __copy__(self) -> dict[str, Any]:
        return dict(self)


class ValueTracer(fx.Tracer):
    """An fx tracer that runs every node on meta tensors while it records it.

    Attributes:
        opaque: Submodules that turned out not to be traceable, and why.
        bare: Modules of torch.nn whose hooks the graph contains, so that they must not run again.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: Sequence[str],
        *,
        fallback: bool = True,
    ) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=FACTORIES)
        self.module_stack = _Stack()
        self.examples = (args, kwargs)
        self.leaves = frozenset(leaves)
        self.fallback = fallback
        self.device = device_of(model)
        self.run = MetaRunner(model, self.device)
        self.evaluating = False
        self.modes = TwoModes(self)
        stored = stored_tensors(model, self.run.modules)
        self.names = {id(stored[name]): name for name in reversed(stored)}  # the first of each
        self.written: dict[int, tuple[Tensor, fx.Proxy]] = {}
        self.read: dict[str, fx.Proxy] = {}
        self.opaque: dict[str, str] = {}
        self.bare: set[str] = set()
        unknown = self.leaves - self.run.modules.keys()
        if unknown:
            raise TraceError(f"`leaves` names `{min(unknown)}`, which is no submodule")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep torch.nn modules, and those the caller named, as one node."""
        if module_qualified_name in self.leaves or isinstance(m, torch.jit.ScriptModule):
            return True
        return super().is_leaf_module(m, module_qualified_name) and not opens(m)

    def proxy(self, node: fx.Node) -> "ValueProxy":
        """Make the proxy of a node."""
        return ValueProxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        """Record a node, its value, and the line of the model it comes from."""
        if self.modes.records_nothing and kind != "get_attr":
            raise RecordedError
        kind, target = _as_operator(kind, target)
        if args and type(args[0]) is Tensor and _writes(kind, target):
            self._make_writable(args[0])
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        node = proxy.node
        node.meta["source"] = source_of_frame(sys._getframe(1))
        if kind != "placeholder":
            self._evaluate(node)
        return proxy

    def _evaluate(self, node: fx.Node) -> None:
        self.evaluating = True
        try:
            node.meta["val"] = self.run(node)
        finally:
            self.evaluating = False

    def look_into(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through a function marked with `fx.wrap`; if that fails it stays one call."""
        before = self.mark()
        try:
            return function(*args, **kwargs)
        except Exception:  # it is marked because tracing it may raise anything
            self.roll_back(before)
        return self.create_proxy("call_function", function, args, kwargs)

    def mark(self) -> tuple[fx.Node | None, Any]:
        """Remember where the graph ends."""
        return next(iter(reversed(self.graph.nodes)), None), self.module_stack.copy()

    def roll_back(self, mark: tuple[fx.Node | None, Any]) -> None:
        """Forget every node since a mark, under whatever name it is remembered."""
        last, self.module_stack = mark
        erased = set()
        for node in reversed(list(self.graph.nodes)):
            if node is last:
                break
            erased.add(node)
            self.graph.erase_node(node)
        for name in [name for name, proxy in self.read.items() if proxy.node in erased]:
            del self.read[name]
        self.written = {k: v for k, v in self.written.items() if v[1].node not in erased}

    def _make_writable(self, constant: Tensor) -> None:
        """Copy a constant that forward makes and writes into, afresh in every call."""
        if id(constant) not in self.written:
            copy = self.create_proxy("call_function", torch.clone, (constant,), {})
            self.written[id(constant)] = (constant, copy)

    def create_arg(self, a: Any) -> Any:
        """Turn what user code passes on into nodes and plain values."""
        kind = type(a)
        if kind in _PLAIN or (kind is dict and not a):
            return a
        if kind is tuple:
            return tuple([self.create_arg(value) for value in a])
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Flag):
            return self.modes.node(a.owner)
        if isinstance(a, Choice):
            return self.modes.node(a.owner, a.training, float(a))
        if type(a) is Tensor and id(a) in self.written:
            return self.written[id(a)][1].node
        if isinstance(a, dict) and kind not in (dict, immutable_dict):
            return self._container(a)
        return super().create_arg(a)

    def _container(self, made: dict[Any, Any]) -> Any:
        """Build a dict of a class of its own (ordered, or a Hugging Face output) in the graph."""
        given = {key: self.create_arg(value) for key, value in made.items() if value is not None}
        if is_dataclass(type(made)):
            return self.create_node("call_function", type(made), (), given)
        pairs = [(key, given.get(key)) for key in made]
        return self.create_node("call_function", type(made), (pairs,), {})

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> fx.Node:
        """Record a node; constants that forward makes, and containers, come this way only."""
        node = super().create_node(kind, target, (), {}, *rest, **more)
        give(node, args, kwargs)
        if kind == "get_attr":
            outer, self.evaluating = self.evaluating, True  # `getattr` would record it again
            node.meta.update(val=to_meta(attribute(self.root, target)), source="")
            self.evaluating = outer
        elif isinstance(target, type):
            node.meta["source"] = source_of_frame(sys._getframe(1))
            self._evaluate(node)
        return node

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a call of a submodule; while a node is evaluated, just run it."""
        if self.evaluating:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        leaf = self.is_leaf_module(m, path)
        if isinstance(m, torch.jit.ScriptModule) and self.fallback:
            self.opaque.setdefault(path, "it is scripted, so its code cannot be followed")
        if leaf and path not in self.leaves and _has_user_hooks(m):
            return self._with_hooks(m, path, forward, args, kwargs)
        attends = path not in self.leaves and can_attend(m)
        if leaf and not attends:
            return self.create_proxy("call_module", path, args, kwargs)
        before = self.mark()
        try:
            if attends:
                return self._attend(m, path, args, kwargs)

            def call() -> Any:
                return super(ValueTracer, self).call_module(m, forward, args, kwargs)

            return self.modes.trace(m, path, call, (args, kwargs))
        except Exception as error:
            self.roll_back(before)
            return self._whole(m, path, error, (args, kwargs))

    def _attend(self, m: Any, path: str, args: Any, kwargs: Any) -> Any:
        """Take attention apart; nobody may ask for its weights."""
        with ScopeContextManager(self.scope, Scope(path, type(m))):
            output, weights = attend(m, *args, **kwargs)
        if isinstance(weights, fx.Proxy):
            weights.node.meta["optional"] = True
        return output, weights

    def _whole(self, m: nn.Module, path: str, error: Exception, arguments: Any) -> Any:
        """Record a submodule that cannot be traced as one call; where that fails, so did this."""
        if not self.fallback:
            raise error
        before = self.mark()
        try:
            proxy = self.create_proxy("call_module", path, *arguments)
        except Exception:  # the module that calls it is tried next
            self.roll_back(before)
            raise error from None
        self.leaves |= {path}
        self.opaque[path] = why(error)
        return proxy

    def _with_hooks(self, m: nn.Module, path: str, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a torch.nn module without its hooks, and trace these."""
        self.bare.add(path)
        self.run.bare.add(path)
        vars(m)["forward"] = lambda *a, **k: self.create_proxy("call_module", path, a, k)
        try:
            return forward(*args, **kwargs)
        finally:
            vars(m).pop("forward")

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Turn a parameter or buffer that user code reads into a `get_attr` node."""
        if self.evaluating or not isinstance(attr_val, Tensor) or id(attr_val) not in self.names:
            return attr_val
        self.read = parameter_proxy_cache
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
        """Make one placeholder per argument that holds tensors; plain values become constants."""
        args, kwargs = self.examples
        signature = inspect.signature(self.root.forward)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TraceError(
                f"the example inputs do not fit the forward of `{type(self.root).__name__}`: "
                f"{error}"
            ) from error
        made = [self._argument(name, value) for name, value in flat_arguments(bound)]
        put_arguments(bound, made)

        def call() -> Any:
            with proxies_pass():
                return _CALL(self.root, *bound.args, **bound.kwargs)  # with the model's own hooks

        arguments = (bound.args, bound.kwargs)
        return lambda: self.modes.trace(self.root, "", call, arguments), []

    def _argument(self, name: str, value: Any) -> Any:
        """Make a placeholder; of a container user code gets one of its kind, full of proxies."""
        if not holds_tensor(value):
            return value
        proxy = self.create_proxy("placeholder", name, (), {})
        proxy.node.meta["val"] = to_meta(value)
        return self._taken_apart(proxy, value)

    def _taken_apart(self, proxy: Any, value: Any) -> Any:
        if isinstance(value, Tensor):
            return proxy
        if isinstance(value, dict):
            copy = value.copy()
            for key in value:
                copy[key] = self._item(proxy, operator.getitem, key, value[key])
            return copy
        if isinstance(value, list | tuple):
            parts = [self._item(proxy, operator.getitem, i, v) for i, v in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if is_record(value):
            copy = object.__new__(type(value))
            for name, field in vars(value).items():
                object.__setattr__(copy, name, self._item(proxy, getattr, name, field))
            return copy
        return proxy

    def _item(self, proxy: Any, how: Callable[..., Any], key: Any, value: Any) -> Any:
        if not holds_tensor(value):
            return value
        return self._taken_apart(self.create_proxy("call_function", how, (proxy, key), {}), value)


def why(error: Exception) -> str:
    """Say why something cannot be traced, in one line."""
    where = getattr(error, "where", None) or raised_at(error)
    text = (
        error.message if isinstance(error, SlimgraphError) else f"{type(error).__name__}: {error}"
    )
    line = next(iter(text.splitlines()), "")
    return f"{line} ({where})" if where else line


def opens(module: nn.Module) -> bool:
    """Return whether a torch.nn module is looked into: it is Python over others, or computed."""
    if isinstance(module, torch.nn.utils.parametrize.ParametrizationList):
        return not any(type(part).__name__ in _STATEFUL for part in module)
    if type(module).__module__ == "torch.nn.utils.parametrizations":
        return True  # what computes a weight; the stateful ones are leaves with their list
    hooks = module._forward_pre_hooks
    normed = bool(hooks) and any(isinstance(hook, WeightNorm) for hook in hooks.values())
    return isinstance(module, _COMPOSED) or _is_parametrized(module) or normed


def _is_parametrized(module: nn.Module) -> bool:
    """Answer as `torch.nn.utils.parametrize.is_parametrized`, but without a failing `hasattr`."""
    return isinstance(vars(module)["_modules"].get("parametrizations"), nn.ModuleDict)


def _has_user_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks other than those that compute its weights."""
    if not module._forward_pre_hooks and not module._forward_hooks:
        return False
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(not isinstance(hook, BasePruningMethod | SpectralNorm) for hook in hooks)


def _as_operator(kind: str, target: Any) -> tuple[str, Any]:
    """Call a magic method of a tensor by the operator that stands for it."""
    if kind == "call_method" and target.startswith("__"):
        found = getattr(operator, target.strip("_"), None)
        if found is not None and not target.startswith("__r"):
            return "call_function", found
    return kind, target


def _writes(kind: str, target: Any) -> bool:
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if kind == "call_method":
        return name.endswith("_")
    return name == "setitem" or (name in inplace_methods and target is getattr(operator, name))
