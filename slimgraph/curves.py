"""How good a model still is: against its own answers or labels, at one budget or at several."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from slimgraph.calibrate.ranks import Progress, tracked
from slimgraph.calibrate.running import batches, check_repeatable
from slimgraph.cost import CostModel
from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.select import Budget, select
from slimgraph.trials import Repair, Trial

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def agreement(dense: nn.Module, data: Iterable[Any]) -> Callable[[nn.Module], float]:
    """Return what measures a classifier by the share of answers that are the dense model's.

    Args:
        dense: The model before; asked once, in eval mode.
        data: Batches of inputs or of (inputs, target), whose targets are not read; gone through
            once per model.

    Raises:
        SlimgraphError: The data can be gone through only once, or the model is no classifier.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> agreement(net, [torch.randn(4, 2)])(net)
        1.0
    """
    check_repeatable(data)
    wanted = _answers(dense, data)
    return lambda model: float((_answers(model, data) == wanted).double().mean())


@torch.no_grad()
def _answers(model: nn.Module, data: Iterable[Any]) -> Tensor:
    """Return the class of each input: the greatest entry along dim 1."""
    found = []
    with evaluating(model):
        for inputs in batches(model, data):
            output = model(*inputs)
            if not isinstance(output, Tensor) or output.ndim < 2:
                raise SlimgraphError(
                    "the model gives no scores of classes, so its answers cannot be compared",
                    hint="give a function of your own to `slimgraph.curve`",
                )
            found.append(output.argmax(1).flatten())
    return torch.cat(found)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Bring models to eval mode, and back."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def output_error(dense: nn.Module, small: nn.Module, data: Iterable[Any]) -> float | None:
    """Return the squared error of outputs as a share of the dense model's squared outputs.

    Args:
        dense: The model before; both are asked in eval mode.
        small: The smaller one.
        data: Batches of inputs or of (inputs, target).

    Returns:
        0 for equal outputs, a ratio without a unit; `None` if there is no output to compare, such
        as boxes whose number varies, or if it is zero throughout, or not finite.
    """
    wrong, whole = 0.0, 0.0
    with evaluating(dense, small):
        for inputs in batches(dense, data):
            pairs = zip(tree_leaves(dense(*inputs)), tree_leaves(small(*inputs)), strict=False)
            for one, other in pairs:
                if not isinstance(one, Tensor) or one.shape != other.shape:
                    return None
                wrong += float((one.double() - other.double()).square().sum())
                whole += float(one.double().square().sum())
    return wrong / whole if whole > 0 and math.isfinite(wrong / whole) else None


def curve(  # noqa: PLR0913 - all but three have defaults
    graph: DependencyGraph,
    scores: Tensor,
    evaluate: Callable[[fx.GraphModule], float],
    *,
    unit: Literal["channels", "params", "macs"] = "macs",
    shares: Sequence[float] = SHARES,
    measure: str = "accuracy",
    repair: Repair | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """Measure a model at several budgets, channels chosen greedily by their scores.

    Args:
        graph: The groups.
        scores: Higher = keep. Shape: (channels,).
        evaluate: Higher = better; see `slimgraph.Trial` and `agreement`.
        unit: Of the budgets.
        shares: What may remain, each in (0, 1).
        measure: What `evaluate` measures; the chart's title.
        repair: As for `slimgraph.Trial`; then models are measured before and after it.
        progress: Called with a line per budget; by default a bar in the terminal.

    Returns:
        JSON data, for `report["curve"]`. Budgets that cannot be met are left out.

    Raises:
        BudgetError: A share is out of range.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise BudgetError("shares of a curve lie in (0, 1)", hint=f"such as {SHARES}")
    plain = Trial(graph, evaluate)
    mended = None if repair is None else Trial(graph, evaluate, repair)
    cost = CostModel(graph)
    whole = torch.ones_like(graph.frozen)
    total = getattr(cost.totals(whole), unit)
    value = plain(whole)
    points = [{"share": 1.0, "before": value, "after": None if mended is None else value}]
    for share in tracked(sorted(shares, reverse=True), f"{measure} by {unit}", progress):
        try:
            keep = select(graph, scores, Budget(unit, float(share)))
        except BudgetError:  # what is frozen costs more
            break
        left = getattr(cost.totals(keep), unit) / max(total, 1)
        after = None if mended is None else mended(keep)
        points.append({"share": left, "before": plain(keep), "after": after})
    return {"measure": measure, "unit": unit, "points": points}
