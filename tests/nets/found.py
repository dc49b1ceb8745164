"""Nets that random ones were shrunk to: each was computed wrongly, or not at all, once."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.attention import tokens
from tests.nets.base import Example, Net, bare, conv, rows


class Attributes(Net):
    """Transposes as attributes instead of methods."""

    def parts(self) -> dict[str, Any]:
        return {"stem": nn.Linear(5, 8), "mix": nn.Conv1d(8, 6, 1), "head": nn.Linear(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(F.relu(self.stem(x)).mT).mT
        return self.head(x.mean(1).T.T)


class Shared(Net):
    """Grouped queries by torch's own option: it repeats keys and values inside."""

    def parts(self) -> dict[str, Any]:
        return {"q": nn.Linear(5, 16), "kv": nn.Linear(5, 16), "proj": nn.Linear(16, 2)}

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, -1))


class MixedTokens(Net):
    """Tokens that a matrix makes are channels, too: as keys they are compared with each other."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Linear(5, 12), "mix": bare(9, 7), "qkv": nn.Linear(12, 36),
            "head": nn.Linear(12, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix @ F.relu(self.stem(x))
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.head(mixed.transpose(1, 2).flatten(2))


class BlocksSummedUp(Net):
    """einsum adds up what stands at the same position of different blocks."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bgchw->bchw", self.stem(x).unflatten(1, (2, -1))))


class DotProducts(Net):
    """tensordot along given dims, and pieces by tensor_split."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "matrix": bare(8, 6), "head": conv(3, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tensordot(F.relu(self.stem(x)), self.matrix, ([1], [0])).permute(0, 3, 1, 2)
        one, two = x.tensor_split(2, dim=1)
        return self.head(one) * self.head(two).sigmoid()


class TiedDecoder(Net):
    """A weight that one call reads along its inputs, and another along its outputs."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mid(F.relu(self.stem(x))))
        return self.head(F.conv_transpose2d(x, self.mid.weight, padding=1))


class AfterSigmoid(Net):
    """A gate of a norm's result: a channel whose scale is zero is the sigmoid of its shift."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "norm": nn.BatchNorm2d(8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.norm(self.stem(x))))


class PixelsAsChannels(Net):
    """A linear layer makes the pixels of one map, and a number per column meets them."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Linear(5, 16), "columns": nn.Linear(5, 4), "rows": nn.Linear(5, 4),
            "head": nn.Linear(16, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        grid = F.relu(self.stem(x)).view(-1, 4, 4)
        grid = grid * self.columns(x)[:, None, :] + self.rows(x)[:, :, None]
        return self.head(grid.flatten(1))


class ByHeight(Net):
    """A number that depends on the size of the image: no constant survives it at every size."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "norm": nn.BatchNorm2d(8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(x * x.shape[2] ** -0.5 * x.size(1) ** -0.5)


class ChannelsAndPixels(Net):
    """A shuffle of channels and pixels at once: where a channel goes, the image decides."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 2), "head": nn.Linear(2, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.reshape(x.shape[0], 2, -1).permute(0, 2, 1).reshape(x.shape)
        return self.head(x.mean((2, 3)))


class OverChannels(Net):
    """ECA: a convolution over the channels, which keep their old neighbours."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "over": nn.Conv1d(1, 1, 3, padding=1, bias=False),
            "wide": nn.Conv1d(1, 1, 5, padding=2, padding_mode="circular"), "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.over(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        x = x * y.transpose(-1, -2).unsqueeze(-1).sigmoid()
        y = self.wide(F.adaptive_avg_pool2d(x, 1).view(x.shape[0], 1, -1))
        return self.head(x * torch.sigmoid(y).view(x.shape[0], -1, 1, 1).expand_as(x))


class TwoDimsRead(Net):
    """A convolution that reads channels along one dim, and positions that can leave along another.

    Seed 2235 of `tools.laws`: the masked model ignored those of one dim only.
    """

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Linear(5, 6), "mix": bare(9, 7), "over": nn.Conv1d(6, 4, 3, padding=1),
            "head": nn.Linear(4, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.over((self.mix @ F.relu(self.stem(x))).mT).mean(2))


class PixelsNormed(Net):
    """A norm over pixels that are channels, in groups of maps that carry none.

    Seed 3806 of `tools.laws`: the statistics were those of other pixels.
    """

    def parts(self) -> dict[str, Any]:
        return {"stem": nn.Linear(5, 16), "norm": nn.GroupNorm(1, 1), "head": nn.Linear(16, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(F.relu(self.stem(x)).view(-1, 1, 4, 4)).flatten(1))


EXAMPLES = {
    "pixels normed": Example(PixelsNormed, {}, rows(5), other=None),
    "two dims read": Example(
        TwoDimsRead,
        {"stem": 6, "mix": 9, "over": 4},
        tokens,
        size=7,
        other=None,
        rest=True,
        keeps_zero=False,
    ),
    "transposed by attributes": Example(
        Attributes, {"stem": 8, "mix": 6}, tokens, size=7, other=9, rest=True
    ),
    "grouped queries inside": Example(
        Shared,
        {"q": 16, "scaled_dot_product_attention[heads]": 2},
        tokens,
        size=7,
        other=9,
        rest=True,
        keeps_zero=False,
    ),
    "mixed tokens": Example(
        MixedTokens,
        {"stem": 12, "qkv": 24, "scaled_dot_product_attention[heads]": 3},
        tokens,
        size=7,
        other=None,
        rest=True,
        keeps_zero=False,
    ),
    "blocks summed up": Example(BlocksSummedUp, {"stem": 4}),
    "dot products": Example(DotProducts, {"stem": 8, "matrix": 3}, reads={"matrix": (0,)}),
    "convolution over channels": Example(OverChannels, {"stem": 8}, rest=True),
    "sigmoid behind a norm": Example(AfterSigmoid, {"stem": 8}, keeps_zero=False),
    "number from the height": Example(ByHeight, {"stem": 8}),
    "channels and pixels": Example(ChannelsAndPixels, {}, other=12),
    "pixels as channels": Example(
        PixelsAsChannels, {"stem": 4}, rows(5), other=None, rest=True, keeps_zero=False
    ),
    "tied decoder": Example(TiedDecoder, {"stem": 8, "mid": 6}, rest=True, keeps_zero=False),
}
