"""The tracing ladder: what cannot be traced one way is traced the next."""

import inspect
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_unflatten

from slimgraph.errors import TraceError
from slimgraph.hosted import host
from slimgraph.patches import untouched
from slimgraph.proxies import why
from slimgraph.recording import record
from slimgraph.shapes import modules_of, propagate, shallow, tensors_of, to_meta
from slimgraph.shuffles import join_shuffles
from slimgraph.sources import source_of_text


def climb(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: Sequence[str],
    *,
    fallback: bool,
) -> fx.GraphModule:
    """Trace a model on the lowest rung that bears it.

    1. Its own Python, on proxies.
    2. The same, with the submodules that resist as opaque nodes; or, where the model's own
       forward resists, with that forward as it is and the submodules traced one by one.
    3. `torch.export`, which may fix sizes.

    Args:
        model: Any module.
        args: Example inputs by position.
        kwargs: Example inputs by name.
        leaves: Names of submodules to keep as one opaque node each.
        fallback: Whether to try more than the first rung.

    Raises:
        TraceError: No rung bears it; says what stopped the first.
    """
    try:
        traced = record(model, args, kwargs, leaves, fallback=fallback)
    except TraceError as error:
        made = _higher(model, args, kwargs, leaves, error) if fallback else None
        if made is None:
            raise
        traced = made
    for name, reason in traced.meta["leaves"].items():
        if name not in leaves:
            part = f"`{name}`" if name else f"the forward of `{type(model).__name__}`"
            warnings.warn(f"{part} cannot be traced and stays opaque: {reason}", stacklevel=5)
    return traced


def _higher(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: Sequence[str],
    error: TraceError,
) -> fx.GraphModule | None:
    if any(tensor.is_meta for tensor in tensors_of(model)):
        return None  # the next rungs run it
    hosted = host(model, args, kwargs, leaves, why(error))
    return hosted or _exported(model, args, kwargs)


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> fx.GraphModule | None:
    """Let torch.export trace a model that takes plain tensors; only first dims stay free."""
    if not all(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return None
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch.export logs every failure at length
    try:
        with untouched(modules_of(model)), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            program = torch.export.export(
                model, args, kwargs, dynamic_shapes=_first_dims(model, args, kwargs), strict=False
            )
            if any(_is_transform(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
        result = adopt(module_of(program), args, kwargs)
    except Exception:  # the first rung's error says more about the model
        return None
    finally:
        logging.disable(before)
    result.meta.update(rung=3, leaves={})
    return result


def _first_dims(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave the first dim of each input to torch: the batch size stays free where it can."""
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments

    def free(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(free, value))
        if isinstance(value, dict):
            return {key: free(item) for key, item in value.items()}
        return {0: Dim.AUTO} if value.ndim and value.shape[0] > 1 else None

    return {name: free(value) for name, value in given.items()}


def _is_transform(node: fx.Node) -> bool:
    """Return whether a node belongs to `torch.func`, which decompositions do away with."""
    return str(getattr(node.target, "__module__", "")).startswith("torch._functorch")


def module_of(program: ExportedProgram) -> fx.GraphModule:
    """Return the graph module of an exported program, without checks of its inputs."""
    module: Any = program.module
    found = (
        module(check_guards=False)
        if "check_guards" in inspect.signature(module).parameters
        else module()
    )
    found.meta.update(rung=3, leaves={})
    return found  # type: ignore[no-any-return]


def adopt(model: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    """Give a copy of somebody else's graph module its shapes.

    Args:
        model: From `torch.fx.symbolic_trace`, `torch.export` or slimgraph itself.
        args: Example inputs by position.
        kwargs: Example inputs by name.

    Raises:
        TraceError: The inputs do not fit.
    """
    traced = fx.GraphModule(shallow(model), _copy(model.graph), type(model).__name__)
    calls = [node.target for node in traced.graph.nodes]
    traced.meta["rung"] = 3 if any(isinstance(c, torch._ops.OpOverload) for c in calls) else 1
    traced.meta.update({k: v for k, v in model.meta.items() if k in ("rung", "leaves")})
    traced.meta["calls"] = {"": to_meta((args, kwargs))}
    _restore_output(traced.graph, model.graph)
    traced.recompile()
    propagate(traced, *_positional(model, args, kwargs))
    if join_shuffles(traced.graph):
        traced.recompile()
    return traced


def _restore_output(graph: fx.Graph, exported: fx.Graph) -> None:
    """Return what the exported model returned: torch.export keeps a flat list and a structure."""
    spec = getattr(getattr(vars(exported)["_codegen"], "pytree_info", None), "out_spec", None)
    if spec is not None:
        (output,) = graph.find_nodes(op="output")
        output.args = (tree_unflatten(list(output.args[0]), spec),)


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for old, new in zip(graph.nodes, copy.nodes, strict=True):
        new.meta = dict(old.meta)
        if "source" not in new.meta and old.meta.get("stack_trace"):
            new.meta["source"] = source_of_text(old.meta["stack_trace"])
    return copy


def _positional(model: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
    names = [node.target for node in inputs]
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        raise TraceError(f"the model has no input `{unknown[0]}`", hint=f"its inputs are {names}")
    values = list(args)
    for node in inputs[len(args) :]:
        if node.target not in kwargs and not node.args:
            break  # `propagate` says what is missing
        values.append(kwargs[str(node.target)] if node.target in kwargs else node.args[0])
    return values
