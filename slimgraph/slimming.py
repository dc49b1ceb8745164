"""The one-call form: a model and a budget in, a smaller model out."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from slimgraph.analysis import analyze
from slimgraph.calibrate.running import check_repeatable
from slimgraph.choosing import CHOICE, HOW, choose, selected
from slimgraph.compensate import recalibrate, reconstruct
from slimgraph.compress import Observer, shrink
from slimgraph.curves import output_error
from slimgraph.dead import find_dead
from slimgraph.display import Rows, Shown
from slimgraph.effects import Effect, find_effects
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.importance.magnitude import check_finite
from slimgraph.keeping import Semantics, check_semantics, effects_of_mask, varying_channels
from slimgraph.kept import KeptChannels
from slimgraph.labels import Heads
from slimgraph.mask import Mask
from slimgraph.optimizers import follow
from slimgraph.pass_manager import Pipeline
from slimgraph.passes.reorder_channels import ReorderChannels
from slimgraph.passes.select_channels import SelectChannels
from slimgraph.plan import Plan
from slimgraph.rules import Rule, RuleTable
from slimgraph.select import Choice
from slimgraph.select.budget import Order, check_order
from slimgraph.selecting import with_paying_selections
from slimgraph.shapes import stored_tensors
from slimgraph.tracing import ExampleInputs, ensure_traced, trace


@dataclass(frozen=True, eq=False, repr=False)
class SlimResult(Shown):
    """What `slim` returns.

    Attributes:
        model: The smaller GraphModule.
        mask: What was kept, by group.
        plan: The same for every parameter and buffer.
        graph: The groups of the model before.
        report: The report as a dict; see docs/report.schema.json.
    """

    model: fx.GraphModule
    mask: Mask
    plan: Plan
    graph: DependencyGraph
    report: dict[str, Any]

    def __repr__(self) -> str:
        """Say it in one line."""
        before, after = self.report["totals"]["before"], self.report["totals"]["after"]
        shares = ", ".join(f"{unit} {after[unit] / max(before[unit], 1):.3f}" for unit in before)
        return f"SlimResult({self.report['model']['name']}: {shares} of before)"

    def to_rows(self) -> Rows:
        """List what is left of each layer."""
        rows = [
            (layer["module"], *(f"{old:,} to {new:,}" for old, new in _changes(layer)))
            for layer in self.report["layers"]
        ]
        return Rows(repr(self), ("layer", "in", "out", "parameters", "MACs"), rows)


def _changes(layer: dict[str, Any]) -> list[list[int]]:
    return [layer[key] for key in ("in", "out", "params", "macs")]


def slim(  # noqa: PLR0913 - each option is one keyword of the command line
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    *,
    channels: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    latency: float | str | None = None,
    threads: int = 1,
    criterion: str = "auto",
    normalize: str = "mean",
    order: Order = "per_cost",
    heads: Heads = "dims",
    round_to: int = 1,
    max_removed: float = 1.0,
    keep: Sequence[str] = (),
    seed: int = 0,
    mask: Mapping[str, Any] | Choice | None = None,
    data: Iterable[Any] | None = None,
    selections: bool = False,
    constants: Semantics | None = None,
    observer: Observer | None = None,
    progress: Callable[[str], None] | None = None,
    optimizer: Optimizer | None = None,
    rules: RuleTable | Sequence[Rule] = (),
) -> SlimResult:
    """Trace, score, choose and compress in one call.

    Args:
        model: Any module, or a traced one; it is not changed.
        example_inputs: As for `trace`; a traced model needs none.
        channels: Budget: the share, or the int number, of prunable channels that remains.
        params: Budget in parameters.
        macs: Budget in multiply-accumulates. Without any budget only dead channels leave,
            those that are constant among them, which changes no output.
        latency: Budget in time, as measured in onnxruntime on this machine: a share in (0, 1] of
            what the model takes, or a text such as `12ms`; one of the budgets above may go with it.
        threads: How many an operator may use, for `latency`.
        criterion: See `slimgraph.score`; `auto` is `obs` with data, and `l2` without.
        normalize: See `slimgraph.score`.
        order: See `slimgraph.select`.
        heads: `dims` thins out every head of attention, `whole` takes heads away.
        round_to: Groups keep a multiple of this many channels, or all.
        max_removed: At most this share of a group's channels leaves.
        keep: What stays whole, by name; as `freeze` of `analyze`.
        seed: For `random`.
        mask: A decision already made, instead of a budget: a `slimgraph.Mask`, or what a strategy
            of `slimgraph.select` returns, whose trace then stands in the report.
        data: Batches of inputs or of (inputs, target), a list or a loader; labels are not needed.
            What is left then makes up for what went: layers are reconstructed and norms
            recalibrated (`slimgraph.compensate`), so the result is better, and no longer exact.
        selections: Whether consumers of a value that many read may each lose other channels of
            it; see `slimgraph.with_selections`. With a budget, only selections are made that save
            more multiply-accumulates than their copies cost. Channels get a new order for them.
        constants: What a channel that leaves counts as; see `compress`. By default "zero" with a
            mask or a budget. Without, "keep", and "zero" spares constants other than zero. A
            budget with "keep" spares channels that do not stay constant until they are read.
        observer: Called after each pass with its name and the graph before and after.
        progress: Called with the name of every step when it starts.
        optimizer: Moves to the smaller model; see `compress`.
        rules: For ops of your own; see `analyze`.

    Raises:
        SlimgraphError: See `trace`, `score`, `select` and `compress`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> slim(net, torch.randn(1, 3, 9, 9), channels=0.5).model.get_submodule("0").out_channels
        4
    """
    given, say = locals(), progress or (lambda _: None)
    budget = _given(channels=channels, params=params, macs=macs)
    choice = {name: given[name] for name in CHOICE} | {"keep": tuple(keep)}
    check_choice(choice, has_budget=_limits(budget, latency), has_mask=mask is not None)
    check_semantics(constants or "zero")
    say("trace")
    traced = ensure_traced(model) if example_inputs is None else trace(model, example_inputs)
    say("group channels")
    graph = _grouped(traced, rules, heads, selections=selections)
    say("choose channels")
    chosen, scores, settings = choose(graph, mask, budget, choice, say)
    settings["constants"] = constants = constants or ("keep" if chosen is None else "zero")
    if chosen is not None and scores is not None:
        again = partial(selected, budget=budget, choice=choice, told=settings, say=say)
        if selections:
            graph, chosen, scores = with_paying_selections(graph, chosen, scores, again)
        if constants == "keep":
            chosen = _with_constants(graph, chosen, scores, again, settings, say)
    kept, effects = _decided(graph, chosen, constants)
    say("compress")
    small = shrink(graph, kept, observer, effects, optimizer)
    small = _reordered(graph, small, observer, optimizer) if selections else small
    return _result(graph, kept, small, scores, settings, _repair(graph.traced, small, data, say))


def _limits(budget: dict[str, float], latency: float | str | None) -> bool:
    return bool(budget) or latency is not None


def _given(**budgets: float | None) -> dict[str, float]:
    return {unit: amount for unit, amount in budgets.items() if amount is not None}


def _with_constants(
    graph: DependencyGraph,
    chosen: Tensor,
    scores: Tensor,
    again: Callable[[DependencyGraph, Tensor], Tensor],
    told: dict[str, Any],
    say: Callable[[str], None],
) -> Tensor:
    """Choose other channels in the place of those whose effect cannot be kept; tell how many."""
    scores, spared = scores.clone(), torch.zeros_like(chosen)
    while True:
        varying = varying_channels(KeptChannels(graph, chosen)) & ~spared
        if not bool(varying.any()):
            break
        spared |= varying
        scores[spared] = torch.inf
        chosen = again(graph, scores)
    count = int((spared & ~graph.is_head).sum())
    say(f"spare {count} channels that do not stay constant")
    told["spared"] = count
    return chosen


def _reordered(
    graph: DependencyGraph,
    small: fx.GraphModule,
    observer: Observer | None,
    optimizer: Optimizer | None,
) -> fx.GraphModule:
    """Give channels the order in which selections are slices; an optimizer's state follows."""
    plan: Plan = vars(small)["plan"]
    shapes = {name: tuple(tensor.shape) for name, tensor in stored_tensors(small).items()}
    vars(small)["plan"] = replace(plan, kept={}, sizes=shapes, shifts={}, carriers=(), options={})
    result = Pipeline((ReorderChannels(graph.rules),), observer=observer).run(small)
    step: Plan = vars(result)["plan"]
    if optimizer is not None and step.kept:
        follow(optimizer, stored_tensors(small), stored_tensors(result), step.kept)()
    vars(result)["plan"] = replace(plan.then(step), calls=step.calls)
    return result


