"""The blocks that the networks of the experiments are made of."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Attention = Callable[[int], nn.Module]


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Make a convolution that keeps the size of maps, but for its stride, and has no bias."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def norm_conv(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Make a norm, a ReLU and a convolution: the order of pre-activation."""
    return [nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, outputs, size, stride, groups)]


def conv_norm(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Make a convolution and its norm."""
    return [conv(inputs, outputs, size, stride, groups), nn.BatchNorm2d(outputs)]


class Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without weights (option A).

    Where maps shrink, the shortcut takes every second position and fills up with zero channels.

    Args:
        inputs: Channels.
        outputs: Channels.
        stride: Of the first convolution.
        attention: Makes what comes last of the branch, from the number of channels.

    Source: He et al., Deep Residual Learning, CVPR 2016, section 4.2.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, attention: Attention | None = None
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_norm(inputs, outputs, 3, stride), nn.ReLU(), *conv_norm(outputs, outputs)
        )
        if attention is not None:
            self.branch.append(attention(outputs))
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.branch(x)
        if self.stride > 1 or self.extra:
            left = self.extra // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, left, self.extra - left))
        return F.relu(y + x)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1, each behind its norm; four times as many channels come out.

    Source: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *norm_conv(inputs, width, 1),
            *norm_conv(width, width, 3, stride),
            *norm_conv(width, 4 * width, 1),
        )
        same = inputs == 4 * width and stride == 1
        self.shortcut = nn.Identity() if same else conv(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, 4 width, H / stride, W / stride)."""
        made: Tensor = self.branch(x) + self.shortcut(x)
        return made


class Squeezed(nn.Module):
    """A pre-activation block whose branch is scaled by squeeze and excitation.

    Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = max(outputs // 4, 1)
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.branch = nn.Sequential(conv(inputs, outputs, 3, stride), *norm_conv(outputs, outputs))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(outputs, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, outputs, 1),
            nn.Sigmoid(),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.first(x)
        side = x if self.shortcut is None else self.shortcut(y)
        y = self.branch(y)
        made: Tensor = y * self.gate(y) + side
        return made


class ChannelAttention(nn.Module):
    """Scale channels by what a short convolution over their means says.

    Source: Wang et al., ECA-Net, CVPR 2020.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        del channels  # the window is the same for all the widths here
        self.window = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        means = x.mean((2, 3)).unsqueeze(1)
        gate: Tensor = self.window(means).sigmoid()
        return x * gate.transpose(1, 2).unsqueeze(-1)


class Dense(nn.Module):
    """Puts what a norm and a convolution make behind what they read.

    Source: Huang et al., Densely Connected Convolutional Networks, CVPR 2017.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*norm_conv(inputs, growth))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, inputs + growth, H, W)."""
        return torch.cat((x, self.branch(x)), 1)


class Inverted(nn.Module):
    """1 x 1 to more channels, 3 x 3 depth-wise, 1 x 1 back.

    Source: Sandler et al., MobileNetV2, CVPR 2018.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        widen = [*conv_norm(inputs, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.branch = nn.Sequential(
            *widen,
            *conv_norm(inner, inner, 3, stride, inner),
            nn.ReLU6(),
            *conv_norm(inner, outputs, 1),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.branch(x)
        return x + y if self.adds else y


def steps(first: int, widths: tuple[int, ...], depth: int) -> Iterator[tuple[int, int, int]]:
    """Yield inputs, outputs and stride of each block of stages of equal depth."""
    sizes = [first, *(width for width in widths for _ in range(depth))]
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        yield inputs, outputs, 2 if index and index % depth == 0 else 1
