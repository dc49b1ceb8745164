"""Models whose own forward cannot be traced: it stays Python, and what it calls is compressed.

A detector's forward loops over images and filters boxes, but its backbone, pyramid and heads are
plain networks. Each of those becomes a *region*: a stretch of one graph, with inputs and an output
of its own. Analysis and passes see an ordinary graph whose outputs are frozen; calling the model
runs the original forward, in which the call of such a submodule runs its stretch of the graph.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.fx.graph_module import _forward_from_src
from torch.fx.node import map_arg
from torch.utils._pytree import tree_flatten

from slimgraph.arguments import flat_arguments
from slimgraph.cloning import clone
from slimgraph.errors import SlimgraphError, TraceError
from slimgraph.patches import untouched
from slimgraph.recording import record
from slimgraph.shapes import modules_of, shallow, to_meta
from slimgraph.structures import leaves as leaves_of

_STORES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class HostedModule(fx.GraphModule):
    """A graph module that runs its model's original forward, with regions of the graph in it.

    `meta["regions"]` maps the name of each region's submodule to the names of its inputs in the
    graph; the graph's output is a dict of what each region returns.
    """

    clones_as: ClassVar[type[fx.GraphModule]]

    def recompile(self) -> Any:
        """Compile each region by itself; calling the module calls the original forward."""
        code = super().recompile()
        compiled = {name: _compiled(graph) for name, graph in split(self).items()}
        vars(self)["compiled"] = compiled
        type(self).forward = _run_host
        return code

    def __deepcopy__(self, memo: dict[int, Any]) -> "HostedModule":
        """Copy everything, also what the original forward reads."""
        copied = clone(self)
        assert isinstance(copied, HostedModule), "it clones as what it is"
        memo[id(self)] = copied
        for module in copied.modules():
            for store in ("_parameters", "_buffers"):
                vars(module)[store] = deepcopy(vars(module)[store], memo)
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()  # noqa: SLF001 - torch has no other way
        return copied


HostedModule.clones_as = HostedModule


def _run_host(self: HostedModule, *args: Any, **kwargs: Any) -> Any:
    kind, state = vars(self)["host"]
    host: nn.Module = object.__new__(kind)
    vars(host).update(state, training=self.training)
    vars(host).update({store: vars(self)[store] for store in _STORES})
    with _regions(self):
        return host(*args, **kwargs)


@contextmanager
def _regions(hosted: HostedModule) -> Iterator[None]:
    """Let the submodules with a region run it instead of their forward."""
    modules = modules_of(hosted)
    with ExitStack() as stack:
        for name in vars(hosted)["compiled"]:
            forward = _Region(hosted, name, modules[name])
            stack.enter_context(patch.dict(vars(modules[name]), forward=forward))
        yield


@dataclass(frozen=True)
class _Region:
    """The forward of a submodule while the host runs."""

    hosted: HostedModule
    name: str
    module: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the region on what the host passes."""
        signature = inspect.signature(type(self.module).forward)
        _, *named = flat_arguments(signature.bind(self.module, *args, **kwargs))
        expected = self.hosted.meta["regions"][self.name]
        given = {input_name(self.name, name): value for name, value in named}
        if {name: layout(value) for name, value in given.items()} != expected["layout"]:
            raise SlimgraphError(
                f"`{self.name}` is called with other kinds of arguments than when it was traced",
                hint="trace the model with example inputs of the kind it will get",
            )
        values = [given[name] for name in expected["inputs"]]
        return vars(self.hosted)["compiled"][self.name](self.hosted, *values)


def call_by_name(hosted: fx.GraphModule) -> dict[str, Any]:
    """Return what the original forward was called with when it was traced, defaults included.

    Args:
        hosted: A model that keeps its own forward.
    """
    bound = host_signature(hosted).bind(*hosted.meta["call"][0], **hosted.meta["call"][1])
    bound.apply_defaults()
    return dict(flat_arguments(bound))


def host_signature(hosted: fx.GraphModule) -> inspect.Signature:
    """Return the signature of the original forward, as it is called."""
    kind, _ = vars(hosted)["host"]
    whole = inspect.signature(kind.forward)
    return whole.replace(parameters=list(whole.parameters.values())[1:])


def input_name(region: str, argument: str) -> str:
    """Name an input of a region: `rpn.head` and `x` make `rpn_head__x`."""
    return f"{region.replace('.', '_')}__{argument}"


def layout(value: Any) -> str:
    """Describe all of an argument but the sizes and data of its tensors."""
    leaves, spec = tree_flatten(value)
    shown = [f"{x.ndim}d {x.dtype}" if isinstance(x, Tensor) else repr(x) for x in leaves]
    return f"{spec} {shown}"