def _grouped(
    traced: fx.GraphModule,
    rules: RuleTable | Sequence[Rule],
    heads: Heads = "dims",
    *,
    selections: bool,
) -> DependencyGraph:
    """Group channels, with selections if asked for."""
    graph = analyze(traced, rules=rules, heads=heads)
    forked = SelectChannels(rules=graph.rules).rewrite(traced) if selections else None
    if forked is None or not forked.modified:
        return graph
    return analyze(forked.graph_module, rules=graph.rules, heads=heads)


def _result(
    graph: DependencyGraph,
    kept: KeptChannels,
    model: fx.GraphModule,
    scores: Tensor | None,
    settings: dict[str, Any],
    errors: dict[str, Any] | None,
) -> SlimResult:
    """Put the result together; constants may need numbers that the model did not have."""
    report = graph.to_dict(keep=kept.channels, scores=scores, settings=settings)
    report["errors"] = errors
    known = {name for name, _ in graph.traced.named_parameters(remove_duplicate=False)}
    added = (tensor for name, tensor in model.named_parameters() if name not in known)
    report["totals"]["after"]["params"] += sum(tensor.numel() for tensor in added)
    whole = Mask.of_channels(graph, kept.channels)
    return SlimResult(model, whole, vars(model)["plan"], graph, report)


