"""The networks the benchmarks run on, by name, with random weights."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

# Those with bounds of their own.
SIX = ("resnet50", "densenet121", "vgg16_bn", "mobilenet_v2", "efficientnet_b0", "densenet201")
# All of torchvision's models for classes, segments and videos that Torch-Pruning 1.6.1 can do. Of
# the others ShuffleNet makes it raise, Swin and MaxViT do not end, and what it leaves of MViT does
# not run. ViT-H needs more memory than this is worth; detectors and RAFT need more than one plain
# call.
PEERS = (
    *SIX,
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny",
    "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet101", "deeplabv3_resnet50", "densenet161",
    "densenet169", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
    "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "efficientnet_v2_m", "efficientnet_v2_s", "fcn_resnet101", "fcn_resnet50", "googlenet",
    "inception_v3", "lraspp_mobilenet_v3_large", "mc3_18", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "mobilenet_v3_large", "mobilenet_v3_small", "r2plus1d_18",
    "r3d_18", "regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf",
    "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf", "regnet_y_128gf", "regnet_y_16gf",
    "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf", "regnet_y_800mf",
    "regnet_y_8gf", "resnet101", "resnet152", "resnet18", "resnet34", "resnext101_32x8d",
    "resnext101_64x4d", "resnext50_32x4d", "s3d", "squeezenet1_0", "squeezenet1_1", "vgg11",
    "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32",
    "vit_l_16", "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
)  # fmt: skip
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