def split(hosted: fx.GraphModule) -> dict[str, fx.Graph]:
    """Cut the graph of a hosted module into the graphs of its regions."""
    regions = hosted.meta.get("regions", {}) if hasattr(hosted, "meta") else {}
    owner = {target: name for name, region in regions.items() for target in region["inputs"]}
    graphs: dict[str, fx.Graph] = {name: fx.Graph() for name in regions}
    known: dict[fx.Node, fx.Node] = {}
    current = ""
    for node in hosted.graph.nodes:
        if node.op == "output":
            for name, result in node.args[0].items() if regions else ():
                graphs[name].output(map_arg(result, known.__getitem__))
            continue
        current = owner.get(str(node.target), current) if node.op == "placeholder" else current
        if regions:
            known[node] = graphs[current].node_copy(node, known.__getitem__)
    return graphs


def _compiled(graph: fx.Graph) -> Any:
    code = graph.python_code("self")
    return _forward_from_src(code.src, code.globals, None)


@dataclass
class _Calls:
    """How a model's own forward calls its submodules; mutable, filled while it runs once."""

    first: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    layouts: dict[str, set[str]] = field(default_factory=dict)
    entered: set[str] = field(default_factory=set)  # parts of them are called from elsewhere
    stack: list[str] = field(default_factory=list)

    def enter(self, name: str, args: Any, kwargs: Any) -> None:
        """Note a call."""
        self.stack.append(name)
        parts = name.split(".")
        above = {".".join(parts[:n]) for n in range(1, len(parts))}
        self.entered |= above - set(self.stack)
        self.first.setdefault(name, to_meta((args, kwargs)))
        self.layouts.setdefault(name, set()).add(layout((args, kwargs)))

    def is_uniform(self, name: str) -> bool:
        """Return whether a submodule always gets tensors in the same structure, and no numbers."""
        values = leaves_of(self.first.get(name, (object(),)))
        plain = all(isinstance(x, Tensor | str | bool | type(None)) for x in values)
        return plain and len(self.layouts[name]) == 1 and name not in self.entered


def _watched(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Calls:
    """Run a copy of a model once, and note what it calls."""
    calls = _Calls()
    twin = shallow(model).eval()
    for name, module in list(twin.named_modules())[1:]:
        if isinstance(module, torch.jit.ScriptModule):
            continue

        def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
            calls.enter(name, args, kwargs)

        def after(*_: Any) -> None:
            calls.stack.pop()

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after, always_call=True)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        twin(*args, **kwargs)
    return calls


def host(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: Sequence[str],
    reason: str,
) -> HostedModule | None:
    """Keep a model's own forward, and trace what it calls.

    Args:
        model: The model; it is run once on the example inputs, and nothing in it changes.
        args: Example inputs by position.
        kwargs: Example inputs by name.
        leaves: Submodules to keep as one opaque node each.
        reason: Why its forward cannot be traced.

    Returns:
        The traced model; `None` if it does not run, or nothing in it can be traced.
    """
    try:
        with untouched(modules_of(model)):
            calls = _watched(model, args, kwargs)
    except Exception:  # the model is wrong, or its inputs are: the first rung's error says more
        return None
    found = dict(_traced_parts(model, "", calls, leaves))
    if not found:
        return None
    hosted = _joined(model, found, reason)
    hosted.meta["call"] = to_meta((args, kwargs))
    return hosted


