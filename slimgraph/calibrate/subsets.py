"""Which inputs of a layer can be spared, if the weights of the others make up for them.

For inputs x with Gram matrix H, a layer W and a set S of columns that stay, the best weights are
`W H[:, S] H[S, S]^-1`, and what they miss is `tr(W V W^T)` with V the Schur complement of S in H.
Whether columns leave one by one (structured OBS) or come one by one (CaP), it is the same sweep of
one table, `[H^-1; W]` or `[H; W H]`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimgraph.calibrate.moments import Moments, factor_of
from slimgraph.calibrate.ranks import Progress, tracked
from slimgraph.calibrate.readers import Reader

_ROUNDING = 1e-6  # of products in single precision, which sums in double do not mend


@dataclass(frozen=True, eq=False)
class Regression:
    """One layer, or one group of a grouped one.

    Attributes:
        gram: Mean of `x x^T`. Shape: (columns, columns).
        weight: What the layer has. Shape: (outputs, columns).
        target: What it should have if it could keep all columns; the same shape.
        channels: The channel that each column reads. Shape: (columns,).
        energy: Mean square of the whole layer's output, around its mean if the Gram matrix is.
        ridge: On the diagonal of the Gram matrix, relative to its mean.
    """

    gram: Tensor
    weight: Tensor
    target: Tensor
    channels: Tensor
    energy: float
    ridge: float


def regressions(
    reader: Reader,
    moments: Moments,
    ridge: float | None,
    *,
    centered: bool,
    target: Tensor | None = None,
) -> list[Regression]:
    """Split a layer into its groups; none if it makes nothing but zeros.

    Args:
        reader: The layer.
        moments: Of its inputs.
        ridge: By default what `Moments.ridge` says.
        centered: Whether a bias, or the norm behind, takes the means.
        target: Weights that it should have; by default its own. Shape: as `Layer.matrix`.
    """
    gram, _ = moments.centered(intercept=centered)
    weight = reader.layer.matrix().double()
    wanted = weight if target is None else target
    energy, whole = (
        float(((wanted @ each) * wanted).sum())
        for each in (gram, moments.centered(intercept=False)[0])
    )
    if not energy > _ROUNDING * whole:
        return []
    parts = zip(gram, weight, wanted, reader.channels, strict=True)
    return [Regression(*part, energy, moments.ridge(ridge)) for part in parts]


def best_weights(gram: Tensor, target: Tensor, kept: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return the best weights of the columns that stay, and what they miss.

    Args:
        gram: Mean of `x x^T`. Shape: (columns, columns).
        target: Weights that use all columns. Shape: (outputs, columns).
        kept: Bool tensor. Shape: (columns,).
        ridge: See `factor_of`.

    Returns:
        Weights, (outputs, kept columns), the target's own if all stay; and the mean squared error
        of each output, (outputs,).

    Source: CaP, arXiv 2108.13728: `W Sigma_CS Sigma_SS^-1`; written as the update of structured
    OBS, `W_S + W_R H_RS H_SS^-1` for columns R that leave, so that what loses nothing stays.
    """
    lost = target[:, ~kept]
    if not lost.numel():
        return target, torch.zeros_like(target[:, 0])
    inner = gram[kept][:, kept]
    cross = gram[kept][:, ~kept] @ lost.mT
    change = torch.cholesky_solve(cross, factor_of(inner[None], ridge)[0]).mT
    missed = ((lost @ gram[~kept][:, ~kept]) * lost).sum(1) - 2 * (change * cross.mT).sum(1)
    missed += ((change @ inner) * change).sum(1)
    return target[:, kept] + change, missed.clamp_min(0)


