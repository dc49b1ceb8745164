"""Importance: one score per channel, over all that is tied to it; higher = keep."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from slimgraph.errors import BudgetError, SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.importance import magnitude

Criterion = Literal["l1", "l2", "bn_scale", "oicsr", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)


def score(
    graph: DependencyGraph, criterion: str = "l2", *, normalize: str = "mean", seed: int = 0
) -> Tensor:
    """Score every channel of a model.

    Args:
        graph: The groups; their parameters are read, never written.
        criterion: `l1`, `l2`: norm of all weights that make the channel, in every module tied
            to it. `bn_scale`: mean absolute BatchNorm scale. `oicsr`: energy of the weights that
            make it and of those that read it. `random`.
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
    functions: dict[str, Callable[[DependencyGraph], Tensor]] = {
        "l1": lambda g: magnitude.norm(g, 1),
        "l2": lambda g: magnitude.norm(g, 2),
        "bn_scale": magnitude.batch_norm_scale,
        "oicsr": magnitude.out_in_energy,
        "random": lambda g: magnitude.uniform(g, seed),
    }
    if criterion not in functions:
        raise BudgetError(
            f"unknown criterion `{criterion}`", hint=f"use one of {', '.join(functions)}"
        )
    if normalize not in ("mean", "none"):
        raise BudgetError(f"unknown normalisation `{normalize}`", hint="use `mean` or `none`")
    check_finite(graph)
    scores = functions[criterion](graph)
    if normalize == "none":
        return scores
    for group in graph.groups:
        own = scores[group.components]
        mean = own[own.isfinite()].mean()
        if mean > 0:
            scores[group.components] = own / mean
    return scores


def check_finite(graph: DependencyGraph) -> None:
    """Refuse weights that no score can rank.

    Buffers may well be infinite: masks of attention and bounds of clamps are. Statistics may not.

    Raises:
        SlimgraphError: A parameter or a statistic holds NaN or infinite numbers.
    """
    model = graph.traced
    axes = graph.ledger.axes
    counted = (
        (name, buffer)
        for name, buffer in model.named_buffers()
        if (name, 0) in axes and axes[name, 0].role == "statistic"
    )
    for name, tensor in (*model.named_parameters(), *counted):
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise SlimgraphError(
                f"`{name}` holds NaN or infinite numbers",
                hint="load another checkpoint; training probably diverged",
            )


def _is_finite(tensor: Tensor) -> bool:
    """Look at the extremes alone: `isfinite` of every number would double the memory."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN if there is any
    return bool(low.isfinite() & high.isfinite())
