"""Copies of graph modules that share weights, and fingerprints that tell whether one changed."""

import copy
import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils._pytree import tree_map

from slimgraph.shapes import attribute, modules_of, shallow


def clone(graph_module: GraphModule, graph: Graph | None = None) -> GraphModule:
    """Copy a graph module but share its tensors.

    Node names and meta, module names, training flags, `graph_module.meta`, further attributes
    (such as a plan) and the hooks of submodules stay. Setting an attribute on the copy or on any
    of its modules leaves the original alone.

    Args:
        graph_module: The original.
        graph: What the copy runs, and owns from then on; `None` copies the original's graph.
    """
    kind = getattr(graph_module, "clones_as", _LazyGraphModule)
    copied: GraphModule = kind(nn.Module(), Graph(), type(graph_module).__name__)
    fresh = vars(copied)
    for name, value in vars(graph_module).items():
        # A bound method (torch.export installs some) would act on the original.
        if name not in fresh and getattr(value, "__self__", None) is not graph_module:
            fresh[name] = value
    held = vars(graph_module)
    for store in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        fresh[store] = held[store].copy()
    memo: dict[int, nn.Module] = {id(graph_module): copied}
    fresh["_modules"] = {
        name: None if child is None else shallow(child, memo=memo)
        for name, child in held["_modules"].items()
    }
    copied.training = graph_module.training
    copied.meta = dict(graph_module.meta)
    copied.graph = copy.deepcopy(graph_module.graph) if graph is None else graph
    return copied


def used_by(
    graph: Graph, model: nn.Module, modules: Mapping[str, nn.Module] | None = None
) -> dict[str, Any]:
    """Look up what a graph names of a model: modules, parameters, buffers and constants.

    Args:
        graph: It names them.
        model: It has them.
        modules: What `modules_of` says of it, if that is known.
    """
    modules = modules_of(model) if modules is None else modules
    found: dict[str, Any] = {}
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "get_attr":
            found.setdefault(name, attribute(model, name))
        elif node.op == "call_module":
            found[name] = modules[name]
    return found


def assemble(used: Mapping[str, Any], graph: Graph, model: nn.Module) -> GraphModule:
    """Make a graph module with copies of the module objects that it calls; it shares tensors.

    Its code is compiled when it first runs, which a traced model need not ever do.

    Args:
        used: What the graph names.
        graph: What the graph module runs, and owns from then on.
        model: What was traced.
    """
    made = _LazyGraphModule(nn.Module(), Graph(), type(model).__name__)
    memo: dict[int, nn.Module] = {}
    for target, value in used.items():
        owner, last = _holder(made, target)
        if isinstance(value, nn.Module):  # unless it came along with one that holds it
            if not isinstance(vars(owner)["_modules"].get(last), type(value)):
                vars(owner)["_modules"][last] = shallow(value, memo=memo)
        elif getattr(owner, last, None) is value:
            continue  # it came along with its module
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            source = vars(model.get_submodule(target.rpartition(".")[0]))
            kept = last in source["_buffers"].keys() - source["_non_persistent_buffers_set"]
            owner.register_buffer(last, value, persistent=kept)
        else:
            setattr(owner, last, value)
    made.graph = graph
    return made


def compiled(graph_module: GraphModule) -> GraphModule:
    """Compile the code of a graph module now, if it is to run, and return it."""
    _LazyGraphModule.force_recompile(graph_module)
    return graph_module


def _holder(root: nn.Module, target: str) -> tuple[nn.Module, str]:
    """Return the module that holds a dotted name, made where it is missing, and the last part."""
    *path, last = target.split(".")
    for name in path:
        held = vars(root)["_modules"]
        if held.get(name) is None:
            held[name] = nn.Module()
        root = held[name]
    return root, last


def isolated(graph_module: GraphModule) -> GraphModule:
    """Clone with buffers of its own, so that running it leaves the original's state alone."""
    copied = clone(graph_module)
    twins: dict[int, Tensor] = {}
    for module in copied.modules():
        held = vars(module).get("_buffers", {})  # a scripted module keeps its own
        for name, buffer in held.items():
            if buffer is not None:
                held[name] = twins.setdefault(id(buffer), buffer.clone())
    return copied


def has_hooks(module: nn.Module) -> bool:
    """Return whether calling a module runs more code than its forward."""
    held = vars(module)
    return bool(held.get("_forward_hooks") or held.get("_forward_pre_hooks"))


def run_isolated(graph_module: GraphModule, inputs: tuple[Any, ...]) -> Any:
    """Run a module without gradients; module, inputs and random state stay as they are."""
    twin = isolated(graph_module)
    own = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return twin(*own)


def fingerprint(graph_module: GraphModule) -> dict[str, Any]:
    """Describe all a pass may change: the graph's text, the modules' settings and every tensor.

    Returns:
        Values that compare equal as long as nothing changed, by the name of what they describe.
    """
    parts: dict[str, Any] = {"the graph": str(graph_module.graph)}
    for name, module in graph_module.named_modules(remove_duplicate=False):
        parts[f"module `{name}`"] = (type(module).__name__, _settings(module))
    parameters = graph_module.named_parameters(remove_duplicate=False)
    buffers = graph_module.named_buffers(remove_duplicate=False)
    for name, tensor in itertools.chain(parameters, buffers):
        parts[f"`{name}`"] = _tensor_print(tensor)
    return parts


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Name the first thing in which two fingerprints differ, or return `None`."""
    names = dict.fromkeys([*one, *other])
    return next((n for n in names if n not in one or n not in other or one[n] != other[n]), None)


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return what a module was configured with, such as `groups` or `training`."""
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain)
        or (isinstance(value, tuple) and all(isinstance(item, plain) for item in value))
        if not name.startswith("_")
    }


def _tensor_print(tensor: Tensor) -> tuple[Any, ...]:
    """Identify a tensor and its content: writes through `.data` leave the version as it is."""
    version = None if tensor.is_inference() else tensor._version  # noqa: SLF001 - no public way
    content = 0
    if tensor.device.type != "meta":
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content = zlib.crc32(flat.numpy().data)
    return (id(tensor), version, tuple(tensor.shape), content)
