"""The networks of the papers, sized for two cores: a width is a share of the paper's own.

All take images of any size from 28 pixels, and the residual ones smaller ones, too; the last layer
is called `classifier`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from tools.experiments.blocks import (
    Attention,
    Basic,
    Bottleneck,
    ChannelAttention,
    Dense,
    Inverted,
    Squeezed,
    conv,
    conv_norm,
    norm_conv,
    steps,
)

Shape = tuple[int, ...]
_STAGES = (16, 32, 64)


@dataclass(frozen=True)
class Scale:
    """Counts of channels at a width.

    Attributes:
        width: The share of the paper's.
    """

    width: float

    def __call__(self, channels: int) -> int:
        """Return a count: at least 2."""
        return max(round(channels * self.width), 2)


Make = Callable[[Shape, int, Scale], nn.Module]


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        make: From the shape of an image (C, H, W), the number of classes and the scale.
        width: What two cores train in minutes.
        selections: Whether its papers let each reader of a value drop channels of its own.
    """

    make: Make
    width: float
    selections: bool = False


def _ended(
    first: Sequence[nn.Module], blocks: Sequence[nn.Module], last: Sequence[nn.Module],
    channels: int, classes: int,
) -> nn.Module:  # fmt: skip
    """Put a network together that ends in a mean over positions and one linear layer."""
    head = [*last, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    parts = {
        "first": nn.Sequential(*first),
        "blocks": nn.Sequential(*blocks),
        "last": nn.Sequential(*head),
        "classifier": nn.Linear(channels, classes),
    }
    return nn.Sequential(OrderedDict(parts))


# Liu et al., Network Slimming, ICCV 2017: VGG-19 with one linear layer; 0 stands for pooling.
_VGG = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4)


def _vgg(shape: Shape, classes: int, scale: Scale) -> nn.Module:
    blocks: list[nn.Module] = []
    channels = shape[0]
    for wanted in _VGG:
        if not wanted:
            blocks.append(nn.MaxPool2d(2))
            continue
        blocks += [*conv_norm(channels, scale(wanted)), nn.ReLU()]
        channels = scale(wanted)
    return _ended((), blocks, (), channels, classes)


def _preresnet(shape: Shape, classes: int, scale: Scale) -> nn.Module:
    """Make a ResNet of 56 layers of bottlenecks; the slimming paper has one of 164."""
    widths = tuple(scale(width) for width in _STAGES)
    first, blocks, channels = scale(16), [], scale(16)
    for _, width, stride in steps(first, widths, 6):
        blocks.append(Bottleneck(channels, width, stride))
        channels = 4 * width
    last = (nn.BatchNorm2d(channels), nn.ReLU())
    return _ended([conv(shape[0], first)], blocks, last, channels, classes)


def _densenet(shape: Shape, classes: int, scale: Scale) -> nn.Module:
    """Make three dense blocks of twelve layers; the growth is 12 at width 1."""
    growth, channels = scale(12), scale(24)
    first, blocks = conv(shape[0], channels), list[nn.Module]()
    for stage in range(3):
        for _ in range(12):
            blocks.append(Dense(channels, growth))
            channels += growth
        if stage < 2:
            blocks += [*norm_conv(channels, channels, 1), nn.AvgPool2d(2)]
    last = (nn.BatchNorm2d(channels), nn.ReLU())
    return _ended([first], blocks, last, channels, classes)


def _resnet(depth: int, attention: Attention | None = None) -> Make:
    """Make ResNets for CIFAR, of 6 depth + 2 layers."""

    def make(shape: Shape, classes: int, scale: Scale) -> nn.Module:
        widths = tuple(scale(width) for width in _STAGES)
        blocks = [Basic(*step, attention) for step in steps(widths[0], widths, depth)]
        first = [*conv_norm(shape[0], widths[0]), nn.ReLU()]
        return _ended(first, blocks, (), widths[-1], classes)

    return make


def _senet(shape: Shape, classes: int, scale: Scale) -> nn.Module:
    """Make a PreActSENet-18."""
    widths = tuple(scale(width) for width in (64, 128, 256, 512))
    blocks = [Squeezed(*step) for step in steps(widths[0], widths, 2)]
    last = (nn.BatchNorm2d(widths[-1]), nn.ReLU())
    return _ended([conv(shape[0], widths[0])], blocks, last, widths[-1], classes)


# Expansion, outputs, blocks, stride; strides as for CIFAR.
_MOBILE = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def _mobilenet(shape: Shape, classes: int, scale: Scale) -> nn.Module:
    channels, end = scale(32), scale(1280)
    first, blocks = [*conv_norm(shape[0], channels), nn.ReLU6()], []
    for expansion, outputs, count, stride in _MOBILE:
        for index in range(count):
            blocks.append(Inverted(channels, scale(outputs), 1 if index else stride, expansion))
            channels = scale(outputs)
    last = (*conv_norm(channels, end, 1), nn.ReLU6())
    return _ended(first, blocks, last, end, classes)


def _plain(convolutions: Sequence[tuple[int, int, bool]], hidden: Sequence[int]) -> Make:
    """Make networks without norms: convolutions (channels, kernel, pooled), linear layers."""

    def make(shape: Shape, classes: int, scale: Scale) -> nn.Module:
        channels, side = shape[:2]
        blocks: list[nn.Module] = []
        for outputs, size, pooled in convolutions:
            blocks += [nn.Conv2d(channels, scale(outputs), size, padding=size // 2), nn.ReLU()]
            channels = scale(outputs)
            if pooled:
                blocks.append(nn.MaxPool2d(2))
                side //= 2
        blocks.append(nn.Flatten())
        numbers = channels * side * side
        for outputs in hidden:
            blocks += [nn.Linear(numbers, scale(outputs)), nn.ReLU()]
            numbers = scale(outputs)
        parts = {"blocks": nn.Sequential(*blocks), "classifier": nn.Linear(numbers, classes)}
        return nn.Sequential(OrderedDict(parts))

    return make


NETWORKS = {
    "vgg-19-bn": Network(_vgg, 0.25),
    "preresnet-56": Network(_preresnet, 0.5, selections=True),
    "densenet-40": Network(_densenet, 1 / 3, selections=True),
    "resnet-20": Network(_resnet(3), 0.5),
    "resnet-56": Network(_resnet(9), 0.5),
    "cifarnet": Network(_plain(((64, 5, True), (64, 5, True)), (384, 192)), 0.5),
    "alexnet": Network(
        _plain(
            ((64, 5, True), (192, 3, True), (384, 3, False), (256, 3, False), (256, 3, True)),
            (512, 512),
        ),
        0.25,
    ),
    "preact-senet-18": Network(_senet, 0.25),
    "eca-resnet-20": Network(_resnet(3, ChannelAttention), 0.5),
    "mobilenet-v2": Network(_mobilenet, 0.25),
}


def build(name: str, shape: Shape, classes: int = 10, width: float | None = None) -> nn.Module:
    """Make a network with random weights.

    Args:
        name: One of `NETWORKS`.
        shape: Of one image: (C, H, W), H = W.
        classes: How many.
        width: The share of the paper's; by default what suits two cores.
    """
    network = NETWORKS[name]
    return network.make(shape, classes, Scale(network.width if width is None else width))
