"""Weights that hide no mistake, and inputs: random numbers everywhere, yet finite in deep nets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map

_SCALES = ("weight", "gamma", "scale", "alpha")


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model without gradients the way its example inputs say.

    A traced model has no inputs for what was no tensor when it was traced.
    """
    if isinstance(inputs, dict) and isinstance(model, fx.GraphModule):
        takes = {node.target for node in model.graph.nodes if node.op == "placeholder"}
        inputs = {name: value for name, value in inputs.items() if name in takes}
    with torch.no_grad():
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def randomise(model: nn.Module, inputs: Any, gain: float = 1.0) -> None:
    """Fill a model with random numbers, in place.

    Weights are drawn at the variance that keeps activations finite; BatchNorm's statistics are
    those of the example inputs, disturbed, so that depth neither blows activations up nor lets
    them vanish behind the last bias.

    Args:
        model: The model.
        inputs: Example inputs it runs at.
        gain: Of the weights. Less than 1 calms a model that amplifies rounding errors, such as a
            deep one whose every softmax is nearly a choice.
    """
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            fan_in = isinstance(module, nn.Linear | _ConvNd)
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and parameter.is_floating_point():
                    _fill(name, parameter, fan_in=fan_in, gain=gain)
            if type(module).__name__.startswith("FrozenBatchNorm"):
                for name, buffer in module.named_buffers(recurse=False):
                    buffer.uniform_(0.5, 1.5) if "var" in name else _fill(name, buffer)
    _calibrate(model, inputs)


def _fill(name: str, tensor: Tensor, *, fan_in: bool = False, gain: float = 1.0) -> None:
    if tensor.ndim > 1:
        fan = tensor[0].numel() if fan_in or tensor.shape[0] > 1 else 4
        tensor.normal_(std=gain * fan**-0.5)
    elif any(word in name for word in _SCALES):
        tensor.uniform_(0.5, 1.5)
    else:
        tensor.normal_(std=0.2)


def _calibrate(model: nn.Module, inputs: Any) -> None:
    """Give every BatchNorm about the statistics of what it sees."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with _training(norms):
        for norm in norms:
            norm.momentum = 1.0
        call(model, inputs)
    with torch.no_grad():
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            assert norm.running_mean is not None
            assert norm.running_var is not None
            variance = norm.running_var.nan_to_num(1).clamp(1e-2)
            norm.running_var.copy_(variance * torch.empty_like(variance).uniform_(0.7, 1.4))
            noise = torch.randn_like(variance) * variance.sqrt()
            norm.running_mean.nan_to_num_(0).add_(noise, alpha=0.2)


@contextmanager
def _training(norms: list[Any]) -> Iterator[None]:
    try:
        for norm in norms:
            norm.training = True
        yield
    finally:
        for norm in norms:
            norm.training = False


def double(inputs: Any) -> Any:
    """Convert floating-point tensors to double precision."""
    return tree_map(
        lambda leaf: (
            leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        ),
        inputs,
    )


def tensors(value: Any) -> list[Tensor]:
    """Collect the tensors of a nested value, also of the output classes of transformers."""
    leaves = tree_leaves(dict(value) if hasattr(value, "keys") else value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
