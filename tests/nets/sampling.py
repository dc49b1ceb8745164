"""Sampling at moved positions, patches, blurs, places of maxima."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import (
    DeformConv2d,
    FrozenBatchNorm2d,
    ps_roi_align,
    roi_align,
    roi_pool,
)

from tests.nets.base import Example, Net, bare, conv, rows


class SpatialTransformer(Net):
    """An affine map of the image, whose six numbers are no channels."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "place": nn.Linear(8, 6), "mid": conv(8, 6),
                "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        theta = self.place(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return self.head(F.relu(self.mid(F.grid_sample(x, grid, align_corners=False))))


class Deformed(Net):
    """Offsets and scales of the kernel's positions are no channels."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "offset": conv(8, 18), "scale": conv(8, 9),
                "one": DeformConv2d(8, 6, 3, padding=1),
                "two": DeformConv2d(6, 4, 3, padding=1, groups=2, bias=False),
                "head": conv(4, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        offset = self.offset(x)
        x = self.one(x, offset, torch.sigmoid(self.scale(x)))
        return self.head(F.relu(self.two(F.relu(x), offset)))


class Patches(Net):
    """Patches are laid out in channels and put together again."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 4), "cut": nn.Unfold(2, stride=2), "mix": nn.Conv1d(16, 24, 1),
                "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        patches = self.mix(
            F.relu(self.cut(self.stem(x))) + F.unfold(F.relu(self.stem(x)), 2, stride=2)
        )
        return self.head(F.relu(F.fold(patches, x.shape[2:], 2, stride=2)))


