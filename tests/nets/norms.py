"""Normalisations and activations with parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare, conv, rows
from tests.nets.convolutions import Chain


class BatchNorms(Chain):
    """With and without scale, with and without running statistics."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "n1": nn.BatchNorm2d(8), "n2": nn.BatchNorm2d(8, affine=False),
            "n3": nn.BatchNorm2d(8, track_running_stats=False), "n4": nn.SyncBatchNorm(8),
            "act": nn.Sigmoid(), "head": conv(8, 2),
        }  # fmt: skip


class InstanceNorms(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "n1": nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            "mid": conv(8, 6), "n2": nn.InstanceNorm2d(6), "act": nn.ReLU(), "head": conv(6, 2),
        }  # fmt: skip


class GroupNorms(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "n1": nn.GroupNorm(2, 8), "mid": conv(8, 6),
            "n2": nn.GroupNorm(1, 6),
            "act": nn.ReLU(), "last": conv(6, 4), "n3": nn.GroupNorm(4, 4, affine=False),
            "head": conv(4, 2),
        }  # fmt: skip


class PReLUs(Chain):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8),
            "act": nn.PReLU(8),
            "mid": conv(8, 6),
            "one": nn.PReLU(),
            "head": conv(6, 2),
        }


class FunctionalNorms(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "scale": bare(8), "shift": bare(8), "slope": bare(8),
            "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.group_norm(self.stem(x), 4, self.scale, self.shift)
        x = F.prelu(x, self.slope)
        return self.head(F.instance_norm(x))


class FrozenBatchNorm(Net):
    """As in torchvision's detection models: buffers only, applied by hand."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "weight": torch.ones(8), "bias": torch.zeros(8),
            "running_mean": torch.zeros(8), "running_var": torch.ones(8), "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        variance = self.running_var.reshape(1, -1, 1, 1)
        scale = weight * (variance + 1e-5).rsqrt()
        shift = bias - self.running_mean.reshape(1, -1, 1, 1) * scale
        return self.head(F.relu(self.stem(x) * scale + shift))


class LayerNorms(Net):
    """Its statistics run over the channels that are kept."""

    def parts(self) -> dict[str, Any]:
        return {
            "a": nn.Linear(5, 8),
            "norm": nn.LayerNorm(8),
            "b": nn.Linear(8, 6),
            "head": nn.Linear(6, 2),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.b(self.norm(self.a(x)))))


class Softmaxes(Net):
    """Softmax over pixels leaves channels alone; over channels it mixes them."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8), "c": conv(3, 6), "head": conv(14, 2)}

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        pixels = torch.softmax(b.flatten(2), dim=2).reshape(b.shape)
        return self.head(torch.cat([a * pixels, F.softmax(self.c(x), dim=1)], 1))


EXAMPLES = {
    "batch norms": Example(BatchNorms, {"stem": 8}, keeps_zero=False),
    "instance norms": Example(InstanceNorms, {"stem": 8, "mid": 6}),
    "group norms": Example(
        GroupNorms, {"stem": 8, "mid": 6, "last": 4}, rest=True, keeps_zero=False
    ),
    "PReLU": Example(PReLUs, {"stem": 8, "mid": 6}),
    "functional norms": Example(FunctionalNorms, {"stem": 8}, rest=True, keeps_zero=False),
    "frozen batch norm": Example(FrozenBatchNorm, {"stem": 8}, keeps_zero=False),
    "layer norm": Example(
        LayerNorms, {"a": 8, "b": 6}, rows(5), other=None, rest=True, keeps_zero=False
    ),
    "softmax": Example(Softmaxes, {"a": 8}),
}
