"""Second moments of rows, in double precision, that can be merged and added up over ranks."""

from typing import Any

import torch
from torch import Tensor

from slimgraph.calibrate.ranks import all_reduce


class Moments:
    """Sums over rows of `x x^T`, `x e^T`, `x`, `e` and `|e|^2`, group by group.

    Sums over batches, and over ranks, are those over all rows at once.

    Args:
        groups: Number of groups.
        columns: Length of x.
        outputs: Length of e.
        device: Where the sums live.
    """

    def __init__(self, groups: int, columns: int, outputs: int, device: torch.device) -> None:
        """Start with no row."""
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.rows = torch.zeros((), **options)
        self.gram = torch.zeros(groups, columns, columns, **options)
        self.cross = torch.zeros(groups, columns, outputs, **options)
        self.inputs = torch.zeros(groups, columns, **options)
        self.outputs = torch.zeros(groups, outputs, **options)
        self.energy = torch.zeros(groups, **options)

    def sums(self) -> tuple[Tensor, ...]:
        """Return all sums."""
        return self.rows, self.gram, self.cross, self.inputs, self.outputs, self.energy

    def add(self, x: Tensor, e: Tensor) -> None:
        """Add rows.

        Args:
            x: Shape: (rows, groups, columns).
            e: Shape: (rows, groups, outputs).
        """
        kind = torch.promote_types(x.dtype, torch.float32)
        x, e = x.to(kind).transpose(0, 1), e.to(kind).transpose(0, 1)
        self.rows += x.shape[1]
        self.gram += x.mT @ x  # products in single precision or more, sums in double
        self.cross += x.mT @ e
        self.inputs += x.double().sum(1)
        self.outputs += e.double().sum(1)
        self.energy += e.double().square().sum((1, 2))

    def merge(self, other: "Moments") -> None:
        """Add the rows of another."""
        for own, more in zip(self.sums(), other.sums(), strict=True):
            own.add_(more.to(own.device))

    def all_reduce(self) -> None:
        """Add up over all ranks, if there are several."""
        all_reduce(*self.sums())

    def left(self, change: Tensor, shift: Tensor) -> float:
        """Return `sum |e - D x - d|^2`.

        Args:
            change: D. Shape: (groups, outputs, columns).
            shift: d. Shape: (groups, outputs).
        """
        linear = (change.mT * self.cross).sum() + (shift * self.outputs).sum()
        inner = (change @ self.inputs[:, :, None])[:, :, 0]
        square = ((change @ self.gram) * change).sum() + self.rows * shift.square().sum()
        total = self.energy.sum() - 2 * linear + square + 2 * (shift * inner).sum()
        return max(float(total), 0.0)

    def centered(self, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
        """Return the means of `x x^T` and `x e^T`, around the means of x and e if asked to."""
        gram, cross = self.gram / self.rows, self.cross / self.rows
        if intercept:
            x, e = self.inputs / self.rows, self.outputs / self.rows
            gram = gram - x[:, :, None] * x[:, None, :]
            cross = cross - x[:, :, None] * e[:, None, :]
        return gram, cross

    def ridge(self, given: float | None) -> float:
        """Return a ridge that suits the number of rows, if none is given.

        It is `max(1e-4, columns / rows / 100)`: few rows say little of many columns. Chosen by
        trying, as the least that repairs well from 16 images.
        """
        if given is not None:
            return given
        return max(1e-4, self.gram.shape[1] / max(float(self.rows), 1.0) / 100)

    def solve(self, ridge: float | None, *, intercept: bool) -> tuple[Tensor, Tensor]:
        """Return the D and d that minimise `sum |e - D x - d|^2 + ridge * scale * |D|^2`.

        `scale` is the mean diagonal of the Gram matrix. Where the errors are zero, so are both.

        Args:
            ridge: Relative to the inputs' mean square; grows tenfold while the matrix is singular.
                By default what `Moments.ridge` says.
            intercept: Whether there is a d; else it is zero.

        Returns:
            D, shape (groups, outputs, columns), and d, (groups, outputs).

        Source: the normal equations of ridge regression; Cholesky with jitter.
        """
        gram, cross = self.centered(intercept=intercept)
        means = self.inputs / self.rows, self.outputs / self.rows
        change = torch.cholesky_solve(cross, factor_of(gram, self.ridge(ridge))).mT
        shift = means[1] - (change @ means[0][:, :, None])[:, :, 0]
        return change, shift if intercept else torch.zeros_like(shift)


def factor_of(gram: Tensor, ridge: float) -> Tensor:
    """Return Cholesky factors of Gram matrices, with a ridge on the diagonal.

    Args:
        gram: Shape: (groups, columns, columns).
        ridge: Relative to the mean diagonal; grows tenfold while a matrix is singular.
    """
    scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-30)
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * scale * eye)
    jitter = max(ridge, 1e-12)
    while bool(failed.any()):
        jitter *= 10
        factor, failed = torch.linalg.cholesky_ex(gram + jitter * scale * eye)
    result: Tensor = factor
    return result
