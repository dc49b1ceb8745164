"""Remove nodes whose value nobody reads, and modules and parameters nobody calls."""

import inspect
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import nn
from torch.fx import GraphModule, Node

from slimgraph.cloning import has_hooks
from slimgraph.pass_manager import Invariant, Pass, PassResult, clone
from slimgraph.shapes import stored_tensors

# In training mode these update statistics or draw random numbers.
_STATEFUL = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout, nn.MultiheadAttention),
    *(nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.RNNBase),
)
_PURE_LIBRARIES = {"torch", "_operator", "operator", "math", "builtins", "slimgraph"}
_IMPURE_BUILTINS = {"print", "setattr", "delattr", "exec", "eval", "input", "open", "next"}
_IN_PLACE_OPERATORS = {
    function
    for name, function in vars(operator).items()
    if name.startswith("i") and hasattr(operator, f"__{name}__")
} - {operator.index, operator.inv, operator.invert} | {operator.setitem, operator.delitem}
_FLAGS = ("inplace", "training", "train", "use_input_stats")


def _has_effect(node: Node, root: GraphModule) -> bool:
    """Return whether running a node does more than compute its value; in doubt it does."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "get_attr":
        return False
    if node.is_impure():
        return True
    if node.op == "call_module":
        return _module_has_effect(root.get_submodule(str(node.target)))
    if node.op == "call_method":
        return str(node.target).endswith("_") or str(node.target) in ("__setitem__", "backward")
    return _function_has_effect(node)


def _module_has_effect(module: nn.Module) -> bool:
    if not type(module).__module__.startswith("torch."):
        return True
    return any(
        getattr(part, "inplace", False)
        or has_hooks(part)
        or (part.training and isinstance(part, _STATEFUL))
        for part in module.modules()
    )


def _function_has_effect(node: Node) -> bool:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return bool(target._schema.is_mutable) or any(flag is not False for flag in _flags(node))
    name = getattr(target, "__name__", "")
    library = (getattr(target, "__module__", None) or "torch").partition(".")[0]
    return (
        library not in _PURE_LIBRARIES
        or (library == "builtins" and name in _IMPURE_BUILTINS)
        or target in _IN_PLACE_OPERATORS
        or name.endswith("_")
        or name.startswith(("set_", "_set_", "manual_seed", "seed"))
        or "out" in node.kwargs
        or any(flag is not False for flag in _flags(node))
    )


def _flags(node: Node) -> Iterator[Any]:
    """Yield the arguments that say whether a call writes or draws random numbers."""
    target: Any = node.target
    given: dict[str, Any] = dict(node.kwargs)
    if isinstance(target, torch._ops.OpOverload):
        names = (argument.name for argument in target._schema.arguments)
        given.update(zip(names, node.args, strict=False))
    else:
        try:
            given.update(inspect.signature(target).bind_partial(*node.args).arguments)
        except (ValueError, TypeError):  # built-in: no signature, a flag may stand anywhere
            yield from (arg for arg in node.args if arg is True)
    yield from (given[name] for name in _FLAGS if name in given)


def _dead_nodes(graph_module: GraphModule) -> Iterator[Node]:
    """Yield dead nodes, users before what they use; the caller erases each at once or none."""
    for node in reversed(list(graph_module.graph.nodes)):
        if not node.users and not _has_effect(node, graph_module):
            yield node


def _unused_attributes(graph_module: GraphModule) -> list[str]:
    """Return the names of modules, parameters and buffers that no node reaches.

    What lies within an unused module is not named again.
    """
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    targets = {
        str(node.target)
        for node in graph_module.graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    called = targets & modules.keys()
    reached = {"", *(prefix for target in targets for prefix in _prefixes(target))}
    # One object may have a name that is called and another that is not.
    whole = {id(part) for name in called for part in modules[name].modules()}
    unused: list[str] = []
    for name, module in modules.items():
        owner = name.rpartition(".")[0]
        if name and name not in reached and id(modules[owner]) not in whole and owner in reached:
            unused.append(name)
        elif (name in reached or not name) and id(module) not in whole:
            held = stored_tensors_of(module)
            names = (f"{name}.{tensor}" if name else tensor for tensor in held)
            unused.extend(full for full in names if full not in targets)
    return unused


def stored_tensors_of(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters and buffers."""
    return [name for name in stored_tensors(module) if "." not in name]


def _prefixes(name: str) -> Iterator[str]:
    """Yield the names of all that holds `a.b.c`, and itself: the root, `a`, `a.b`, `a.b.c`."""
    yield ""
    yield from accumulate(name.split("."), lambda left, right: f"{left}.{right}")


def _left(graph_module: GraphModule) -> str | None:
    if node := next(_dead_nodes(graph_module), None):
        return f"nobody reads `{node}`"
    unused = next(iter(_unused_attributes(graph_module)), None)
    return unused and f"nobody uses `{unused}`"


@dataclass(frozen=True)
class EliminateDeadNodes(Pass):
    """Remove what does not contribute to an output.

    1. Nodes that nobody reads. Placeholders stay, and so does whatever has an effect: in-place
       operations, norms that update their statistics, random numbers in training, functions
       and modules that are not torch's.
    2. Modules that no node calls, parameters and buffers that no node reads.

    The graph::

        %x : [num_users=2] = placeholder[target=x]
        %main : [num_users=1] = call_module[target=main](args = (%x,), kwargs = {})
        %aux : [num_users=0] = call_module[target=aux](args = (%x,), kwargs = {})
        return main

    becomes, and `aux.weight` leaves the state dict::

        %x : [num_users=1] = placeholder[target=x]
        %main : [num_users=1] = call_module[target=main](args = (%x,), kwargs = {})
        return main
    """

    name: ClassVar[str] = "eliminate-dead-nodes"
    ensures: ClassVar[tuple[Invariant, ...]] = (Invariant("no dead nodes", _left),)

    def rewrite(self, graph_module: GraphModule) -> PassResult:
        """Remove dead nodes, then what only they used."""
        if _left(graph_module) is None:
            return PassResult(graph_module, modified=False)
        result = clone(graph_module)
        removed = 0
        for node in _dead_nodes(result):
            result.graph.erase_node(node)
            removed += 1
        for name in _unused_attributes(result):
            owner, _, attribute = name.rpartition(".")
            delattr(result.get_submodule(owner), attribute)
            removed += 1
        result.recompile()
        return PassResult(result, modified=True, removed=removed)