def _traced_parts(
    module: nn.Module, name: str, calls: _Calls, leaves: Sequence[str]
) -> Iterator[tuple[str, fx.GraphModule]]:
    """Find the largest submodules that can be traced on their own."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if path in leaves or next(child.parameters(), None) is None:
            continue
        part = _traced_part(child, path, calls, leaves)
        if part is not None:
            yield path, part
        else:
            yield from _traced_parts(child, path, calls, leaves)


def _traced_part(
    module: nn.Module, path: str, calls: _Calls, leaves: Sequence[str]
) -> fx.GraphModule | None:
    own_code = not type(module).__module__.startswith("torch.nn.modules")
    if path not in calls.first or not (own_code or isinstance(module, nn.Sequential)):
        return None
    if not calls.is_uniform(path):
        return None
    try:
        return _recorded(module, path, calls.first[path], leaves)
    except TraceError:
        return None


def _recorded(module: nn.Module, path: str, call: Any, leaves: Sequence[str]) -> fx.GraphModule:
    inside = [leaf.removeprefix(f"{path}.") for leaf in leaves if leaf.startswith(f"{path}.")]
    args, kwargs = call
    part = record(module, args, kwargs, inside)
    named = flat_arguments(inspect.signature(module.forward).bind(*args, **kwargs))
    part.meta["layout"] = {name: layout(value) for name, value in named}
    return part


def host_again(
    model: nn.Module, calls: Mapping[str, tuple[Any, Any]], leaves: Sequence[str]
) -> HostedModule:
    """Trace the same submodules of another instance of a model.

    Args:
        model: The instance; it is not run, and nothing in it changes.
        calls: What each region is called with, by position and by name: `meta["calls"]`.
        leaves: Submodules to keep as one opaque node each.

    Raises:
        TraceError: One of them cannot be traced.
    """
    modules = modules_of(model)
    missing = next((name for name in calls if name not in modules), None)
    if missing is not None:
        raise TraceError(f"the model has no submodule `{missing}`")
    parts = {name: _recorded(modules[name], name, call, leaves) for name, call in calls.items()}
    return _joined(model, parts, "its forward is its own")


def _joined(model: nn.Module, parts: dict[str, fx.GraphModule], reason: str) -> HostedModule:
    """Write the graphs of all parts into one, one after the other."""
    graph = fx.Graph()
    results: dict[str, Any] = {}
    regions: dict[str, Any] = {}
    opaque = {"": reason}
    unfollowed: list[str] = []
    for name, part in parts.items():
        known: dict[fx.Node, fx.Node] = {}
        for node in part.graph.nodes:
            if node.op == "output":
                results[name] = map_arg(node.args[0], known.__getitem__)
                continue
            known[node] = graph.node_copy(node, known.__getitem__)
            known[node].target = _target(node, name)
        inputs = [str(node.target) for node in part.graph.nodes if node.op == "placeholder"]
        regions[name] = {
            "inputs": [input_name(name, target) for target in inputs],
            "layout": {input_name(name, key): text for key, text in part.meta["layout"].items()},
        }
        unfollowed += [f"{name}.{part_name}" for part_name in part.meta["unfollowed"]]
        opaque |= {f"{name}.{leaf}": why for leaf, why in part.meta["leaves"].items()}
    output = graph.output(results)
    output.meta.update(val=map_arg(results, lambda node: node.meta["val"]), source="")
    calls = {name: part.meta["calls"][""] for name, part in parts.items()}
    meta = {"rung": 2, "leaves": opaque, "regions": regions, "unfollowed": unfollowed}
    meta["calls"] = calls
    return _built(model, parts, graph, meta)


def _target(node: fx.Node, region: str) -> Any:
    if node.op in ("call_module", "get_attr"):
        return f"{region}.{node.target}"
    return input_name(region, str(node.target)) if node.op == "placeholder" else node.target


def _built(
    model: nn.Module, parts: dict[str, fx.GraphModule], graph: fx.Graph, meta: dict[str, Any]
) -> HostedModule:
    hosted = HostedModule(nn.Module(), fx.Graph(), type(model).__name__)
    twin = shallow(model)
    state = {name: value for name, value in vars(twin).items() if name not in _STORES}
    vars(hosted).update({store: vars(twin)[store] for store in _STORES}, host=(type(model), state))
    modules = modules_of(hosted)
    for name, part in parts.items():
        for inner, module in part.named_modules():  # hooks and masks that the graph contains
            if inner and f"{name}.{inner}" not in modules:
                _add(hosted, f"{name}.{inner}", module)
                continue
            target = modules[f"{name}.{inner}" if inner else name]
            if inner and type(target) is type(module):
                vars(target).update(vars(module))
    for name in dict.fromkeys(str(n.target) for n in graph.nodes if n.op == "get_attr"):
        _adopt(hosted, name, parts)
    hosted.meta.update(meta)
    hosted.graph = graph
    return hosted


def _add(hosted: nn.Module, name: str, module: nn.Module) -> None:
    """Take over a module that only the traced part has."""
    owner, _, attribute = name.rpartition(".")
    hosted.get_submodule(owner)._modules[attribute] = module


def _adopt(hosted: nn.Module, name: str, parts: dict[str, fx.GraphModule]) -> None:
    """Take over a constant that the forward of a part made."""
    region = next(region for region in parts if name.startswith(f"{region}."))
    owner, _, attribute = name.removeprefix(f"{region}.").rpartition(".")
    value = getattr(parts[region].get_submodule(owner), attribute)
    target = hosted.get_submodule(f"{region}.{owner}" if owner else region)
    if not hasattr(target, attribute):
        target.register_buffer(attribute, value, persistent=False)
