"""Tracing: an nn.Module and example inputs in, a torch.fx.GraphModule with shapes out.

The proxies carry values without data, so Python that looks at shapes (`if x.shape[2] > 4`, `len`,
`range`, `int`, unpacking) runs as usual while sizes stay symbolic in the graph that is emitted.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.utils._pytree import tree_leaves

from slimgraph.errors import SlimgraphError, TraceError
from slimgraph.functions import recorded_functions
from slimgraph.optimizers import PRUNED_FROM
from slimgraph.proxies import ValueTracer, raised_at
from slimgraph.shapes import place, propagate, shallow

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]


def trace(
    model: nn.Module, example_inputs: ExampleInputs, *, leaves: Sequence[str] = ()
) -> fx.GraphModule:
    """Trace a model in eval mode.

    Args:
        model: Any module; its weights are shared, not copied, and nothing in it changes.
        example_inputs: A tensor, a tuple of positional arguments, or a dict of keyword
            arguments. Only shapes and dtypes matter; the batch size stays free.
        leaves: Names of submodules to keep as one opaque node each.

    Returns:
        A GraphModule with the model's module names and state-dict keys. Every node has
        `meta["val"]` (a meta tensor or a plain value) and `meta["source"]` ("file.py:93").

    Raises:
        TraceError: The forward raises, or branches on the data of a tensor.
    """
    args, kwargs = _split(example_inputs)
    _check_inputs((args, kwargs))
    if isinstance(model, fx.GraphModule):
        traced = fx.GraphModule(shallow(model), _copy(model.graph), type(model).__name__)
        propagate(traced, *_positional(model, args, kwargs))
    else:
        traced = _trace(model, args, kwargs, leaves)
    modes = {name: m.training for name, m in model.named_modules(remove_duplicate=False)}
    for name, module in traced.named_modules():
        module.training = modes.get(name, model.training)  # some only the traced model has
    if getattr(model, "plan", None) is not None:
        vars(traced)["plan"] = model.plan
    return traced


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
    for leaf in tree_leaves(inputs):
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


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for old, new in zip(graph.nodes, copy.nodes, strict=True):
        new.meta = dict(old.meta)
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


def _trace(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[str]
) -> fx.GraphModule:
    tracer = ValueTracer(model, args, kwargs, leaves)
    try:
        with _untouched(model), recorded_functions():
            graph = tracer.trace(model)
            graph.eliminate_dead_code(lambda node: "optional" not in node.meta)
            for node in graph.nodes:
                node.meta.pop("is_wrapped", None)  # fx would wrap `torch.zeros` ever after
            traced = fx.GraphModule(model, graph, type(model).__name__)
            traced._tracer_cls = None  # unpickling would call it without its arguments
    except SlimgraphError:
        raise
    except Exception as error:
        raise TraceError(
            f"the model cannot be traced: {type(error).__name__}: {error}",
            raised_at(error),
            "make the part that fails a leaf with `leaves=[...]`",
        ) from error
    for node in traced.graph.nodes:
        if node.op == "output":
            node.meta.update(val=tracer.run(node), source="")
    return _own_modules(traced)


def _own_modules(traced: fx.GraphModule) -> fx.GraphModule:
    """Give the traced model its own module objects; the tensors stay the user's."""
    for name, child in list(traced.named_children()):
        setattr(traced, name, shallow(child))
    for module in list(traced.modules()):
        _settle_pruning(module)
    return traced


def _settle_pruning(module: nn.Module) -> None:
    """Make `torch.nn.utils.prune`'s masks permanent: a product of two tensors becomes one."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if not isinstance(hook, BasePruningMethod):
            continue
        name = hook._tensor_name
        original, mask = module._parameters.pop(f"{name}_orig"), module._buffers.pop(f"{name}_mask")
        assert original is not None, "the hook computes from this parameter"
        assert mask is not None, "the hook computes from this mask"
        pruned = original.detach() * mask
        module._forward_pre_hooks = OrderedDict(module._forward_pre_hooks)
        del module._forward_pre_hooks[key]
        module.__dict__.pop(name, None)
        made = nn.Parameter(pruned, requires_grad=original.requires_grad)
        setattr(made, PRUNED_FROM, original)  # the one that an optimizer holds
        module._parameters[name] = made


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and take back that and whatever fx stores in it."""
    modes = [(module, module.training) for module in model.modules()]
    own = set(vars(model))
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
        for name in set(vars(model)) - own:  # constants that forward makes
            delattr(model, name)
