"""Branches that meet again: add, concatenate, split, gate, share."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare, block, conv


class Residual(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "body": conv(8, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.body(x)))


class ResidualInPlace(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.body(x)
        y += x
        return self.head(F.relu_(y))


class Stages(Net):
    """Two residual stages; the second halves the image and doubles the channels."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 4), "one": block(4, 4), "two": block(4, 8, stride=2),
            "short": nn.Sequential(nn.Conv2d(4, 8, 1, stride=2), nn.BatchNorm2d(8)),
            "three": block(8, 8), "head": nn.Linear(8, 3),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        x = self.two(x) + self.short(x)
        x = x + self.three(x)
        return self.head(x.mean((2, 3)))


class Concat(Net):
    def parts(self) -> dict[str, Any]:
        return {"left": conv(3, 8), "right": conv(3, 6, 1), "head": conv(14, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.left(x), self.right(x)], 1)))


class ConcatSelf(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "head": conv(16, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([x, F.relu(x)], 1))


class ConcatAdd(Net):
    """Four convolutions whose channels meet at other offsets."""

    def parts(self) -> dict[str, Any]:
        return {
            "a": conv(3, 4), "b": conv(3, 6), "c": conv(3, 6), "d": conv(3, 4),
            "head": conv(10, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        left = torch.cat([self.a(x), self.b(x)], 1)
        right = torch.cat((self.c(x), self.d(x)), dim=1)
        return self.head(F.relu(left + right))


class Dense(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 6), "n1": nn.BatchNorm2d(6), "c1": conv(6, 4),
            "n2": nn.BatchNorm2d(10), "c2": conv(10, 4), "n3": nn.BatchNorm2d(14),
            "head": nn.Linear(14, 3),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.c1(F.relu(self.n1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.n2(x)))], 1)
        return self.head(F.relu(self.n3(x)).mean([2, 3]))


class ConcatRows(Net):
    """Join along the height: the channels of both parts meet."""

    def parts(self) -> dict[str, Any]:
        return {"left": conv(3, 8), "right": conv(3, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.left(x), self.right(x)], dim=2)))


class ConcatBatch(ConcatRows):
    def forward(self, x: Tensor) -> Tensor:
        both = F.relu(torch.cat([self.left(x), self.right(x)]))
        one, two = self.head(both).chunk(2)
        return one * two


class SqueezeExcite(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 8), "down": nn.Linear(8, 4), "up": nn.Linear(4, 8),
            "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, _, _ = x.shape
        gate = F.adaptive_avg_pool2d(x, 1).view(b, c)
        gate = torch.sigmoid(self.up(F.relu(self.down(gate))))
        return self.head(x * gate.view(b, c, 1, 1).expand_as(x))


class SqueezeExciteConv(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "down": conv(8, 4, 1), "up": conv(4, 8, 1), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(
            F.hardsigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True))))) * x
        )


class SpatialAttention(Net):
    """A gate of one channel, made of the mean and the largest of all."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "gate": conv(8, 1), "mid": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.mid(x * torch.sigmoid(self.gate(x)))))


class Chunks(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 16), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.stem(x).chunk(2, dim=1)
        return self.head(value * torch.sigmoid(gate))


class CrossStage(Net):
    """As in YOLO: chunk, a chain, and all of it joined."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 8),
            "m": nn.ModuleList([block(4, 4), block(4, 4)]),
            "head": conv(16, 2),
        }

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.stem(x).chunk(2, 1))
        for m in self.m:
            y.append(m(y[-1]))
        return self.head(torch.cat(y, 1))


class UnevenSplit(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "left": conv(3, 4), "right": conv(5, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(F.relu(self.stem(x)), [3, 5], 1)
        return self.head(F.relu(self.left(one) + self.right(two)))


class Slices(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "left": conv(4, 4), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(torch.cat([self.left(x[:, :4]), x[:, 4:]], 1)))


class SharedModule(Net):
    """One convolution called twice: its inputs are the same channels, and so are its results."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8), "shared": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.shared(F.relu(self.a(x))) - self.shared(F.relu(self.b(x)))))


class ReusedBlock(Net):
    """A block applied to its own result, so that its input and output are the same channels."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "step": block(8, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.step(x)
        return self.head(x)


class ChannelParameter(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8),
            "scale": bare(8, 1, 1),
            "shift": bare(1, 8, 1, 1),
            "head": conv(8, 2),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.stem(x) * self.scale + self.shift))