class Windows(Net):
    """Windows slide over the pixels; each channel keeps its largest."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.stem(x)).unfold(2, 2, 2).unfold(3, 3, 1).amax((4, 5)))


class Blurred(Net):
    """Anti-aliased pooling: one kernel for every channel, repeated in every way."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "kernel": torch.ones(1, 1, 3, 3), "own": torch.ones(8, 1, 3, 3),
                "head": conv(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        x = F.conv2d(x, self.kernel.expand(x.shape[1], -1, -1, -1), stride=2, groups=x.shape[1])
        x = F.conv2d(x, self.own, padding=1, groups=8)
        return self.head(F.conv2d(x, self.kernel.repeat(8, 1, 1, 1), padding=1, groups=8))


class Unpooled(Net):
    """The places of the maxima go with the channels."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "pool": nn.MaxPool2d(2, return_indices=True),
                "back": nn.MaxUnpool2d(2), "mid": conv(8, 6), "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        small, places = self.pool(self.stem(x))
        x = F.relu(self.mid(self.back(small, places)))
        small, places = F.max_pool2d(x, 2, return_indices=True)
        return self.head(F.max_unpool2d(F.relu(small), places, 2))


class Regions(Net):
    """Regions of the image are pooled; one way takes each bin from channels of its own."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "boxes": torch.tensor([[0, 1, 1, 6, 7]]),
                "mid": conv(8, 16), "head": conv(4, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        boxes = self.boxes.to(x.dtype)
        y = F.relu(self.mid(roi_align(x, boxes, (8, 8)) + roi_pool(x, boxes, (8, 8))))
        return self.head(ps_roi_align(y, boxes, 2))


class RandomWindows(Net):
    def parts(self) -> dict[str, Any]:
        samples = torch.full((3, 3, 2), 0.3)
        return {"pool": nn.FractionalMaxPool2d(2, output_size=4, _random_samples=samples),
                "mid": conv(3, 6), "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(self.pool(x))))


class Resampled(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "pool": nn.LPPool2d(2, 2), "norm": FrozenBatchNorm2d(8),
                "mid": conv(8, 6), "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.pool(self.stem(x)))
        x = F.interpolate(x, scale_factor=2, mode="bicubic")
        x = F.relu(self.mid(F.interpolate(x, size=(5, 5), mode="nearest-exact")))
        return self.head(F.adaptive_avg_pool2d(x, (3, None)) + F.adaptive_max_pool2d(x, (3, 1)))


class Gated(Net):
    """One half of the channels gates the other."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 16), "gate": nn.GLU(1), "mid": conv(8, 6), "head": conv(3, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.glu(self.mid(self.gate(self.stem(x))), 1))


class SwiGlu(Net):
    def parts(self) -> dict[str, Any]:
        return {"both": nn.Linear(5, 16), "gate": nn.Linear(8, 6), "up": nn.Linear(8, 6),
                "down": nn.Linear(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, -1)
        x = F.silu(gate) * value
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Bilinear(Net):
    def parts(self) -> dict[str, Any]:
        return {"a": nn.Linear(5, 8), "b": nn.Linear(5, 6), "both": nn.Bilinear(8, 6, 4),
                "weight": bare(3, 4, 8), "head": nn.Linear(3, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        both = F.relu(self.both(a, F.relu(self.b(x))))
        return self.head(F.relu(F.bilinear(both, a, self.weight)))


class SplitAttention(Net):
    """Branches are weighed against each other, channel by channel."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 16), "down": nn.Conv2d(8, 4, 1), "up": nn.Conv2d(4, 16, 1),
                "head": conv(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        x = x.view(batch, 2, 8, height, width)
        gate = self.up(F.relu(self.down(x.sum(1).mean((2, 3), keepdim=True))))
        gate = gate.view(batch, 1, 2, -1).transpose(1, 2)
        gate = F.softmax(gate, dim=1).reshape(batch, -1).view(batch, 2, 8, 1, 1)
        return self.head((x * gate).sum(1))


class SelectiveKernel(Net):
    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8, 5), "down": nn.Linear(8, 4), "a2": nn.Linear(4, 8),
                "b2": nn.Linear(4, 8), "head": conv(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        down = F.relu(self.down(both.sum(1).mean((2, 3))))
        gate = torch.stack([self.a2(down), self.b2(down)], 1).softmax(1)
        return self.head((both * gate[..., None, None]).sum(1))


class SelectiveKernelOfOne(Net):
    """One layer makes the gates of both branches: those of a channel are one, and so leave."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": conv(3, 8, 5), "down": nn.Linear(8, 4),
                "up": nn.Linear(4, 16), "head": conv(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        down = F.relu(self.down(both.sum(1).mean((2, 3))))
        gate = self.up(down).view(x.shape[0], 2, -1).softmax(1)
        return self.head((both * gate[..., None, None]).sum(1))


class CoordinateAttention(Net):
    """Rows and columns are pooled, joined, mixed and split again."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mix": nn.Conv2d(8, 4, 1), "norm": nn.BatchNorm2d(4),
                "up": nn.Conv2d(4, 8, 1), "across": nn.Conv2d(4, 8, 1),
                "head": conv(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        _, _, height, width = x.size()
        columns = F.adaptive_avg_pool2d(x, (None, 1))
        lines = F.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
        both = F.hardswish(self.norm(self.mix(torch.cat([columns, lines], 2))))
        columns, lines = torch.split(both, [height, width], dim=2)
        lines = self.across(lines.permute(0, 1, 3, 2)).sigmoid()
        return self.head(x * lines * self.up(columns).sigmoid())


class Shuffle1d(Net):
    """A pixel shuffle written by hand, in one dimension."""

    def parts(self) -> dict[str, Any]:
        return {"stem": nn.Conv1d(3, 8, 1), "mid": nn.Conv1d(4, 6, 3), "head": nn.Conv1d(6, 2, 1)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.view(x.shape[0], 4, 2, -1).permute(0, 1, 3, 2).reshape(x.shape[0], 4, -1)
        return self.head(F.relu(self.mid(x)))


class Routed(Net):
    """As in CondConv: the weight is a mixture of experts, one for each image."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "route": nn.Linear(8, 4), "experts": bare(4, 6 * 8 * 9),
                "mid": conv(6, 5), "head": conv(5, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        batch, channels, height, width = x.shape
        experts = torch.sigmoid(self.route(x.mean((2, 3)))) @ self.experts
        x = F.conv2d(x.reshape(1, -1, height, width), experts.view(batch * 6, channels, 3, 3),
                     padding=1, groups=batch)  # fmt: skip
        return self.head(F.relu(self.mid(x.view(batch, 6, height, width))))


def sequence(batch: int, size: int) -> Tensor:
    """Make a batch of one-dimensional signals."""
    return torch.randn(batch, 3, size)


EXAMPLES = {
    "spatial transformer": Example(SpatialTransformer, {"stem": 8, "mid": 6}),
    "deformable": Example(
        Deformed, {"stem": 8, "one": 6, "two": 4}, reads={"one.weight": (1,), "two.weight": (1,)}
    ),
    "patches": Example(Patches, {"stem": 4, "mix": 6}, other=10),
    "sliding windows": Example(Windows, {"stem": 8}),
    "blur": Example(Blurred, {"stem": 8}),
    "regions": Example(Regions, {"stem": 8, "mid": 4}),
    "random windows": Example(RandomWindows, {"mid": 6}),
    "resampling": Example(Resampled, {"stem": 8, "mid": 6}, keeps_zero=False),
    "gated halves": Example(Gated, {"stem": 8, "mid": 3}),
    "SwiGLU": Example(SwiGlu, {"both": 8, "gate": 6}, rows(5), other=None),
    "bilinear": Example(
        Bilinear, {"a": 8, "b": 6, "both": 4, "weight": 3}, rows(5), other=None,
        reads={"both.weight": (1, 2), "weight": (1, 2)},
    ),
    "split attention": Example(SplitAttention, {"stem": 8, "down": 4}, rest=True),
    "selective kernel": Example(SelectiveKernel, {"a": 8, "down": 4}, rest=True),
    "selective kernel of one layer": Example(SelectiveKernelOfOne, {"a": 8, "down": 4}, rest=True),
    "coordinate attention": Example(CoordinateAttention, {"stem": 8, "mix": 4}, keeps_zero=False),
    "pixel shuffle in one dimension": Example(Shuffle1d, {"stem": 4, "mid": 6}, sequence),
    "mixture of experts": Example(
        Routed, {"route": 4, "mid": 5}, keeps_zero=False, reads={"experts": (0,)}
    ),
}  # fmt: skip
# No part of `EXAMPLES`: torch has no deterministic implementation, and the tests ask for one.
UNPOOLED = Example(Unpooled, {"stem": 8, "mid": 6}, other=12)
