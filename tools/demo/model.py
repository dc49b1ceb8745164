"""DigitsNet: one small network with every kind of coupling a channel can be caught in."""

import torch
from torch import nn


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution followed by batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut: the sum ties the shortcut's channels to the last ones.

    Args:
        width: Channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv_norm(width, width, 3)
        self.second = conv_norm(width, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, width, H, W) to the same shape."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class DenseBlock(nn.Module):
    """Each layer reads all earlier ones: the concatenation shifts where a channel is found.

    Args:
        width: Channels in.
        growth: Channels each layer adds.
        layers: How many layers.
    """

    def __init__(self, width: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv_norm(width + i * growth, growth, 3) for i in range(layers))
        self.width = width + layers * growth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, width, H, W) to (N, width + layers * growth, H, W)."""
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], dim=1)
        return x


class Gate(nn.Module):
    """Squeeze and excitation: a factor per channel, computed from all channels.

    Args:
        width: Channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // 4, 1)
        self.excite = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, width, H, W) to the same shape."""
        summary = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(summary))))


class GatedBlock(nn.Module):
    """Expand, depth-wise convolution, gate, project, shortcut.

    Args:
        width: Channels in and out.
        expansion: How many times wider the inside is.
    """

    def __init__(self, width: int, expansion: int = 2) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = conv_norm(width, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.gate = Gate(inner)
        self.project = conv_norm(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, width, H, W) to the same shape."""
        y = torch.relu(self.expand(x))
        y = torch.relu(self.norm(self.depthwise(y)))
        projected: torch.Tensor = self.project(self.gate(y))
        return x + projected


class DigitsNet(nn.Module):
    """A classifier of 16 x 16 grey images into ten digits.

    Args:
        width: Channels of the first stage; the others follow from it.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = conv_norm(1, width, 3)
        self.residual = ResidualBlock(width)
        self.down = conv_norm(width, width, 3, stride=2)
        self.dense = DenseBlock(width, growth=width // 2, layers=4)
        self.mix = conv_norm(self.dense.width, 2 * width, 1)
        self.gated = GatedBlock(2 * width)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(2 * width * 4 * 4, 4 * width)
        self.classify = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 1, 16, 16) to scores (N, 10)."""
        x = self.residual(torch.relu(self.stem(x)))
        x = self.dense(torch.relu(self.down(x)))
        x = self.pool(self.gated(torch.relu(self.mix(x))))
        scores: torch.Tensor = self.classify(torch.relu(self.hidden(torch.flatten(x, 1))))
        return scores
