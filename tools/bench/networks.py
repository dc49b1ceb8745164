"""The networks the benchmarks run on, by name, with random weights."""

import torch
import torchvision
from torch import Tensor, nn


def build(name: str) -> nn.Module:
    """Make a network in eval mode.

    Args:
        name: `dense-24` for one dense block of 24 layers, or torchvision's name.
    """
    if name.startswith("dense-"):
        depth = int(name.removeprefix("dense-"))
        block: nn.Module = torchvision.models.DenseNet(12, (depth,), 24, num_classes=10)
        return block.eval()
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model.eval()


def example(name: str) -> Tensor:
    """Make one input of the usual size; small networks get small ones."""
    size = 32 if name.startswith("dense-") else 224
    return torch.randn(1, 3, size, size)
