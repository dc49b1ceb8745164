"""How scores are spread, and what of them stays: numbers for a chart."""

from typing import Any

import torch
from torch import Tensor

from slimgraph.graph import DependencyGraph

_BINS = 24
_DECADES = 100.0  # the ratio of scores from which a linear axis would show one bar only


def histogram(
    graph: DependencyGraph, criterion: str, scores: Tensor, keep: Tensor | None = None
) -> dict[str, Any]:
    """Count the scores of all channels that may leave.

    Args:
        graph: The groups.
        criterion: What the scores are called.
        scores: One number per channel. Shape: (channels,).
        keep: Bool tensor, True = keep, or `None` if nothing is decided. Shape: (channels,).

    Returns:
        JSON data: `edges` are one more than `kept` and `removed`, the counts between them, and lie
        evenly, or, if `log` is true, evenly on a logarithmic axis, where zeros have no place and
        are counted in `zeros`. `unscored` are channels without a finite score. Without any finite
        score there are no edges.
    """
    free = ~graph.frozen & (graph.group_index >= 0)
    stays = torch.ones_like(free) if keep is None else keep
    values, stays = scores[free].double().cpu(), stays[free].cpu()
    known = values.isfinite()
    unscored = int((~known).sum())
    values, stays = values[known], stays[known]
    log = _spans_decades(values)
    placed = values > 0 if log else torch.ones_like(stays)
    edges = _edges(values[placed], log=log)
    counts = [_counts(values[placed & part], edges) for part in (stays, ~stays)]
    return {
        "criterion": criterion,
        "log": log,
        "edges": edges.tolist(),
        "kept": counts[0],
        "removed": counts[1],
        "zeros": {"kept": int((~placed & stays).sum()), "removed": int((~placed & ~stays).sum())},
        "unscored": unscored,
    }


def _spans_decades(values: Tensor) -> bool:
    """Whether most scores differ by powers of ten; a single tiny one does not count."""
    if not len(values) or float(values.min()) < 0:
        return False
    positive = values[values > 0].sort().values
    return len(positive) > 1 and float(positive[-1] / positive[len(positive) // 20]) > _DECADES


def _edges(values: Tensor, *, log: bool) -> Tensor:
    if not len(values):
        return values
    low, high = values.min(), values.max()
    if low == high:  # one bar, as wide as doubles can tell apart and eyes can see
        wide = low.abs() * 0.05 + (low == 0) * 0.5
        return torch.stack((low - wide, high + wide))
    if log:
        edges = torch.logspace(
            float(low.log10()), float(high.log10()), _BINS + 1, dtype=torch.float64
        )
    else:
        steps = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)
        edges = low * (1 - steps) + high * steps  # `high - low` could overflow
    edges[0], edges[-1] = low, high
    return edges


def _counts(values: Tensor, edges: Tensor) -> list[int]:
    """Count per bin; an edge belongs to the bin on its right, the last one to the last bin."""
    if not len(edges):
        return []
    last = len(edges) - 2
    bins = torch.bucketize(values, edges, right=True).sub(1).clamp(0, last)
    return torch.bincount(bins, minlength=last + 1).tolist()
