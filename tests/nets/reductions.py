"""Ops that reduce over channels, compare them, or mix each with its neighbours."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare, conv


class Measured(Net):
    """What `measure` makes of the channels scales them, and a second layer reads the product."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def measure(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.mid(x * torch.sigmoid(self.measure(x)))))


class Mean(Measured):
    def measure(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) + x.mean(dim=(1, 2, 3), keepdim=True) + torch.mean(x)


class Extremes(Measured):
    def measure(self, x: Tensor) -> Tensor:
        largest, _ = torch.max(x, 1, keepdim=True)
        return largest + x.amin(1, keepdim=True) + torch.min(x, dim=1, keepdim=True).values


class Products(Measured):
    def measure(self, x: Tensor) -> Tensor:
        return x.prod(1, keepdim=True) + x.logsumexp(1, keepdim=True)


class Norms(Measured):
    def measure(self, x: Tensor) -> Tensor:
        sizes = (
            torch.linalg.vector_norm(x, dim=1, keepdim=True) + torch.norm(x, p=1, dim=1)[:, None]
        )
        return F.normalize(x, dim=1) / (1 + sizes + x.norm(dim=1, keepdim=True))


class Compared(Measured):
    """The place of the largest channel, and how much channels differ, would be others."""

    def measure(self, x: Tensor) -> Tensor:
        values, places = x.max(1, keepdim=True)
        return values * places + x.std(1, keepdim=True) + x.argmin(1, keepdim=True)


class SortedPixels(Measured):
    def measure(self, x: Tensor) -> Tensor:
        x = x.sort(2)[0].cumsum(3) + x.flip(2).roll((1, 2), (2, 3))
        return x + x.topk(2, dim=3).values.sum(3, keepdim=True)


class LocalResponse(Net):
    """Neighbouring channels mix: removed ones stand as zeros in their old places."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "norm": nn.LocalResponseNorm(3), "mid": conv(8, 6),
                "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mid(self.norm(self.stem(x))))
        return self.head(F.local_response_norm(x, size=4, alpha=0.1))


class Softmax2d(Net):
    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "soft": nn.Softmax2d(), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.soft(self.a(x)))


class Cbam(Net):
    """Channel attention by two poolings and one shared network, then spatial attention."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "down": conv(8, 4, 1), "up": conv(4, 8, 1),
                "place": nn.Conv2d(2, 1, 7, padding=3), "head": conv(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        pooled = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(sum(self.up(F.relu(self.down(p))) for p in pooled))
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return self.head(x * torch.sigmoid(self.place(both)))


class StandardizedWeights(Net):
    """As in BiT and timm: statistics of a weight go over the channels it reads."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "weight": bare(6, 8, 3, 3), "gain": bare(6, 1, 1, 1),
                "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        rows, gain = self.weight.reshape(1, 6, -1), self.gain.view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0)
        x = F.conv2d(self.stem(x), weight.reshape_as(self.weight), padding=1)
        return self.head(F.relu(x))


class StandardizedByHand(StandardizedWeights):
    """A standard deviation over channels has no exact smaller form, so they stay."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5
        x = F.conv2d(self.stem(x), self.gain * (self.weight - mean) / spread, padding=1)
        return self.head(F.relu(x))


EXAMPLES = {
    "weight standardisation": Example(
        StandardizedWeights, {"stem": 8, "weight": 6}, rest=True, keeps_zero=False
    ),
    "weight standardisation by hand": Example(
        StandardizedByHand, {"weight": 6}, reads={"weight": (1,)}
    ),
    "mean over channels": Example(Mean, {"stem": 8, "mid": 6}, rest=True),
    "extremes over channels": Example(Extremes, {"stem": 8, "mid": 6}, rest=True, keeps_zero=False),
    "product over channels": Example(Products, {"stem": 8, "mid": 6}, rest=True, keeps_zero=False),
    "norms over channels": Example(Norms, {"stem": 8, "mid": 6}, rest=True),
    "channels compared": Example(Compared, {"mid": 6}),
    "sorted pixels": Example(SortedPixels, {"stem": 8, "mid": 6}),
    "local response norm": Example(LocalResponse, {"stem": 8, "mid": 6}, rest=True),
    "softmax over channels": Example(Softmax2d, {}),
    "CBAM": Example(Cbam, {"stem": 8, "down": 4}, rest=True, keeps_zero=False),
}
