"""Statistics of batch norms, taken anew."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimgraph.calibrate.ranks import Progress, all_reduce, tracked
from slimgraph.calibrate.running import batches


@torch.no_grad()
def recalibrate(model: nn.Module, data: Iterable[Any], progress: Progress = None) -> int:
    """Take the running statistics of every BatchNorm anew, as the mean over all batches.

    Batches of all ranks count. Nothing else changes: neither weights nor modes of modules.

    Args:
        model: Any module; its BatchNorms' running statistics are overwritten.
        data: Batches of inputs, or of (inputs, target); without labels. Larger batches have
            truer statistics: at least a few hundred images in all, batches of 32 or more.
        progress: Called with a line per batch; by default a bar in the terminal.

    Returns:
        The number of norms.

    Raises:
        SlimgraphError: The data is empty.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.training) for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch then averages over all batches
            norm.train()
        for inputs in batches(model, tracked(data, "statistics of norms", progress)):
            model(*inputs)
        for norm in norms:
            _merge(norm)
    finally:
        for norm, (momentum, _) in zip(norms, before, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return len(norms)


def _merge(norm: _BatchNorm) -> None:
    """Average statistics over the batches of all ranks."""
    mean, variance, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean is not None, "it tracks its statistics"
    assert variance is not None, "likewise"
    assert count is not None, "likewise"
    sums = [mean.double() * count, variance.double() * count, count.double()]
    all_reduce(*sums)
    mean.copy_(sums[0] / sums[2])
    variance.copy_(sums[1] / sums[2])
    count.copy_(sums[2])
