"""What torch does differently while a model is traced, and the model put back afterwards.

Each patch lets torch's own Python run on proxies instead of handing them to C++: a checkpoint is a
call, a scripted function is the function it was made from, a transformer layer takes its slow path.
"""

import builtins
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from operator import eq, is_
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace as symbolic
from torch.utils import checkpoint as checkpointing
from torch.utils._pytree import tree_any, tree_leaves

from slimgraph.proxied import ValueProxy

_CHECKPOINT_OPTIONS = frozenset(
    {"use_reentrant", "context_fn", "determinism_check", "debug", "preserve_rng_state",
     "early_stop"}
)  # fmt: skip
# They may get nothing but proxies of sizes, dtypes and devices, which C++ does not take.
FACTORIES = (
    torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn, torch.randint,
    torch.arange, torch.linspace, torch.eye, torch.tensor, torch.as_tensor, torch.randperm,
    torch.tril_indices, torch.triu_indices, torch.finfo, torch.iinfo,
    # These may get a module's mode, which is none either.
    torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout,
    torch.rrelu, torch.batch_norm,
)  # fmt: skip
_STORES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@contextmanager
def traceable(named: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let Python run on proxies: torch's own, and `len` in the files that define the modules."""
    _list_factories()
    fast = torch.backends.mha.get_fastpath_enabled()
    scripted = torch.jit.ScriptFunction.__call__
    with ExitStack() as stack:
        for scope in _checkpointing(len(sys.modules)):
            stack.enter_context(patch.dict(scope, checkpoint=_call_at_once))
        _patch_marked(stack)
        for scope in _scopes(named.values()):
            stack.enter_context(patch.dict(scope, len=_length))
        transformer = vars(nn.modules.transformer)
        stack.enter_context(patch.dict(transformer, _detect_is_causal_mask=_is_causal))
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        setattr(torch.jit.ScriptFunction, "__call__", _inlined(scripted))  # noqa: B010
        stack.callback(setattr, torch.jit.ScriptFunction, "__call__", scripted)
        yield


@cache
def _list_factories() -> None:
    """Let torch list its factories once and for all, before fx wraps them."""
    with torch.device("cpu"):
        torch.empty(0)


@lru_cache(maxsize=1)
def _checkpointing(_modules: int) -> list[dict[str, Any]]:
    """Return the global names of every file that has imported `checkpoint`, given how many are."""
    original = checkpointing.checkpoint
    scopes = (getattr(module, "__dict__", {}) for module in list(sys.modules.values()))
    return [scope for scope in scopes if scope.get("checkpoint") is original]


@contextmanager
def proxies_pass() -> Iterator[None]:
    """Let proxies pass for what they stand for while a forward runs."""
    with patch.object(builtins, "isinstance", _is_instance):
        yield


def _is_instance(value: Any, kinds: Any, known: Callable[..., bool] = isinstance) -> bool:
    """Let a proxy be an instance of what it stands for.

    Only Python code asks this way: torch's C++ would take what it believes to be a tensor for one.
    """
    if known(value, kinds):
        return True
    return known(value, ValueProxy) and known(vars(value)["node"].meta.get("val"), kinds)


def _scopes(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """Return the global names of every file that defines a module, but torch's."""
    scripted = torch.jit.ScriptModule
    kinds = {type(module) for module in modules if not isinstance(module, scripted)}
    scopes = [getattr(kind.forward, "__globals__", {}) for kind in kinds]
    own = [s for s in scopes if not str(s.get("__name__", "torch")).startswith("torch.")]
    return list({id(scope): scope for scope in own if "len" not in scope}.values())


def _length(value: Any) -> Any:
    """Keep the length of a tensor a size that may change; the builtin has to return a number."""
    if isinstance(value, fx.Proxy) and isinstance(value, Tensor) and value.ndim:
        return value.shape[0]
    return len(value)


def _call_at_once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stand in for `torch.utils.checkpoint.checkpoint`: when and where to recompute is no op."""
    return function(*args, **{k: v for k, v in kwargs.items() if k not in _CHECKPOINT_OPTIONS})


def _patch_marked(stack: ExitStack) -> None:
    """Look into functions that are marked with `torch.fx.wrap` instead of keeping them whole."""
    marked = symbolic._wrapped_fns_to_patch  # noqa: SLF001 - fx keeps them here
    for (_, name), scope in marked.items():
        function = scope.get(name)
        if function is not None and getattr(function, "__module__", "") != "math":
            scope[name] = _looked_into(function)
            stack.callback(scope.__setitem__, name, function)
    own = vars(torch)  # `torch.zeros(x.shape[0], 4)` has no tensor argument
    wrapped = {(id(own), f.__name__): own for f in FACTORIES if own.get(f.__name__) is f}
    stack.enter_context(patch.dict(marked, wrapped, clear=True))


def _looked_into(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        values = tree_leaves((args, kwargs))
        tracer: Any = next((x.tracer for x in values if isinstance(x, fx.Proxy)), None)
        return (
            function(*args, **kwargs)
            if tracer is None
            else tracer.look_into(function, args, kwargs)
        )

    return call


def _is_causal(_mask: Any, is_causal: Any = None, _size: Any = None) -> bool:
    """Take what the caller says; torch would compare the mask's data, only to go faster."""
    return bool(is_causal)


def _inlined(scripted: Callable[..., Any]) -> Callable[..., Any]:
    """Call the Python function that a scripted one was made from, where there are proxies."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        python = getattr(self, "_torchdynamo_inline", None)
        if python is not None and tree_any(lambda x: isinstance(x, fx.Proxy), (args, kwargs)):
            return python(*args, **kwargs)
        return scripted(self, *args, **kwargs)

    return call


@contextmanager
def untouched(named: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules into eval mode, and take back that and whatever forward stores in them."""
    modules = list({id(module): module for module in named.values()}.values())
    modes = [module.training for module in modules]
    stores = [held for module in modules for held in _stores(module)]
    before = [(held, held.copy() if held else _NOTHING) for held in stores]  # most are empty
    try:
        for module in modules:
            _set_mode(module, training=False)
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            _set_mode(module, training=training)
        for held, copy in before:
            if held or copy:
                _put_back(held, copy)


_NOTHING: dict[str, Any] = {}


def _set_mode(module: nn.Module, *, training: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        module.training = training
    else:
        vars(module)["training"] = training  # which torch does after many questions


def _stores(module: nn.Module) -> list[Any]:
    """Return what a module keeps its state in: its attributes and torch's stores among them."""
    if isinstance(module, torch.jit.ScriptModule):  # its state lies outside Python
        return []
    own = vars(module)
    return [own, *[own[name] for name in _STORES]]


def _put_back(held: Any, copy: Any) -> None:
    if isinstance(held, set):
        same = held == set(copy)
    else:
        same = len(held) == len(copy) and all(map(is_, held.values(), copy.values()))
        same = same and all(map(eq, held, copy))
    if not same:
        held.clear()
        held.update(copy)
