"""Sizes written into the code, or read from tensors: view, flatten, permute, squeeze."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare, block, conv, rows


class FlattenModule(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "flat": nn.Flatten(), "head": nn.Linear(512, 3)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(self.stem(x)))


class ViewBatch(FlattenModule):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x.view(x.size(0), -1))


class ViewLiteral(FlattenModule):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).view(-1, 512))


class ViewProduct(FlattenModule):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.reshape(x, (x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])))


class ViewMean(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "head": nn.Linear(8, 3)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).view(-1, 8, 64).mean(-1))


class ChannelsLast(FlattenModule):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.stem(x).permute(0, 2, 3, 1), 1))


class FlattenTwice(Net):
    """Flattened, and read by a norm and two linear layers."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 4), "norm": nn.BatchNorm1d(256), "mid": nn.Linear(256, 6),
            "drop": nn.Dropout(), "head": nn.Linear(6, 3),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.flatten(self.stem(x), 1))
        return self.head(self.drop(F.relu(self.mid(x))))


class Decoder(Net):
    """Linear, view as an image, transposed convolution, flatten, linear."""

    def parts(self) -> dict[str, Any]:
        return {
            "first": nn.Linear(5, 96), "up": nn.ConvTranspose2d(6, 4, 2, stride=2),
            "head": nn.Linear(256, 3),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.relu(self.first(x)).view(-1, 6, 4, 4))
        return self.head(F.relu(x).flatten(1))


class Shuffle(Net):
    """Channel shuffle, written out with sizes of the tensor."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 8, groups=2), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, c, h, w = x.size()
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.head(F.relu(self.mid(x)))


class ShuffleLiteral(Shuffle):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        h, w = x.shape[-2:]
        x = x.reshape(-1, 2, 4, h, w).permute(0, 2, 1, 3, 4).reshape(-1, 8, h, w)
        return self.head(F.relu(self.mid(x)))


class ShuffleModule(Shuffle):
    def parts(self) -> dict[str, Any]:
        return {**super().parts(), "shuffle": nn.ChannelShuffle(2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(self.shuffle(F.relu(self.stem(x))))))


class PixelShuffle(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 16), "shuffle": nn.PixelShuffle(2), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.shuffle(self.stem(x))))


class PixelUnshuffle(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 4), "head": conv(16, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(F.pixel_unshuffle(self.stem(x), 2)))


class Focus(Net):
    """Space to channels by strided slices, as in YOLO."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 4), "head": conv(16, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.head(torch.cat(parts, 1))


class Unflatten(Net):
    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 24), "image": nn.Unflatten(1, (6, 2, 2)), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.image(self.first(x))))


class Expanded(Net):
    """Features of the whole image, laid over every pixel with sizes written out."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "all": nn.Linear(8, 6), "head": conv(14, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.all(x.mean((2, 3))).reshape(-1, 6, 1, 1).expand(-1, 6, x.shape[2], x.shape[3])
        return self.head(torch.cat([x, y], 1))


class ScaledByWidth(Net):
    """The scale counts channels; it is part of what the model computes and stays."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(x / math.sqrt(x.shape[1]) + x * x.size(1) ** -0.5)


