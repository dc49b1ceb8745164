"""The networks the benchmarks run on, by name, with random weights."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

_VIDEO = {"mc3_18": 112, "r3d_18": 112, "r2plus1d_18": 112, "s3d": 224}
_SEGMENTATION = ("deeplabv3_", "fcn_", "lraspp_")


def build(name: str) -> nn.Module:
    """Make a network in eval mode.

    Args:
        name: `dense-24` for one dense block of 24 layers, or torchvision's name.
    """
    if name.startswith("dense-"):
        depth = int(name.removeprefix("dense-"))
        block: nn.Module = torchvision.models.DenseNet(12, (depth,), 24, num_classes=10)
        return block.eval()
    options: dict[str, Any] = {"weights_backbone": None} if name.startswith(_SEGMENTATION) else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # says nothing about it that way
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model.eval()


def example(name: str) -> Tensor:
    """Make one input of the usual size, a clip for videos; small networks get small ones."""
    if name in _VIDEO:
        return torch.randn(1, 3, 16, _VIDEO[name], _VIDEO[name])
    size = 32 if name.startswith("dense-") else 224
    return torch.randn(1, 3, size, size)


def classes(model: nn.Module) -> int:
    """Return how many classes a network tells apart."""
    kinds = {"torchvision.models.segmentation": 21, "torchvision.models.video": 400}
    home = type(model).__module__
    if isinstance(model, torchvision.models.DenseNet) and model.classifier.out_features == 10:
        return 10
    return next((n for start, n in kinds.items() if home.startswith(start)), 1000)