class _Table:
    """A matrix to sweep and the rows under it: `[H^-1; W]` or `[H; W H]`.

    What has been taken stays in it as zeros, until there is much of that.
    """

    def __init__(self, regression: Regression, *, backward: bool) -> None:
        gram, target = regression.gram, regression.target
        ridge = max(regression.ridge, 1e-12)  # inputs that never vary have a row of zeros
        scale = gram.diagonal().mean()
        damped = gram + ridge * scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        square = torch.cholesky_inverse(factor_of(gram[None], ridge)[0]) if backward else damped
        self.matrix = torch.cat([square, target if backward else target @ gram])
        self.channels = regression.channels.to(gram.device)
        self.energy = regression.energy

    def gains(self, free: Tensor) -> Tensor:
        """Return what the layer's error changes by for each channel, zero for others.

        It is `tr(B A^-1 B^T) / energy` for the channel's block A of the matrix and B of the rows.

        Args:
            free: Bool tensor. Shape: (channels of the model,).
        """
        result = torch.zeros(len(free), dtype=self.matrix.dtype)
        left = self.channels >= 0
        columns = (left & free.to(left.device)[self.channels.clamp(min=0)]).nonzero().flatten()
        if not len(columns):
            return result
        own, index, there = _by_channel(self.channels[columns], columns)
        eye = torch.eye(index.shape[1], dtype=self.matrix.dtype, device=index.device)
        both = there[:, :, None] & there[:, None, :]
        blocks = torch.where(both, self.matrix[index[:, :, None], index[:, None, :]], eye)
        rows = self.matrix[len(self.channels) :, index.flatten()]
        rows = rows.reshape(-1, *index.shape).permute(1, 2, 0)
        rows = rows if bool(there.all()) else torch.where(there[:, :, None], rows, 0.0)
        found = torch.linalg.solve_triangular(factor_of(blocks, 0.0), rows, upper=False)
        result[own.cpu()] = found.square().sum((1, 2)).cpu() / self.energy
        return result

    def gain_of(self, channels: Tensor) -> float:
        """Return what the layer's error changes by for some channels at once."""
        at = torch.isin(self.channels, channels.to(self.channels.device)).nonzero().flatten()
        if not len(at):
            return 0.0
        factor = factor_of(self.matrix[at][:, at][None], 0.0)[0]
        rows = self.matrix[len(self.channels) :, at].mT
        found = torch.linalg.solve_triangular(factor, rows, upper=False)
        return float(found.square().sum()) / self.energy

    def take(self, channels: Tensor) -> bool:
        """Sweep the columns of some channels; return whether there are any."""
        taken = torch.isin(self.channels, channels.to(self.channels.device))
        at = taken.nonzero().flatten()
        if not len(at):
            return False
        factor = factor_of(self.matrix[at][:, at][None], 0.0)[0]
        right = torch.cholesky_solve(self.matrix[at], factor)
        self.matrix.addmm_(self.matrix[:, at], right, alpha=-1)
        self.channels = torch.where(taken, -1, self.channels)
        rest = (self.channels >= 0).nonzero().flatten()
        if len(rest) < 0.8 * len(self.channels):
            under = torch.arange(len(self.channels), len(self.matrix), device=rest.device)
            self.matrix = self.matrix[torch.cat([rest, under])][:, rest]
            self.channels = self.channels[rest]
        return True


def _by_channel(channels: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort columns by channel.

    Returns:
        The channels, shape (n,), the columns of each, (n, most), and which of these are real.
    """
    own, local = channels.unique(return_inverse=True)
    counts = local.bincount()
    order = local.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(order), device=order.device) - starts[local[order]]
    index = torch.zeros(len(own), int(counts.max()), dtype=torch.long, device=order.device)
    index[local[order], place] = columns[order]
    there = torch.arange(index.shape[1], device=order.device) < counts[:, None]
    return own, index, there


AT_ONCE = 32  # of so many channels, one may be taken in a step
HARDLY = 0.02  # if together they cost, or gain, no more than so much else than one by one


def sweep(
    regressions: Sequence[Regression],
    free: Tensor,
    *,
    backward: bool,
    progress: Progress = None,
) -> tuple[Tensor, Tensor]:
    """Take channels one by one out of layers, or into them, over all layers that read them.

    Backward, the channel leaves whose loss costs least; forward, the one comes that explains most.
    The cost adds up over layers, as a share of each one's energy. Of very many channels several
    are taken in a step, but only if they have hardly anything to do with each other.

    Args:
        regressions: Layers whose free channels are their own.
        free: What may be taken. Shape: (channels of the model,).
        backward: Which way.
        progress: See `tracked`.

    Returns:
        Channels in the order in which they are taken, and the cost or gain of each.
        Shape: (taken,).

    Source: backward, the algebra of Optimal Brain Surgeon for blocks (Hassibi & Stork, NIPS 1992;
    Frantar & Alistarh, Optimal Brain Compression, NeurIPS 2022, section 4, for groups); forward,
    the ranking of CaP, arXiv 2108.13728 (restated from its first author's code).
    """
    tables = [_Table(each, backward=backward) for each in regressions]
    there = torch.zeros_like(free)
    for each in regressions:
        there[each.channels] = True
    free = free & there
    order, gains = [free.nonzero().flatten()[:0]], [torch.zeros(0, dtype=torch.double)]
    own = [table.gains(free) for table in tables]
    for _ in tracked(_rounds(free), "rank channels", progress):
        total = torch.stack(own).sum(0)
        ranked = total.masked_fill(~free, torch.inf if backward else -torch.inf)
        best = ranked.argsort(descending=not backward, stable=True)[
            : max(1, int(free.sum()) // AT_ONCE)
        ]
        while len(best) > 1 and not _independent(tables, best, total[best]):
            best = best[: len(best) // 2]
        order.append(best)
        gains.append(total[best])
        free[best] = False
        own = [t.gains(free) if t.take(best) else o for t, o in zip(tables, own, strict=True)]
    return torch.cat(order), torch.cat(gains)


def _rounds(free: Tensor) -> Iterator[None]:
    while bool(free.any()):
        yield


def _independent(tables: Sequence[_Table], channels: Tensor, gains: Tensor) -> bool:
    together = sum(table.gain_of(channels) for table in tables)
    alone = float(gains.sum())
    return abs(together - alone) <= HARDLY * alone