class LayerScale(Net):
    """A residual branch scaled per channel, in channels-last order."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "up": nn.Linear(8, 12), "down": nn.Linear(12, 8),
            "gamma": bare(8), "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.gamma * self.down(F.gelu(self.up(x.permute(0, 2, 3, 1))))
        return self.head(x + y.permute(0, 3, 1, 2))


class Skip(Net):
    """As in U-Net: pool, upsample, join with what came before."""

    def parts(self) -> dict[str, Any]:
        return {
            "down": block(3, 6), "low": block(6, 8), "up": nn.Upsample(scale_factor=2),
            "head": conv(14, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        y = self.up(self.low(F.max_pool2d(x, 2)))
        return self.head(torch.cat([y, x], dim=1))


class Pyramid(Net):
    """As in feature pyramids: lateral convolutions, resize to the other's size, two outputs."""

    def parts(self) -> dict[str, Any]:
        return {
            "c1": block(3, 4), "c2": block(4, 6, stride=2), "l1": conv(4, 8, 1),
            "l2": conv(6, 8, 1), "p1": conv(8, 2), "p2": conv(8, 3),
        }  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1 = self.c1(x)
        x2 = self.c2(x1)
        top = self.l2(x2)
        low = self.l1(x1) + F.interpolate(top, size=x1.shape[2:], mode="nearest")
        return self.p1(low), self.p2(top)


class PaddedShortcut(Net):
    """As in CIFAR ResNets (option A): the shortcut takes every second pixel and pads channels."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 4), "body": conv(4, 8, stride=2), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        return self.head(F.relu(self.body(x) + short))


class Radix(Net):
    """As in split attention: stack the branches, sum them, weigh them."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8), "gate": nn.Linear(8, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([F.relu(self.a(x)), F.relu(self.b(x))], dim=1)
        gate = torch.sigmoid(self.gate(both.sum(1).mean((2, 3))))
        return self.head((both * gate[:, None, :, None, None]).sum(1))


class Selected(Net):
    """Every element is chosen from one of two branches, or limited by them."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8), "c": conv(3, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.head(torch.where(a > 0, b, c) / (1 + torch.maximum(a, b).abs()))


class TakenApart(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "left": conv(4, 4), "right": conv(4, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        one, two = F.relu(self.stem(x)).unflatten(1, (2, 4)).unbind(1)
        return self.head(F.relu(self.left(one) + self.right(two)))


EXAMPLES = {
    "residual": Example(Residual, {"stem": 8}),
    "residual in place": Example(ResidualInPlace, {"stem": 8}),
    "residual stages": Example(Stages, {"stem.0": 4, "two.0": 8}),
    "concat": Example(Concat, {"left": 8, "right": 6}),
    "concat of one value": Example(ConcatSelf, {"stem": 8}),
    "concat plus concat": Example(ConcatAdd, {"a": 10}),
    "dense block": Example(Dense, {"stem": 6, "c1": 4, "c2": 4}),
    "concat along the height": Example(ConcatRows, {"left": 8}),
    "concat along the batch": Example(ConcatBatch, {"left": 8}),
    "squeeze and excite": Example(SqueezeExcite, {"stem.0": 8, "down": 4}, keeps_zero=False),
    "squeeze and excite by convolutions": Example(SqueezeExciteConv, {"stem.0": 8, "down": 4}),
    "spatial attention": Example(SpatialAttention, {"stem": 8, "mid": 6}),
    "chunk gate": Example(Chunks, {"stem": 8}, keeps_zero=False),
    "cross stage": Example(CrossStage, {"stem.0": 8, "m.0.0": 4, "m.1.0": 4}),
    "uneven split": Example(UnevenSplit, {"stem": 8, "left": 4}),
    "slices": Example(Slices, {"stem": 8, "left": 4}),
    "shared module": Example(SharedModule, {"a": 8, "shared": 6}),
    "reused block": Example(ReusedBlock, {"stem": 8}),
    "channel parameters": Example(ChannelParameter, {"stem": 8}),
    "layer scale": Example(LayerScale, {"stem": 8, "up": 12}),
    "upsample and skip": Example(Skip, {"down.0": 6, "low.0": 8}, other=12),
    "feature pyramid": Example(Pyramid, {"c1.0": 4, "c2.0": 6, "l2": 8}),
    "padded shortcut": Example(PaddedShortcut, {"stem": 8}),
    "stack and sum": Example(Radix, {"a": 8}, rest=True),
    "select": Example(Selected, {"a": 8}),
    "taken apart": Example(TakenApart, {"stem": 8, "left": 4}),
}
