"""Importance: one score per channel, over all that is tied to it; higher = keep."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.importance import geometry, magnitude
from slimgraph.importance.gradients import taylor
from slimgraph.importance.magnitude import check_finite

Criterion = Literal["l1", "l2", "bn_scale", "oicsr", "fpgm", "lamp", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)

__all__ = ["CRITERIA", "Criterion", "check_finite", "score", "taylor"]


def score(
    graph: DependencyGraph, criterion: str = "l2", *, normalize: str = "mean", seed: int = 0
) -> Tensor:
    """Score every channel of a model.

    Args:
        graph: The groups; their parameters are read, never written.
        criterion: `l1`, `l2`: norm of all weights that make the channel, in every module tied
            to it. `bn_scale`: mean absolute BatchNorm scale. `oicsr`: energy of the weights that
            make it and of those that read it. `fpgm`: distance of the weights that make it to
            those of the others. `lamp`: energy as a share of that of all stronger channels of
            its group. `random`. From data: see `slimgraph.importance.taylor`.
        normalize: `mean` divides by the mean over the channel's group, so groups compare;
            `none` leaves the raw scores.
        seed: For `random`.

    Returns:
        Float64 scores, never negative; infinite where the criterion says nothing, which
        keeps the channel. Shape: (channels,).

    Raises:
        BudgetError: Unknown criterion or normalisation.
        SlimgraphError: A parameter holds NaN or infinite numbers.
    """
    functions: dict[str, tuple[Callable[[DependencyGraph], Tensor], tuple[str, ...]]] = {
        "l1": (lambda g: magnitude.norm(g, 1), magnitude.MAKES),
        "l2": (lambda g: magnitude.norm(g, 2), magnitude.MAKES),
        "bn_scale": (magnitude.batch_norm_scale, ("scale",)),
        "oicsr": (magnitude.out_in_energy, (*magnitude.MAKES, "in")),
        "fpgm": (geometry.geometric_median, ()),
        "lamp": (geometry.layer_adaptive, (*magnitude.MAKES, "in")),
        "random": (lambda g: magnitude.uniform(g, seed), ()),
    }
    if criterion not in functions:
        raise BudgetError(
            f"unknown criterion `{criterion}`", hint=f"use one of {', '.join(functions)}"
        )
    if normalize not in ("mean", "none"):
        raise BudgetError(f"unknown normalisation `{normalize}`", hint="use `mean` or `none`")
    function, scored = functions[criterion]
    scores = function(graph)
    check_finite(graph, scored)
    if normalize == "none":
        return scores
    index = graph.group_index
    known = scores.isfinite() & (index >= 0)
    total = torch.bincount(index[known], scores[known], minlength=len(graph.groups))
    mean = total / torch.bincount(index[known], minlength=len(graph.groups)).clamp(min=1)
    divisor = torch.where(mean > 0, mean, 1)[index.clamp(min=0)]
    return torch.where(index >= 0, scores / divisor, scores)