class BranchOnSize(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if x.shape[2] > 4:
            x = F.max_pool2d(x, 2)
        return self.head(x)


class Squeezed(Net):
    """`squeeze()` must not take away a channel dim that shrinks to 1."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "pool": nn.AdaptiveAvgPool2d(1), "head": nn.Linear(8, 3)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(F.relu(self.stem(x))).squeeze())


class Tokens(Net):
    """Pixels as tokens, a linear layer per token, and back to an image."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "position": bare(1, 1, 8), "mlp": nn.Linear(8, 6),
            "head": conv(6, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(1, 2) + self.position
        return self.head(F.relu(self.mlp(x)).transpose(1, 2).reshape(b, -1, h, w))


class Repeated(Net):
    """Every channel several times: in runs, and in turn; reversed and rolled."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 6), "one": conv(12, 4), "two": conv(12, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        one = self.one(x.repeat_interleave(2, dim=1))
        two = self.two(x.flip(1).roll(2, 3).repeat(1, 2, 1, 1))
        return self.head(F.relu(one + two))


class OneChannel(Net):
    """One channel is read by itself, so it has to stay."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.mid(x))
        return self.head(y * torch.sigmoid(x[:, 2:3]) + x[:, 4].unsqueeze(1))


class SplitOne(Net):
    """One piece of a split has a single channel: an objectness score."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "head": conv(7, 2)}

    def forward(self, x: Tensor) -> Tensor:
        score, x = self.stem(x).split([1, 7], dim=1)
        return self.head(F.relu(x) * torch.sigmoid(score))


class Narrowed(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "left": conv(3, 4), "right": conv(8, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        left = self.left(x.narrow(1, 2, 3)) + x[:, : x.shape[1] // 2]
        return self.head(left * self.right(torch.movedim(x, 1, -1).movedim(-1, 1)))


class OuterProduct(Net):
    """All products of two sets of channels, flattened: both have to stay."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 4), "b": conv(3, 5), "c": nn.Linear(20, 6), "head": nn.Linear(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).mean((2, 3)), self.b(x).mean((2, 3))
        return self.head(F.relu(self.c((a[:, :, None] * b[:, None, :]).flatten(1))))


class SummedChannels(Net):
    """Sums over channels, whole and in groups."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8), "head": conv(5, 2)}

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), self.b(x)
        pairs = b.view(-1, 4, 2, *b.shape[2:]).sum(2)
        return self.head(torch.cat([a.sum(1, keepdim=True), pairs], 1))


class SummedProducts(OuterProduct):
    """The sum of all products: every factor is read by the sum alone."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 4), "b": conv(3, 5), "head": conv(3, 2)}

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).mean((2, 3)), self.b(x).mean((2, 3))
        return self.head(x * (a[:, :, None] * b[:, None, :]).sum((1, 2))[:, None, None, None])


class BlockSlices(Net):
    """Takes the first half of every block of channels, and lays the blocks across."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "a": conv(4, 4), "b": conv(8, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        blocks = F.relu(self.stem(x)).unflatten(1, (2, 4))
        a = self.a(blocks[:, :, :2].flatten(1, 2))
        b = self.b(torch.stack([blocks[:, 0], blocks[:, 1]], dim=2).flatten(1, 2))
        return self.head(F.relu(a + b))


class Rolled(Net):
    """Channels shifted along: the shift would have to be another one, so they stay."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(torch.roll(F.relu(self.stem(x)), 2, 1))))


class Window(Net):
    """As in Swin: roll pixels, cut into windows, a linear layer, and back."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mix": nn.Linear(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1).roll((-1, -1), dims=(1, 2))
        b, h, w, c = x.shape
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        x = F.gelu(self.mix(x)).view(b, h // 2, w // 2, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
        return self.head(x.reshape(b, -1, h, w))


class LikeAnother(Net):
    """Takes its sizes from another value."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8), "gate": nn.Linear(8, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), self.b(x)
        gate = self.gate(a.mean((2, 3)))[:, :, None, None].expand_as(b)
        return self.head(a.flatten(1).view_as(b) * torch.sigmoid(gate))


class RowPooled(Net):
    """Largest values and where they are, over columns and rows."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": nn.Linear(8, 6), "head": nn.Linear(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        values, _ = torch.max(F.relu(self.stem(x)), dim=-1)
        return self.head(F.relu(self.mid(values.amax(-1))))


EXAMPLES = {
    "flatten": Example(FlattenModule, {"stem.0": 8}, other=None),
    "view to (batch, -1)": Example(ViewBatch, {"stem.0": 8}, other=None),
    "view to (-1, 512)": Example(ViewLiteral, {"stem.0": 8}, other=None),
    "view to a product": Example(ViewProduct, {"stem.0": 8}, other=None),
    "view to (-1, 8, 64)": Example(ViewMean, {"stem.0": 8}, other=None),
    "flatten channels last": Example(ChannelsLast, {"stem.0": 8}, other=None),
    "flatten and norm": Example(FlattenTwice, {"stem.0": 4, "mid": 6}, other=None),
    "decoder": Example(Decoder, {"first": 6, "up": 4}, rows(5), other=None),
    "shuffle": Example(Shuffle, {"stem": 8, "mid": 8}),
    "shuffle with literals": Example(ShuffleLiteral, {"stem": 8, "mid": 8}),
    "shuffle module": Example(ShuffleModule, {"stem": 8, "mid": 8}),
    "pixel shuffle": Example(PixelShuffle, {"stem": 4}),
    "pixel unshuffle": Example(PixelUnshuffle, {"stem": 4}, other=10),
    "focus": Example(Focus, {"stem": 4}, other=10),
    "unflatten": Example(Unflatten, {"first": 6}, rows(5), other=None),
    "expand": Example(Expanded, {"stem": 8, "all": 6}),
    "scaled by width": Example(ScaledByWidth, {"stem": 8}),
    "branch on size": Example(BranchOnSize, {"stem": 8}),
    "squeeze": Example(Squeezed, {"stem": 8}, batches=(2, 3)),
    "tokens": Example(Tokens, {"stem": 8, "mlp": 6}),
    "repeat": Example(Repeated, {"stem": 6, "one": 4}),
    "one channel by itself": Example(OneChannel, {"stem": 6, "mid": 6}, keeps_zero=False),
    "split off one channel": Example(SplitOne, {"stem": 7}),
    "narrow": Example(Narrowed, {"stem": 8}),
    "outer product": Example(OuterProduct, {"a": 4, "c": 6}),
    "sum over channels": Example(SummedChannels, {"a": 8, "b": 4}, rest=True),
    "largest": Example(RowPooled, {"stem": 8, "mid": 6}),
    "sum of products": Example(SummedProducts, {"a": 4, "b": 5}, rest=True),
    "slices of blocks": Example(BlockSlices, {"stem": 4, "a": 4}),
    "roll": Example(Rolled, {"mid": 6}),
    "windows": Example(Window, {"stem": 8, "mix": 6}, other=10),
    "sizes of another value": Example(LikeAnother, {"a": 8}),
}
