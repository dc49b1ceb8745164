"""Tracing: an nn.Module and example inputs in, a torch.fx.GraphModule with shapes out.

The proxies carry values without data, so Python that looks at shapes (`if x.shape[2] > 4`, `len`,
`range`, `int`, unpacking) runs as usual while sizes stay symbolic in the graph that is emitted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from slimgraph.cloning import clone
from slimgraph.collecting import collector_paused
from slimgraph.errors import TraceError
from slimgraph.hosted import HostedModule, host_again
from slimgraph.ladder import adopt, climb, module_of
from slimgraph.shapes import modules_of, place, propagate
from slimgraph.structures import leaves as leaves_of

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]


@collector_paused()
def trace(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs,
    *,
    leaves: Sequence[str] = (),
    fallback: bool = True,
) -> fx.GraphModule:
    """Trace a model in eval mode.

    Args:
        model: Any module, or what `torch.export.export` returns; its weights are shared, not
            copied, and nothing in it changes.
        example_inputs: A tensor, a tuple of positional arguments, or a dict of keyword
            arguments. Only shapes and dtypes matter; the batch size stays free.
        leaves: Names of submodules to keep as one opaque node each.
        fallback: What to do with what cannot be traced. `True`: a submodule becomes an opaque
            node, with a warning; a model keeps its own forward, in which the submodules that can
            be traced are replaced; what is left goes through `torch.export`. `False`: raise.

    Returns:
        A GraphModule with the model's module names and state-dict keys. Every node has
        `meta["val"]` (a meta tensor or a plain value) and `meta["source"]` ("file.py:93").
        Its own `meta["rung"]` says how it came about: 1 by its own Python, 2 with parts that
        stay opaque (`meta["leaves"]` says which and why), 3 by `torch.export`. On rungs 1 and 2 it
        follows `train()` and `eval()`: dropout, norms and stochastic depth act in training.
        `meta["unfollowed"]` names modules that compute something of another form in training,
        which the graph does not.

    Raises:
        TraceError: The forward raises, or branches on the data of a tensor.
    """
    args, kwargs = _split(example_inputs)
    _check_inputs((args, kwargs))
    if isinstance(model, ExportedProgram):
        model = module_of(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            "a scripted model holds no Python that could be followed",
            hint="trace the nn.Module that it was made from; scripted parts of one stay opaque",
        )
    if isinstance(model, HostedModule):
        traced = clone(model)  # its shapes are those of the calls inside
    elif isinstance(model, fx.GraphModule):
        traced = adopt(model, args, kwargs)
    else:
        _check_names(model)
        traced = climb(model, args, kwargs, leaves, fallback=fallback)
    modes = {name: module.training for name, module in modules_of(model).items()}
    for name, module in modules_of(traced).items():
        if name not in modes:  # only the traced model has it
            modes[name] = modes[name.rpartition(".")[0]]
        module.training = modes[name]
    traced.meta.setdefault("rung", 1)
    traced.meta.setdefault("leaves", {})
    if isinstance(model, fx.GraphModule) and vars(model).get("plan") is not None:
        vars(traced)["plan"] = vars(model)["plan"]
    return traced


def _check_names(model: nn.Module) -> None:
    """Refuse what a GraphModule could not hold under its name."""
    held = {**model._modules, **model._parameters, **model._buffers}
    taken = next((name for name in ("code", "graph", "meta", "plan") if name in held), None)
    if taken is not None:
        raise TraceError(
            f"the model has a part called `{taken}`, as a GraphModule calls something of its own",
            hint="give this attribute of the model another name",
        )


def ensure_traced(
    graph_module: nn.Module, example_inputs: ExampleInputs | None = None
) -> fx.GraphModule:
    """Accept what `trace` made as it is; give any other GraphModule its shapes.

    Args:
        graph_module: From `trace`, `torch.fx.symbolic_trace` or `torch.export`.
        example_inputs: Needed when the nodes have no shapes yet.

    Raises:
        TraceError: No shapes and no example inputs, or not a GraphModule.
    """
    if not isinstance(graph_module, fx.GraphModule):
        raise TraceError(
            f"expected a traced model, not `{type(graph_module).__name__}`",
            hint="call `slimgraph.trace(model, example_inputs)` first",
        )
    if example_inputs is not None:
        return trace(graph_module, example_inputs)
    missing = next((node for node in graph_module.graph.nodes if "val" not in node.meta), None)
    if missing is not None:
        raise TraceError(
            "the traced model has no shapes",
            place(missing),
            "give `example_inputs=`, or use `slimgraph.trace` instead of `symbolic_trace`",
        )
    return graph_module


def retrace(
    model: nn.Module, calls: Mapping[str, tuple[Any, Any]], leaves: Sequence[str] = ()
) -> fx.GraphModule:
    """Trace a model as another instance of it was traced, without data and without fallbacks.

    Args:
        model: Any module; nothing in it changes.
        calls: What it is called with, by position and by name: `meta["calls"]` of the other.
        leaves: Submodules to keep as one opaque node each.

    Raises:
        TraceError: It cannot be traced that way.
    """
    if isinstance(model, HostedModule):
        traced = clone(model)
        inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
        propagate(traced, *(node.meta["val"] for node in inputs))
        return traced
    if "" not in calls:
        return host_again(model, calls, leaves)
    args, kwargs = calls[""]
    if isinstance(model, fx.GraphModule):
        return adopt(model, args, kwargs)
    return climb(model, args, kwargs, leaves, fallback=False)


def _split(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return tuple(example_inputs), {}
    raise TraceError(
        f"example inputs must be a tensor, a tuple or a dict, not `{type(example_inputs).__name__}`"
    )


def _check_inputs(inputs: Any) -> None:
    for leaf in leaves_of(inputs):
        if isinstance(leaf, Tensor) and leaf.numel() == 0:
            raise TraceError(
                f"an example input of shape {tuple(leaf.shape)} has no elements",
                hint="give a batch of at least one",
            )
        if isinstance(leaf, Tensor) and leaf.is_complex():
            raise TraceError(
                f"an example input has complex dtype {leaf.dtype}",
                hint="split it into real and imaginary channels, as `torch.view_as_real` does",
            )
