"""The one-call form: a model and a budget in, a smaller model out."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from slimgraph.analysis import analyze
from slimgraph.compress import Observer, shrink
from slimgraph.dead import dead_channels
from slimgraph.display import Rows, Shown
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.importance import check_finite, score
from slimgraph.kept import KeptChannels
from slimgraph.mask import Mask, keep_channels
from slimgraph.pass_manager import Pipeline
from slimgraph.passes.reorder_channels import ReorderChannels
from slimgraph.passes.select_channels import with_selections
from slimgraph.plan import Plan
from slimgraph.select import Budget, select
from slimgraph.select.budget import Order, check_order
from slimgraph.selecting import Choice, Choose, choose_selecting
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
    criterion: str = "l2",
    normalize: str = "mean",
    order: Order = "per_cost",
    round_to: int = 1,
    max_removed: float = 1.0,
    keep: Sequence[str] = (),
    seed: int = 0,
    mask: Mapping[str, Any] | None = None,
    selections: bool = False,
    observer: Observer | None = None,
    progress: Callable[[str], None] | None = None,
) -> SlimResult:
    """Trace, score, choose and compress in one call.

    Args:
        model: Any module, or a traced one; it is not changed.
        example_inputs: As for `trace`; a traced model needs none.
        channels: Budget: the share, or the int number, of prunable channels that remains.
        params: Budget in parameters.
        macs: Budget in multiply-accumulates. Without any budget only dead channels leave,
            which changes no output.
        criterion: `l1`, `l2`, `bn_scale`, `oicsr` or `random`.
        normalize: See `slimgraph.score`.
        order: See `slimgraph.select`.
        round_to: Groups keep a multiple of this many channels, or all.
        max_removed: At most this share of a group's channels leaves.
        keep: Groups or modules that stay whole.
        seed: For `random`.
        mask: A decision already made, instead of a budget; see `slimgraph.Mask`.
        selections: Whether consumers of a value that many read may each lose other channels of
            it; see `slimgraph.with_selections`. Without a mask, only selections that save more
            multiply-accumulates than their copies cost are made.
        observer: Called after each pass with its name and the graph before and after.
        progress: Called with the name of every step when it starts.

    Raises:
        SlimgraphError: See `trace`, `score`, `select` and `compress`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> slim(net, torch.randn(1, 3, 9, 9), channels=0.5).model.get_submodule("0").out_channels
        4
    """
    say = progress or (lambda _: None)
    budgets = {"channels": channels, "params": params, "macs": macs}
    given = {unit: amount for unit, amount in budgets.items() if amount is not None}
    options: dict[str, Any] = {
        "order": order, "round_to": round_to, "max_removed": max_removed, "keep": tuple(keep)
    }  # fmt: skip
    choice = {**options, "criterion": criterion, "normalize": normalize, "seed": seed}
    check_choice(choice, has_budget=bool(given), has_mask=mask is not None)
    say("trace")
    traced = ensure_traced(model) if example_inputs is None else trace(model, example_inputs)
    say("group channels")
    choose = _chooser(given, mask, options, choice)
    if selections and mask is None:
        graph, chosen = choose_selecting(traced, choose)
    else:
        graph = analyze(with_selections(traced) if selections else traced)
        say("choose channels")
        chosen = choose(graph, None)
    settings = {"budget": given, "criterion": "none", "keep": list(keep), **chosen.settings}
    say("compress")
    model = shrink(graph, KeptChannels(graph, chosen.keep), observer)
    if selections:
        model = Pipeline((ReorderChannels(),), observer=observer).run(model)
    report = graph.to_dict(keep=chosen.keep, scores=chosen.scores, settings=settings)
    remains = Mask.of_channels(graph, chosen.keep)
    return SlimResult(model, remains, vars(model)["plan"], graph, report)


def _chooser(
    given: Mapping[str, float],
    mask: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    choice: Mapping[str, Any],
) -> Choose:
    """Return what chooses the channels of a model: the mask, the budget, or what is dead."""

    def choose(graph: DependencyGraph, scores: Tensor | None) -> Choice:
        if mask is not None:
            return Choice(keep_channels(graph, mask), None, {"criterion": "the given mask"})
        if not given:
            check_finite(graph)
            return Choice(~dead_channels(graph), None, {"criterion": "dead channels only"})
        if scores is None:
            how = {name: choice[name] for name in ("criterion", "normalize", "seed")}
            scores = score(graph, **how)
        chosen = select(graph, scores, Budget.of(**given), **options)
        return Choice(chosen, scores, {**choice, "keep": list(options["keep"])})

    return choose


_IDLE = {
    name: parameter.default
    for name, parameter in inspect.signature(slim).parameters.items()
    if name in ("criterion", "normalize", "order", "round_to", "max_removed", "keep", "seed")
}


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
    check_order(choice.get("order", "per_cost"))
    if has_budget and has_mask:
        raise BudgetError("a mask leaves no choice", hint="give a mask or a budget, not both")
    if has_budget:
        return
    idle = next((name for name in _IDLE if choice.get(name, _IDLE[name]) != _IDLE[name]), None)
    if idle is not None:
        units = [f"`{spell(unit)}`" for unit in ("channels", "params", "macs")]
        raise BudgetError(
            f"`{spell(idle)}` has no use without a budget",
            hint=f"add {units[0]}, {units[1]} or {units[2]}, or leave `{spell(idle)}` out",
        )
