"""Compress: a traced model and a mask in, a smaller model that computes the same out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.optim import Optimizer

from slimgraph.analysis import analyze
from slimgraph.calls import calls_of
from slimgraph.cloning import compiled
from slimgraph.collecting import collector_paused
from slimgraph.effects import Effect
from slimgraph.errors import PostconditionError
from slimgraph.graph import DependencyGraph
from slimgraph.keeping import Semantics, check_semantics, effects_of_mask
from slimgraph.kept import KeptChannels
from slimgraph.labels import Value, compact, restride
from slimgraph.mask import keep_channels
from slimgraph.opaque import is_opaque
from slimgraph.ops.selection import selections_of
from slimgraph.optimizers import follow, take_in
from slimgraph.pass_manager import Pipeline, clone
from slimgraph.passes.fold_constants import FoldConstants
from slimgraph.passes.resize_literals import ResizeLiterals
from slimgraph.passes.slice_parameters import SliceParameters
from slimgraph.plan import Plan, like, put_all
from slimgraph.rules import POSITIONS, RuleTable
from slimgraph.shapes import device_of, modules_of, names_of, place, propagate, stored_tensors
from slimgraph.slicing import Kept
from slimgraph.tracing import ExampleInputs, ensure_traced
from slimgraph.zeroing import switched_off

Observer = Callable[[str, fx.GraphModule, fx.GraphModule], None]


@collector_paused()
def compress(
    traced: fx.GraphModule | DependencyGraph,
    mask: Mapping[str, Any],
    *,
    constants: Semantics = "zero",
    example_inputs: ExampleInputs | None = None,
    observer: Observer | None = None,
    optimizer: Optimizer | None = None,
    repack: bool = False,
) -> fx.GraphModule:
    """Make the smaller model that computes what the masked one computes.

    Args:
        traced: From `slimgraph.trace`, or from `torch.fx.symbolic_trace` with `example_inputs`,
            or its graph from `slimgraph.analyze`, which need not be made again. It is not
            changed.
        mask: `slimgraph.Mask`, or a dict from group or module name to a bool tensor over its
            channels, True = keep.
        constants: What a removed channel counts as: "zero", or, with "keep", the constant that it
            is once its scale is zero and its shift is what it was; see `masked`.
        example_inputs: For a graph module that has no shapes yet.
        observer: Called after each pass with its name and the graph before and after.
        optimizer: Of the model before: it moves to the smaller one with its state sliced, so
            that training goes on where it was. It is the one argument that changes.
        repack: Let ops that mix neighbouring channels (ECA's convolution over channels,
            LocalResponseNorm) run on those that are left, next to each other, instead of in their
            old places with zeros between them. Faster, not exact, and warned about.

    Returns:
        A new GraphModule that shares no tensor with `traced`, with its `.plan`. Names, state-dict
        keys, `requires_grad`, train and eval mode and hooks of torch.nn modules stay, and the
        batch size stays free. Hooks of tensors stay with the old ones.

    Raises:
        MaskError: No smaller model does what this mask asks; the message says why.
        PlanError: The optimizer is of another model, or has state that cannot be sliced.
        TraceError: There are no shapes.
    """
    check_semantics(constants)
    graph = _analyzed(traced, example_inputs)
    kept = KeptChannels(graph, keep_channels(graph, mask))
    effects = effects_of_mask(kept, constants)
    return shrink(graph, kept, observer, effects, optimizer, repack=repack)


def _analyzed(
    traced: fx.GraphModule | DependencyGraph, example_inputs: ExampleInputs | None
) -> DependencyGraph:
    if isinstance(traced, DependencyGraph):
        return traced
    return analyze(ensure_traced(traced, example_inputs))


def shrink(
    graph: DependencyGraph,
    kept: KeptChannels,
    observer: Observer | None = None,
    effects: tuple[Effect, ...] = (),
    optimizer: Optimizer | None = None,
    *,
    repack: bool = False,
) -> fx.GraphModule:
    """Run the passes for a decision that is already checked."""
    plan = make_plan(graph, kept)
    fold = FoldConstants(effects)
    steps = (ResizeLiterals(kept, graph.rules, repack), SliceParameters(plan), fold)
    pipeline = Pipeline(steps if effects else steps[:2], observer=observer)
    slim = pipeline.run(graph.traced)
    inputs = [node for node in graph.traced.graph.nodes if node.op == "placeholder"]
    propagate(slim, *(node.meta["val"] for node in inputs))
    _check_shapes(slim, kept)
    plan = replace(plan, options=_changed_options(kept, slim), calls=calls_of(slim))
    plan = replace(plan, **fold.recorded(slim)) if effects else plan
    earlier = getattr(graph.traced, "plan", None)
    vars(slim)["plan"] = plan if earlier is None else earlier.then(plan)
    if optimizer is not None:
        follow(optimizer, stored_tensors(graph.traced), stored_tensors(slim), plan.kept)()
        take_in(optimizer, fold.added(graph.traced, slim))
    return compiled(slim)


def _changed_options(kept: KeptChannels, slim: fx.GraphModule) -> dict[str, dict[str, Any]]:
    """Collect the settings of modules that differ from before, such as the groups left."""
    after = modules_of(slim)
    changed: dict[str, dict[str, Any]] = {}
    for name, before in kept.modules.items():
        form = kept.graph.rules.form_of(before)
        for option in form.options if form is not None else ():
            value = getattr(after[name], option)
            if value != getattr(before, option):
                changed.setdefault(name, {})[option] = value
    return changed


def _check_shapes(slim: fx.GraphModule, kept: KeptChannels) -> None:
    """Compare every value's shape with what the labels say is left."""
    before = {node.name: node for node in kept.graph.traced.graph.nodes}
    for node in slim.graph.nodes:
        twin = before.get(node.name)
        value = None if twin is None else kept.graph.values[twin]
        if twin is None or not isinstance(value, Value) or 0 in value.shape:
            continue  # no label lies on an empty value
        expected, found = kept.shape(twin), tuple(node.meta["val"].shape)
        if found != expected:
            raise PostconditionError(
                f"the compressed model computes shape {found} where {expected} is left",
                place(node),
                "please report this model; freeze the channels of this node until then",
            )


