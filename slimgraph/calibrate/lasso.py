"""LASSO over channels: few factors, one per channel, that still make a layer's output."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from slimgraph.calibrate.subsets import Regression

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def factor_moments(
    regressions: Sequence[Regression], free: Tensor
) -> tuple[Tensor, Matrix, Vector]:
    """Return the quadratic form that the factors of channels have.

    With `Z_c` what a layer makes of channel c alone and `Y` what it should make, of which channels
    that cannot leave have their part already: `G_cd = <Z_c, Z_d>` and `c_c = <Z_c, Y>`, as shares
    of each layer's energy, added up over layers.

    Args:
        regressions: The layers.
        free: What can leave. Shape: (channels of the model,).

    Returns:
        The channels, shape (n,), G, (n, n), and c, (n,).
    """
    own = torch.cat([each.channels[free[each.channels]] for each in regressions]).unique()
    place = torch.full((len(free),), len(own))  # the last stands for all that stay
    place[own] = torch.arange(len(own))
    gram = torch.zeros(len(own) + 1, len(own) + 1, dtype=torch.double)
    cross = torch.zeros(len(own) + 1, dtype=torch.double)
    for each in regressions:
        at = place[each.channels]
        products = (each.weight.mT @ each.weight) * each.gram / each.energy
        rows = torch.zeros(len(own) + 1, len(at), dtype=torch.double)
        rows.index_add_(0, at, products.cpu())
        gram.index_add_(1, at, rows)
        made = (each.weight * (each.target @ each.gram)).sum(0) / each.energy
        cross.index_add_(0, at, made.cpu())
    wanted = (cross - gram[:, -1])[:-1]
    return own, gram[:-1, :-1].numpy(), wanted.numpy()


def descend(
    gram: Matrix, cross: Vector, penalty: float, start: Vector, tolerance: float = 1e-5
) -> Vector:
    """Minimise `b^T G b / 2 - c^T b + penalty |b|_1` by coordinate descent on an active set.

    Args:
        gram: G, positive semidefinite.
        cross: c.
        penalty: Not negative.
        start: Where to start.
        tolerance: On the slope along each coordinate, relative to the largest at zero.

    Source: Friedman, Hastie, Tibshirani, Regularization Paths for Generalized Linear Models via
    Coordinate Descent, JSS 2010, section 2.2 (updates by covariance).
    """
    beta = start.copy()
    rest = cross - gram @ beta
    diagonal = gram.diagonal()
    usable = diagonal > 1e-12 * max(float(diagonal.max(initial=0)), 1e-300)
    enough = tolerance * max(float(np.abs(cross).max(initial=0)), 1e-300)
    for _ in range(1000):
        moved = 0.0
        for j in np.flatnonzero(usable & ((beta != 0) | (np.abs(rest) > penalty))):
            wish = rest[j] + diagonal[j] * beta[j]
            new = np.sign(wish) * max(abs(wish) - penalty, 0.0) / diagonal[j]
            if new != beta[j]:
                moved = max(moved, abs(new - beta[j]) * diagonal[j])
                rest -= gram[:, j] * (new - beta[j])
                beta[j] = new
        if moved <= enough:
            break
    return beta


def entries(gram: Matrix, cross: Vector, steps: int = 50) -> Vector:
    """Return the penalty at which each factor becomes zero, as a share of the largest.

    Of two that do so between the same steps, the larger factor has the larger number.
    """
    largest = max(float(np.abs(cross).max(initial=0)), 1e-300)
    beta, found = np.zeros_like(cross), np.zeros_like(cross)
    penalties = np.geomspace(1.0, 1e-4, steps)
    for before, penalty in pairwise(penalties):
        beta = descend(gram, cross, float(penalty * largest), beta)
        size = np.abs(beta)
        new = (found == 0) & (size > 0)
        between = (before - penalty) * size / max(float(size.max(initial=0)), 1e-300)
        found[new] = (penalty + between)[new]
    size = np.abs(beta)
    left = found == 0  # of these, the ones that might help most come first
    hope = np.abs(cross - gram @ beta)
    found[left] = 1e-5 * hope[left] / max(float(hope.max(initial=0)), 1e-300)
    return found


def chosen(gram: Matrix, cross: Vector, count: int) -> Tensor:
    """Choose exactly so many channels: those whose factors are not zero.

    The penalty is bisected until so many are left. If it leaps over that number, the largest of
    the factors before it count.

    Returns:
        Bool tensor. Shape: (channels,).
    """
    low, high = 0.0, float(np.abs(cross).max(initial=0))
    more, beta = descend(gram, cross, 0.0, np.ones_like(cross)), np.zeros_like(cross)
    while np.count_nonzero(beta) != count and high - low > 1e-9 * high:
        middle = (low + high) / 2
        beta = descend(gram, cross, middle, more)
        if np.count_nonzero(beta) > count:
            low, more = middle, beta
        else:
            high = middle
    best = beta if np.count_nonzero(beta) == count else more
    rank = np.abs(best) + 1e-12 * np.abs(cross) / max(high, 1e-300)
    keep = torch.zeros(len(cross), dtype=torch.bool)
    keep[torch.from_numpy(np.argsort(-rank, kind="stable")[:count].copy())] = True
    return keep
