"""Compensation from the dense model's moments: what is left makes up for what left."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.ranks import Progress
from slimgraph.calibrate.sampling import Sampling, moments_of
from slimgraph.calibrate.subsets import best_weights
from slimgraph.compensate.least_squares import Repaired
from slimgraph.compensate.pairs import Pair, add_shift, pairs_of, takes_shift


@torch.no_grad()
def project(  # noqa: PLR0913 - each is one choice of the method
    dense: fx.GraphModule,
    slim: fx.GraphModule,
    data: Iterable[Any],
    *,
    intercept: bool = True,
    match_variance: bool = False,
    ridge: float | None = None,
    sampling: Sampling | None = None,
    progress: Progress = None,
) -> list[Repaired]:
    """Give layers that lost inputs the weights that do best without them.

    CaP's compensation, `W' = W Sigma_CS Sigma_SS^-1` and `b' = b + W mu - W' mu_S`; without
    `intercept` the weight update of structured OBS. All moments are those of the dense model, so
    that one pass over the data is enough; `reconstruct` looks at each layer in turn, which takes
    longer and lets later layers make up for earlier ones.

    Args:
        dense: The traced model before; nothing in it changes.
        slim: What `compress` returns for it; its weights and biases change. Layers that kept all
            their inputs keep their weights bit by bit.
        data: Batches of inputs, or of (inputs, target), without labels.
        intercept: Whether outputs keep their means: by the bias, the mean of the norm behind, or
            a new bias.
        match_variance: Whether outputs keep their variances, too: rows are scaled by what their
            standard deviation has lost, so the squared error grows. Without use if the
            statistics of norms are taken anew. Best reading: it is in the code of CaP's first
            author, not known from the paper.
        ridge: On the diagonal of the Gram matrices, relative to its mean; by default more for
            fewer rows, see `Moments.ridge`.
        sampling: How moments are taken.
        progress: Called with a line per batch; by default a bar in the terminal.

    Returns:
        One entry per layer that changed, with errors for the inputs that the dense model has.

    Raises:
        SlimgraphError: The models do not belong together, or the data is empty.

    Source: Xie et al., Pruning with Compensation, arXiv 2108.13728 (restated from its first
    author's code); Frantar & Alistarh, Optimal Brain Compression, NeurIPS 2022, section 4.
    """
    sampling = sampling or Sampling()
    pairs = [p for p in pairs_of(dense, slim) if p.columns.shape[1] <= sampling.widest]
    found = []
    taken = moments_of(dense, [[pair.dense] for pair in pairs], data, sampling, progress)
    for pair, (moments,) in zip(pairs, taken, strict=True):
        centered = intercept and takes_shift(slim, pair.slim, new=True)
        gram = moments.centered(intercept=centered)[0]
        parts = zip(gram, pair.dense.matrix().double(), pair.columns, strict=True)
        own = moments.ridge(ridge)
        matrix = torch.stack([_best(*part, own, match_variance=match_variance) for part in parts])
        found.append(_repaired(pair, moments, matrix, centered=centered))
        pair.set_matrix(matrix)
        if centered:
            lost = (pair.dense.matrix().double() - matrix) @ moments.inputs[:, :, None]
            add_shift(slim, pair.slim, pair.outputs((lost / moments.rows).flatten()))
    return found


def _best(
    gram: Tensor, target: Tensor, kept: Tensor, ridge: float, *, match_variance: bool
) -> Tensor:
    """Return the best weights, zero in columns that are lost. Shape: (outputs, columns)."""
    result = torch.zeros_like(target)
    if bool(kept.any()):
        result[:, kept] = best_weights(gram, target, kept, ridge)[0]
    if match_variance and not bool(kept.all()):
        had, has = (((w @ gram) * w).sum(1) for w in (target, result))
        result *= torch.where(has > 0, had / has.clamp_min(1e-300), 1.0).sqrt()[:, None]
    return result


def _repaired(pair: Pair, moments: Moments, matrix: Tensor, *, centered: bool) -> Repaired:
    """Say what the layer misses before and after, of what the inputs make without a bias."""
    plain, gram = (moments.centered(intercept=own)[0] for own in (False, centered))
    weight = pair.dense.matrix().double()

    def energy(weights: Tensor, moment: Tensor) -> float:
        return float(((weights @ moment) * weights).sum())

    whole = max(energy(weight, plain), 1e-300)
    before = energy(weight * ~pair.columns[:, None, :], plain)
    return Repaired(pair.dense.key, before / whole, energy(weight - matrix, gram) / whole)
