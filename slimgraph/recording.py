"""Rungs 1 and 2: a model recorded by its own Python, with what resists as opaque leaves."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import fx, nn
from torch.nn.utils.prune import BasePruningMethod

from slimgraph.cloning import assemble, used_by
from slimgraph.errors import SlimgraphError, TraceError
from slimgraph.functions import recorded_functions
from slimgraph.optimizers import PRUNED_FROM
from slimgraph.patches import traceable, untouched
from slimgraph.proxies import ValueTracer
from slimgraph.shapes import modules_of, to_meta, without_hooks
from slimgraph.shuffles import join_shuffles
from slimgraph.sources import raised_at
from slimgraph.structures import holds_tensor


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: Sequence[str] = (),
    *,
    fallback: bool = True,
) -> fx.GraphModule:
    """Trace a model in eval mode.

    Args:
        model: Any module; its tensors are shared with the result, and nothing in it changes.
        args: Example inputs by position.
        kwargs: Example inputs by name.
        leaves: Names of submodules to keep as one opaque node each.
        fallback: Whether a submodule that cannot be traced becomes such a node.

    Returns:
        A GraphModule; `meta["leaves"]` says why each opaque node is one.

    Raises:
        TraceError: The model's own forward cannot be traced.
    """
    tracer = ValueTracer(model, args, kwargs, leaves, fallback=fallback)
    try:
        modules = tracer.run.modules
        with untouched(modules), traceable(modules), recorded_functions():
            tracer.modes.raise_flags(modules)
            graph = tracer.trace(model)
            graph.eliminate_dead_code(lambda node: "optional" not in node.meta)
            join_shuffles(graph)
            _prune(graph)
            for node in graph.nodes:
                node.meta.pop("is_wrapped", None)  # fx would wrap `torch.zeros` ever after
            used = used_by(graph, model, modules)
        traced = assemble(used, graph, model)
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
    traced.meta["rung"] = 2 if tracer.opaque else 1
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    named = dict.fromkeys(leaves, "it is named in `leaves`")
    traced.meta["calls"] = {"": to_meta((args, kwargs))}
    traced.meta["unfollowed"] = sorted(tracer.modes.unfollowed)
    traced.meta["leaves"] = {k: v for k, v in (named | tracer.opaque).items() if k in called}
    for name in tracer.bare:
        without_hooks(traced.get_submodule(name))
    for module in modules_of(traced).values():
        _settle_pruning(module)
    return traced


def _prune(graph: fx.Graph) -> None:
    """Remove sizes and facts that only the model's Python has looked at."""
    for node in reversed(list(graph.nodes)):
        value = node.meta.get("val")
        plain = value is not None and not holds_tensor(value)
        if plain and not node.users and node.op in ("call_function", "call_method"):
            graph.erase_node(node)


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