def make_plan(graph: DependencyGraph, kept: KeptChannels) -> Plan:
    """Write down what is kept of every parameter and buffer."""
    stored = kept.stored
    names = names_of(stored)  # a tied weight is kept under all its names
    padded: dict[str, Kept] = {}
    for name, entries in kept.parameters():
        for alias in names[id(stored[name])] if name in stored else ():
            padded[alias] = (*entries, *[None] * (stored[name].ndim - len(entries)))
    inputs = [node for node in graph.traced.graph.nodes if node.op == "placeholder"]
    named = {str(node.target): node.meta["val"] for node in inputs}
    examples = graph.traced.meta.get("calls", {"": ((), named)})
    indices = {node.name + POSITIONS for node in graph.traced.graph.nodes}  # no weights
    sizes = {name: tuple(tensor.shape) for name, tensor in stored.items() if name not in indices}
    modules, opaque = kept.modules, graph.traced.meta.get("leaves", {})
    targets = (str(node.target) for node in graph.traced.graph.nodes if node.op == "call_module")
    called = (name for name in targets if name in opaque or is_opaque(modules[name]))
    return Plan(
        padded,
        sizes,
        examples=examples,
        leaves=tuple(dict.fromkeys(called)),
        selections=tuple(selections_of(kept, graph.traced.graph)),
    )


