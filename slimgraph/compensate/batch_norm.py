"""Statistics of batch norms, taken anew."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimgraph.calibrate.running import batches


@torch.no_grad()
def recalibrate(
    model: nn.Module, data: Iterable[Any], progress: Callable[[str], None] | None = None
) -> int:
    """Take the running statistics of every BatchNorm anew, as the mean over the batches.

    Nothing else changes: neither weights nor the modes of the modules.

    Args:
        model: Any module; its BatchNorms' running statistics are overwritten.
        data: Batches of inputs, or of (inputs, target); without labels. Larger batches have
            truer statistics: at least a few hundred images in all, batches of 32 or more.
        progress: Called with a line per batch.

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
        for index, inputs in enumerate(batches(model, data)):
            if progress is not None:
                progress(f"statistics of norms, batch {index + 1}")
            model(*inputs)
    finally:
        for norm, (momentum, _) in zip(norms, before, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return len(norms)
