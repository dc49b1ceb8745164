"""Normalisations whose statistics skip removed channels: what the reference of `masked` computes.

A normalisation over channels has no zero that changes nothing: its mean and variance depend on how
many channels there are. So what it means to ignore a channel is stated here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def standardize(
    input: Tensor, removed: Tensor, dims: tuple[int, ...], eps: float | None, *, centre: bool = True
) -> Tensor:
    """Subtract the mean of the kept positions and divide by their standard deviation.

    Args:
        input: Any shape.
        removed: Bool tensor that broadcasts to the input; True = skip.
        dims: What the statistics go over.
        eps: Added to the variance, in squared units of the input; `None`: that of the dtype.
        centre: Whether to subtract the mean; else the root mean square is the divisor.

    Returns:
        Dimensionless, zero where removed. Shape: that of the input.
    """
    gone = removed.expand(input.shape)
    count = (~gone).sum(dims, keepdim=True).clamp(min=1)
    centred = input.masked_fill(gone, 0)
    if centre:
        mean = centred.sum(dims, keepdim=True) / count
        centred = (input - mean).masked_fill(gone, 0)
    variance = centred.square().sum(dims, keepdim=True) / count
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    result: Tensor = centred / (variance + floor).sqrt()
    return result


def _affine(
    values: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    if weight is not None:
        values = values * weight.reshape(shape)
    return values if bias is None else values + bias.reshape(shape)


def group_norm(
    input: Tensor,
    removed: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Group normalisation over the kept channels of each group.

    Args:
        input: Shape: (N, C, *).
        removed: Bool tensor that broadcasts to the input; True = skip.
        num_groups: Number of groups C is divided into.
        weight: Scale per channel, or `None`. Shape: (C,).
        bias: Shift per channel, or `None`. Shape: (C,).
        eps: Added to the variance, in squared units of the input.

    Source: Wu and He, Group Normalization, ECCV 2018, eq. 1, 2, 7.
    """
    rows = (input.shape[0], num_groups, -1)
    gone = removed.expand(input.shape).reshape(rows)
    values = standardize(input.reshape(rows), gone, (2,), eps).reshape(input.shape)
    return _affine(values, (1, -1, *[1] * (input.ndim - 2)), weight, bias)


def layer_norm(
    input: Tensor,
    removed: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalisation over the kept positions of the last dims.

    Args:
        input: Shape: (*, *normalized_shape).
        removed: Bool tensor that broadcasts to the input; True = skip.
        normalized_shape: The sizes of the last dims.
        weight: Scale, or `None`. Shape: normalized_shape.
        bias: Shift, or `None`. Shape: normalized_shape.
        eps: Added to the variance, in squared units of the input.

    Source: Ba et al., Layer Normalization, arXiv 1607.06450, eq. 4.
    """
    dims = range(-len(normalized_shape), 0)
    values = standardize(input, removed, tuple(dims), eps)
    return _affine(values, normalized_shape, weight, bias)


def rms_norm(
    input: Tensor,
    removed: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Root mean square normalisation over the kept positions of the last dims.

    Args:
        input: Shape: (*, *normalized_shape).
        removed: Bool tensor that broadcasts to the input; True = skip.
        normalized_shape: The sizes of the last dims.
        weight: Scale, or `None`. Shape: normalized_shape.
        eps: Added to the mean square, in squared units of the input; `None`: that of the dtype.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019, eq. 4.
    """
    dims = range(-len(normalized_shape), 0)
    values = standardize(input, removed, tuple(dims), eps, centre=False)
    return _affine(values, normalized_shape, weight, None)


def batch_norm(
    input: Tensor,
    removed: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: Any = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation by the statistics of its input, as weight standardisation uses it.

    Args:
        input: Shape: (N, C, *).
        removed: Bool tensor that broadcasts to the input; True = skip.
        running_mean: Not read.
        running_var: Not read.
        weight: Scale per channel, or `None`. Shape: (C,).
        bias: Shift per channel, or `None`. Shape: (C,).
        training: Not read: this stands only for calls that normalise by their input.
        momentum: Not read.
        eps: Added to the variance, in squared units of the input.

    Source: Ioffe and Szegedy, Batch Normalization, ICML 2015, algorithm 1; Qiao et al., Weight
    Standardization, arXiv 1903.10520, eq. 6.
    """
    dims = (0, *range(2, input.ndim))
    shape = (1, -1, *[1] * (input.ndim - 2))
    return _affine(standardize(input, removed, dims, eps), shape, weight, bias)
