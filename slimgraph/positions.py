"""Kept positions of a tensor, one entry per dim: whether they fit it, and how two sets compose."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimgraph.errors import PlanError
from slimgraph.labels import Shape

Kept = tuple[Tensor | None, ...]


def check_positions(name: str, entries: Sequence[Tensor | None], shape: Shape) -> None:
    """Refuse positions that a tensor of that shape does not have.

    Raises:
        PlanError: They do not fit.
    """
    for positions, size in zip(entries, shape, strict=True):
        if positions is None:
            continue
        bad = positions.dtype != torch.long or positions.ndim not in (1, 2) or not positions.numel()
        twice = not bad and bool((positions.sort(-1).values.diff(dim=-1) == 0).any())
        if bad or twice or int(positions.min()) < 0 or int(positions.max()) >= size:
            raise PlanError(f"the kept positions of `{name}` do not fit its shape {shape}")


def composed(first: Kept, later: Kept, shape: Shape) -> Kept:
    """Index what was kept by what is kept of it."""
    result: list[Tensor | None] = []
    for dim, (one, two) in enumerate(zip(first, later, strict=True)):
        if one is not None and one.ndim > 1:
            before = first[1 - dim]
            full = shape[1 - dim] if before is None else len(before)
            rows = one[_rows(later[1 - dim], full, one.shape[0])]
            if two is not None:  # a vector once a single group was left
                rows = rows[:, two] if two.ndim == 1 else rows.gather(1, two)
            result.append(rows)
        else:
            result.append(one if two is None else two if one is None else one[two])
    return tuple(result)


def _rows(later: Tensor | None, full: int, groups: int) -> Tensor:
    """Find which groups of a grouped weight a plan leaves, from its kept positions of dim 0."""
    if later is None:
        return torch.arange(groups)
    rows: Tensor = (later // (full // groups)).unique()
    return rows
