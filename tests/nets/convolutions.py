"""Convolutions of every kind: grouped, depth-wise, transposed, in one to three dimensions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare, block, conv


class Chain(Net):
    """Runs its parts in order."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class Plain(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "one": block(3, 8),
            "two": conv(8, 6, stride=2),
            "act": nn.GELU(),
            "head": conv(6, 2),
        }


class DepthWise(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "up": block(3, 8), "each": block(8, 8, groups=8), "down": conv(8, 6, 1),
            "head": conv(6, 2),
        }  # fmt: skip


class InvertedResidual(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 6), "up": block(6, 12), "each": block(12, 12, groups=12),
            "down": nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)),
            "head": conv(6, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.down(self.each(self.up(x))))


class Multiplier(Chain):
    """Depth-wise, with two outputs for each input."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 4),
            "each": conv(4, 8, groups=4),
            "act": nn.ReLU(),
            "head": conv(8, 2),
        }


class Grouped(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8),
            "mid": conv(8, 12, groups=2),
            "act": nn.ReLU(),
            "head": conv(12, 2),
        }


class Bottleneck(Net):
    """As in ResNeXt: a grouped convolution within a residual branch."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 8), "down": block(8, 8), "mid": block(8, 8, groups=4),
            "up": nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)), "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.up(self.mid(self.down(x)))))


class GroupedOutputs(Chain):
    """One input per group, several outputs: all of a group leave together."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 4),
            "fan": conv(4, 12, groups=4),
            "mix": conv(12, 6, groups=3),
            "head": conv(6, 2),
        }


class GroupedInputs(Chain):
    """Several inputs per group, one output."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 12),
            "fold": conv(12, 4, groups=4),
            "act": nn.ReLU(),
            "head": conv(4, 2),
        }


class Transposed(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "up": nn.ConvTranspose2d(8, 6, 2, stride=2),
            "norm": nn.BatchNorm2d(6), "act": nn.ReLU(), "head": conv(6, 2),
        }  # fmt: skip


class TransposedGrouped(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "up": nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2),
            "act": nn.ReLU(), "head": conv(6, 2),
        }  # fmt: skip


class TransposedDepthWise(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 6), "up": nn.ConvTranspose2d(6, 6, 4, stride=2, padding=1, groups=6),
            "head": conv(6, 2),
        }  # fmt: skip


class OneDimension(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Conv1d(3, 8, 3, padding=1), "norm": nn.BatchNorm1d(8), "act": nn.ReLU(),
            "pool": nn.MaxPool1d(2), "each": nn.Conv1d(8, 8, 3, groups=8),
            "head": nn.Conv1d(8, 2, 1),
        }  # fmt: skip


class ThreeDimensions(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Conv3d(2, 6, 3, padding=1), "norm": nn.BatchNorm3d(6), "act": nn.ReLU(),
            "pool": nn.AvgPool3d(2), "up": nn.ConvTranspose3d(6, 4, 2, stride=2),
            "mean": nn.AdaptiveAvgPool3d(1), "flat": nn.Flatten(), "head": nn.Linear(4, 2),
        }  # fmt: skip


class Standardized(Net):
    """Every filter is brought to mean zero and norm one before it is used."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weight = self.mid.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = (weight - mean) / weight.std(dim=(1, 2, 3), keepdim=True)
        return self.head(F.relu(F.conv2d(x, weight, self.mid.bias, padding=1)))


class ScaledWeight(Net):
    """Equalised learning rate: the weight is multiplied by a number before it is used."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "weight": bare(6, 8, 3, 3), "gain": bare(6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weight = self.weight * 0.5 * self.gain.view(-1, 1, 1, 1)
        return self.head(F.relu(F.conv2d(x, weight, padding=1)))


class Functional(Net):
    """Convolution, norm and linear as functions on bare parameters and buffers."""

    def parts(self) -> dict[str, Any]:
        return {
            "w1": bare(8, 3, 3, 3), "b1": bare(8), "running_mean": torch.zeros(8),
            "running_var": torch.ones(8),
            "gamma": bare(8), "beta": bare(8), "w2": bare(8, 1, 3, 3), "w3": bare(8, 6, 2, 2),
            "w4": bare(2, 6), "b4": bare(2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.w1, self.b1, stride=1, padding=1)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.gamma, self.beta, False, 0.1, 1e-3
        )
        x = F.conv2d(F.relu(x), self.w2, None, 1, 1, groups=8)
        x = torch.conv_transpose2d(x, self.w3, stride=2)
        return F.linear(F.relu(x).mean((2, 3)), self.w4, bias=self.b4)


class FunctionalGrouped(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8),
            "weight": bare(12, 4, 3, 3),
            "bias": bare(12),
            "head": conv(12, 2),
        }

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.relu(self.stem(x)), self.weight, self.bias, 1, 1, 1, 2)
        return self.head(F.relu(x))


class PerChannel(Net):
    """One small convolution that every channel goes through on its own."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "each": conv(1, 1), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, c, h, w = x.shape
        y = self.each(x.reshape(b * c, 1, h, w))
        return self.head(F.relu(y).reshape(b, -1, h, w))


class PerChannelFan(PerChannel):
    """Two results for every channel: all combinations of channels, so they have to stay."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "each": conv(1, 2), "head": conv(16, 2)}


def _signal(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, 2 * size)


def _volume(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 2, size // 2, size // 2, 4)


EXAMPLES = {
    "plain": Example(Plain, {"one.0": 8, "two": 6}),
    "depth-wise": Example(DepthWise, {"up.0": 8, "down": 6}),
    "inverted residual": Example(InvertedResidual, {"stem.0": 6, "up.0": 12}),
    "depth-wise with multiplier": Example(Multiplier, {"stem": 4}),
    "grouped": Example(Grouped, {"stem": 8, "mid": 12}),
    "grouped bottleneck": Example(Bottleneck, {"stem.0": 8, "down.0": 8, "mid.0": 8}),
    "grouped, one input each": Example(GroupedOutputs, {"stem": 4, "mix": 6}),
    "grouped, one output each": Example(GroupedInputs, {"stem": 4}),
    "transposed": Example(Transposed, {"stem": 8, "up": 6}),
    "transposed grouped": Example(TransposedGrouped, {"stem": 8, "up": 6}),
    "transposed depth-wise": Example(TransposedDepthWise, {"stem": 6}),
    "one dimension": Example(OneDimension, {"stem": 8}, _signal),
    "three dimensions": Example(ThreeDimensions, {"stem": 6, "up": 4}, _volume),
    "standardized weight": Example(Standardized, {"mid": 6}, keeps_zero=False),
    "scaled weight": Example(ScaledWeight, {"stem": 8, "weight": 6}, reads={"weight": (1,)}),
    "functional": Example(
        Functional, {"w1": 8, "w3": 6}, reads={"w1": (1,), "w2": (1,), "w3": (0,), "w4": (1,)}
    ),
    "functional grouped": Example(
        FunctionalGrouped, {"stem": 8, "weight": 12}, reads={"weight": (1,)}
    ),
    "each channel on its own": Example(PerChannel, {"stem": 8}),
    "each channel twice on its own": Example(PerChannelFan, {"stem": 8}),
}