def masked(
    traced: fx.GraphModule | DependencyGraph,
    mask: Mapping[str, Any],
    *,
    constants: Semantics = "zero",
    example_inputs: ExampleInputs | None = None,
) -> fx.GraphModule:
    """Make the reference: all sizes as before, removed channels ignored by every consumer.

    Each op that consumes channels (a convolution, a linear layer, a sum over channels) reads
    zero in the place of a removed one, a maximum -inf; a normalisation over channels (LayerNorm,
    GroupNorm) takes its statistics over the kept ones, see `slimgraph.ops.over_kept`.

    Args:
        traced: As for `compress`.
        mask: As for `compress`.
        constants: With "keep", nothing is ignored; instead the last scale of each removed channel
            (of the BatchNorm that alone reads its convolution or linear layer, else of that
            layer's weight) is zero, while its shift stays.
        example_inputs: As for `compress`.

    Returns:
        A GraphModule that shares its tensors with `traced`, but for weights that read channels
        inside of a module, as recurrent layers do.

    Raises:
        MaskError: As for `compress`.
    """
    check_semantics(constants)
    graph = _analyzed(traced, example_inputs)
    kept = KeptChannels(graph, keep_channels(graph, mask))
    if constants == "keep":
        return switched_off(kept)
    result = clone(graph.traced)
    twins = {node.name: node for node in result.graph.nodes}
    ignored: dict[tuple[fx.Node, fx.Node], fx.Node] = {}  # what a node reads in place of a value
    for index, read in enumerate(graph.ledger.reads):
        if kept.is_whole(read.value):
            continue
        if read.value.parameter is not None:
            _read_zeros(result, read.value.parameter, _removed(kept, read.value))
            continue
        name = f"removed_{index}"
        removed = _removed(kept, read.value).to(device_of(graph.traced))
        result.register_buffer(name, removed, persistent=False)
        node = twins[read.node.name]
        assert read.value.node is not None, "a computed value has a node"
        key = read.node, read.value.node
        source = ignored.get(key, twins[read.value.node.name])
        twins[node.name], ignored[key] = _ignore(result, node, source, name, read.fill, graph.rules)
    result.recompile()
    return result


def _read_zeros(result: fx.GraphModule, weight: str, removed: Tensor) -> None:
    """Let a weight inside of a module read zeros: a copy takes its place."""
    stored = stored_tensors(result)
    old = stored[weight]
    new = like(old, old.detach().masked_fill(removed.to(old.device), 0))
    put_all(modules_of(result), dict.fromkeys(names_of(stored)[id(old)], new))


def _removed(kept: KeptChannels, value: Value) -> Tensor:
    """Mark removed positions; dims along which they do not differ have size 1."""
    removed = torch.zeros((), dtype=torch.bool)
    for layer in value.layers:
        removed = removed | ~kept.alive(compact(layer))
    return compact(restride(removed))


def _ignore(
    result: fx.GraphModule,
    node: fx.Node,
    source: fx.Node,
    name: str,
    fill: float,
    rules: RuleTable,
) -> tuple[fx.Node, fx.Node]:
    """Let a node do without removed channels; return what stands for it, and what it reads."""
    graph = result.graph
    with graph.inserting_before(node):
        removed = graph.get_attr(name)
        over_kept, kwargs = _over_kept(result, node, rules)
        if over_kept is not None:
            arguments = (source, removed, *node.args[1:])
            replaced = graph.call_function(over_kept, arguments, kwargs)
            node.replace_all_uses_with(replaced)
            graph.erase_node(node)
            return replaced, source
        zeroed = graph.call_function(torch.masked_fill, (source, removed, fill))
    node.args = map_arg(node.args, lambda arg: zeroed if arg is source else arg)
    node.kwargs = map_arg(node.kwargs, lambda arg: zeroed if arg is source else arg)
    return node, zeroed


def _over_kept(
    result: fx.GraphModule, node: fx.Node, rules: RuleTable
) -> tuple[Callable[..., Tensor] | None, dict[str, Any]]:
    """Find what computes a call over kept channels only, and its keyword arguments."""
    if node.op != "call_module":
        rule = rules.for_function(node.target)
        return None if rule is None else rule.over_kept, dict(node.kwargs)
    module = result.get_submodule(str(node.target))
    found = rules.for_module(module)
    if found is None or found[0].over_kept is None:
        return None, {}
    rule, form = found
    tensors = {
        name: result.graph.get_attr(f"{node.target}.{name}")
        for name in form.parameters
        if getattr(module, name) is not None
    }
    return rule.over_kept, tensors | {name: getattr(module, name) for name in form.options}
