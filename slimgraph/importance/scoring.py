"""One entry for all criteria."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from slimgraph.calibrate.ranks import Progress
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.importance import feature_maps, geometry, magnitude
from slimgraph.importance.gradients import Loss, taylor
from slimgraph.importance.magnitude import MAKES, check_finite
from slimgraph.importance.subsets import subset_scores

Criterion = Literal["l1", "l2", "bn_scale", "oicsr", "fpgm", "lamp", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)
DataCriterion = Literal["taylor", "obs", "cap", "lasso", "hrank", "chip"]
DATA_CRITERIA: tuple[str, ...] = get_args(DataCriterion)


def score(
    graph: DependencyGraph,
    criterion: str = "l2",
    *,
    normalize: str = "mean",
    seed: int = 0,
    data: Iterable[Any] | None = None,
    loss: Loss = torch.nn.functional.cross_entropy,
    progress: Progress = None,
) -> Tensor:
    """Score every channel of a model.

    Args:
        graph: The groups; their parameters are read, never written.
        criterion: From the weights: `l1`, `l2`: norm of all weights that make the channel, in
            every module tied to it. `bn_scale`: mean absolute BatchNorm scale. `oicsr`: energy of
            the weights that make it and of those that read it. `fpgm`: distance of the weights
            that make it to those of the others. `lamp`: energy as a share of that of all stronger
            channels of its group. `random`. From data: `obs`, `cap`, `lasso`: what layers miss of
            it once the others make up for it; `hrank`, `chip`: what its feature maps hold;
            `taylor`: first-order change of a loss. The functions of `slimgraph.importance` have
            more options.
        normalize: `mean` divides by the mean over the channel's group, so groups compare;
            `none` leaves the raw scores.
        seed: For `random`.
        data: Batches of inputs or of (inputs, target), such as a `DataLoader`; `taylor` needs
            targets.
        loss: For `taylor`: of the model's output and the target; a mean over the batch.
        progress: Called with a line per batch; by default a bar in the terminal.

    Returns:
        Float64 scores, never negative; infinite where the criterion says nothing, which
        keeps the channel. Shape: (channels,).

    Raises:
        BudgetError: Unknown criterion or normalisation, or the criterion needs data.
        SlimgraphError: A parameter holds NaN or infinite numbers, or the data is not fit.
    """
    if criterion not in (*CRITERIA, *DATA_CRITERIA):
        names = ", ".join((*CRITERIA, *DATA_CRITERIA))
        raise BudgetError(f"unknown criterion `{criterion}`", hint=f"use one of {names}")
    if normalize not in ("mean", "none"):
        raise BudgetError(f"unknown normalisation `{normalize}`", hint="use `mean` or `none`")
    if criterion in CRITERIA:
        function, scored = _weights(seed)[criterion]
        scores = function(graph)
        check_finite(graph, scored)
    else:
        check_finite(graph)
        if data is None:
            raise BudgetError(
                f"the criterion `{criterion}` needs data",
                hint="give `slimgraph.score` a `data=`: a loader of inputs, with targets or not",
            )
        scores = _from_data(loss)[criterion](graph, data, progress=progress)
    return scores if normalize == "none" else _normalized(graph, scores)


def _weights(seed: int) -> dict[str, tuple[Callable[[DependencyGraph], Tensor], tuple[str, ...]]]:
    """Return what scores from weights alone, and the roles of axes whose scores show NaN."""
    return {
        "l1": (lambda g: magnitude.norm(g, 1), MAKES),
        "l2": (lambda g: magnitude.norm(g, 2), MAKES),
        "bn_scale": (magnitude.batch_norm_scale, ("scale",)),
        "oicsr": (magnitude.out_in_energy, (*MAKES, "in")),
        "fpgm": (geometry.geometric_median, ()),
        "lamp": (geometry.layer_adaptive, (*MAKES, "in")),
        "random": (lambda g: magnitude.uniform(g, seed), ()),
    }


def _from_data(loss: Loss) -> dict[str, Callable[..., Tensor]]:
    return {
        "taylor": partial(taylor, loss=loss),
        "obs": partial(subset_scores, method="obs"),
        "cap": partial(subset_scores, method="cap"),
        "lasso": partial(subset_scores, method="lasso"),
        "hrank": feature_maps.hrank,
        "chip": feature_maps.chip,
    }


def _normalized(graph: DependencyGraph, scores: Tensor) -> Tensor:
    """Divide by the mean over each group."""
    index = graph.group_index
    known = scores.isfinite() & (index >= 0)
    total = torch.bincount(index[known], scores[known], minlength=len(graph.groups))
    mean = total / torch.bincount(index[known], minlength=len(graph.groups)).clamp(min=1)
    divisor = torch.where(mean > 0, mean, 1)[index.clamp(min=0)]
    return torch.where(index >= 0, scores / divisor, scores)