def _decided(
    graph: DependencyGraph, chosen: Tensor | None, constants: Semantics
) -> tuple[KeptChannels, tuple[Effect, ...]]:
    """Check what was chosen, or find what loses nothing; and what consumers are to get of it."""
    if chosen is not None:
        kept = KeptChannels(graph, chosen)
        return kept, effects_of_mask(kept, constants)
    check_finite(graph)
    dead = find_dead(graph, constants)
    kept = KeptChannels(graph, ~dead.channels)
    return kept, find_effects(kept, dead.constants, proven=True)


_IDLE = {
    name: parameter.default
    for name, parameter in inspect.signature(slim).parameters.items()
    if name in ("criterion", "normalize", "seed", "threads", *HOW) and name != "heads"
}


def _repair(
    dense: fx.GraphModule,
    small: fx.GraphModule,
    data: Iterable[Any] | None,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Let what is left make up for what went, if there is data that tells how; say how well."""
    if data is None:
        return None
    say("repair")
    before = output_error(dense, small, data)
    reconstruct(dense, small, data)
    recalibrate(small, data)
    after = output_error(dense, small, data)
    steps = [{"step": "compressed", "error": before}, {"step": "repaired", "error": after}]
    measure = "squared output error as a share of the output"
    return {"measure": measure, "on": "the data given", "steps": steps}


def check_choice(
    choice: Mapping[str, Any],
    *,
    has_budget: bool,
    has_mask: bool,
    spell: Callable[[str], str] = str,
) -> None:
    """Refuse, before any work, options that nothing would heed.

    Args:
        choice: Keyword arguments of `slim`; those left out have their defaults.
        has_budget: Whether a budget is given.
        has_mask: Whether a mask is given.
        spell: How the caller's user writes an option.

    Raises:
        BudgetError: A mask comes with a budget, or an option has no use.
    """
    check_order(choice.get("order", "per_cost"), choice.get("heads", "dims"))
    if choice.get("latency") is not None:
        from slimgraph.latency import TimeBudget

        TimeBudget.of(choice["latency"], choice.get("threads", 1))
    elif choice.get("threads", 1) != 1 and has_budget:
        raise BudgetError("`threads` has no use without a budget of time", hint="add `latency`")
    if has_budget and has_mask:
        raise BudgetError("a mask leaves no choice", hint="give a mask or a budget, not both")
    if choice.get("data") is not None:
        if not has_budget and not has_mask:
            raise BudgetError(
                "`data` has no use without a budget or a mask",
                hint="add a budget such as `macs`, or `mask`; dead channels need no repair",
            )
        check_repeatable(choice["data"])
    if has_budget:
        return
    idle = next((name for name in _IDLE if choice.get(name, _IDLE[name]) != _IDLE[name]), None)
    if idle is not None:
        units = [f"`{spell(unit)}`" for unit in ("channels", "params", "macs", "latency")]
        raise BudgetError(
            f"`{spell(idle)}` has no use without a budget",
            hint=f"add {', '.join(units[:-1])} or {units[-1]}, or leave `{spell(idle)}` out",
        )
