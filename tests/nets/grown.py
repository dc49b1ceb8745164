"""Random nets: a few dozen ops chosen one after the other, each reading values made before."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, conv, randomized

ACTIVATIONS = (F.relu, torch.sigmoid, F.gelu, torch.tanh, F.hardswish, F.leaky_relu, torch.abs)


class Step(NamedTuple):
    """One op: a method of the net, the values it reads, and its settings."""

    op: str
    sources: tuple[int, ...]
    settings: tuple[Any, ...] = ()


class GrownNet(nn.Module):
    """A net that grows at random; every value is a batch of images of one size."""

    def __init__(self, seed: int, length: int = 10) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.parts = nn.ModuleList()
        self.scales = nn.ParameterList()
        self.steps: list[Step] = []
        self.widths = [3]
        self.rest = False
        self.conv(0, 8)
        for _ in range(length):
            GROWTH[self.random.choice(list(GROWTH))](self)
        self.fixed = self.random.random() < 0.3
        unread = [i for i in range(len(self.widths)) if all(i not in s.sources for s in self.steps)]
        self.add("cat", unread, sum(self.widths[i] for i in unread))
        self.conv(-1, self.random.choice((4, 6)))
        self.head = nn.Linear(self.widths[-1] * (64 if self.fixed else 1), 3)

    def add(self, op: str, sources: list[int], width: int, *settings: Any) -> int:
        """Add a step; negative sources count from the end."""
        count = len(self.widths)
        self.steps.append(Step(op, tuple(i % count for i in sources), settings))
        self.widths.append(width)
        return count

    def module(self, source: int, module: nn.Module, width: int) -> int:
        """Add the call of a new module."""
        self.parts.append(module)
        return self.add("call", [source], width, len(self.parts) - 1)

    def conv(self, source: int, width: int) -> int:
        """Add a convolution, perhaps grouped, with BatchNorm and activation."""
        ins = self.widths[source]
        groups = self.random.choice([g for g in (1, 1, 1, 2, 4) if ins % g == 0 == width % g])
        kernel = self.random.choice((1, 3))
        bias = self.random.random() < 0.5
        made = self.module(source, conv(ins, width, kernel, groups=groups, bias=bias), width)
        if self.random.random() < 0.5:
            made = self.module(made, nn.BatchNorm2d(width), width)
        if self.random.random() < 0.7:
            made = self.add("act", [made], width, self.random.randrange(len(ACTIVATIONS)))
        return made

    def pick(self, fits: Callable[[int], bool] = lambda width: width > 1) -> int:
        """Choose a value made before, rather one of the last; its width must fit."""
        found = [i for i in range(1, len(self.widths)) if fits(self.widths[i])]
        return self.random.choice(found[-4:] or [self.conv(-1, 8)])

    def pair(self) -> tuple[int, int]:
        """Choose a value, and find or make another one of its width."""
        one = self.pick()
        twins = [i for i in range(1, len(self.widths)) if self.widths[i] == self.widths[one]]
        other = self.random.choice(twins)
        if other == one:
            other = self.conv(self.pick(), self.widths[one])
        return one, other

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for op, sources, settings in self.steps:
            values.append(OPS[op](self, *(values[i] for i in sources), *settings))
        result = values[-1].flatten(1) if self.fixed else values[-1].mean((2, 3))
        return self.head(result)


def _gate(net: GrownNet, x: Tensor, down: int, up: int) -> Tensor:
    b, c, _, _ = x.shape
    gate = net.parts[up](F.relu(net.parts[down](x.mean((2, 3)))))
    return x * torch.sigmoid(gate).view(b, c, 1, 1)


def _tokens(net: GrownNet, x: Tensor, part: int) -> Tensor:
    b, _, h, w = x.shape
    return (
        F.relu(net.parts[part](x.flatten(2).transpose(1, 2))).transpose(1, 2).reshape(b, -1, h, w)
    )


def _shuffle(_: GrownNet, x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def _literal(_: GrownNet, x: Tensor, groups: int, width: int) -> Tensor:
    return x.reshape(-1, groups, width, x.shape[2] * x.shape[3]).sum(2).unflatten(-1, x.shape[2:])


def _pixels(_: GrownNet, x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pixel_shuffle(x, 2), 2)


def _space(_: GrownNet, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(F.interpolate(x, scale_factor=2.0), 2)


OPS: dict[str, Callable[..., Tensor]] = {
    "call": lambda net, x, part: net.parts[part](x),
    "act": lambda net, x, index: ACTIVATIONS[index](x),
    "add": lambda net, x, y: x + y,
    "sub": lambda net, x, y: x.clone().sub_(y),
    "gate by value": lambda net, x, y: x * torch.sigmoid(y),
    "cat": lambda net, *xs: torch.cat(xs, 1),
    "part": lambda net, x, index, sizes: x.split(sizes, 1)[index],
    "half": lambda net, x, index: torch.chunk(x, 2, dim=1)[index],
    "slice": lambda net, x, start, stop, step: x[:, start:stop:step],
    "scale": lambda net, x, index: x * net.scales[index],
    "gate": _gate,
    "tokens": _tokens,
    "shuffle": _shuffle,
    "sum in groups": _literal,
    "pixels": _pixels,
    "space": _space,
    "blocks": lambda net, x, groups, stop: x.unflatten(1, (groups, -1))[:, :, :stop].flatten(1, 2),
    "stack": lambda net, x, y, dim: torch.stack([x, y], dim).flatten(1, 2),
    "pad": lambda net, x, before, after: F.pad(x, (0, 0, 0, 0, before, after)),
    "repeat": lambda net, x: torch.cat([x.repeat(1, 2, 1, 1), x.flip(1)], 1),
    "largest": lambda net, x, groups: (
        x.unflatten(1, (groups, -1)).amax((-2, -1)).flatten(1)[:, :, None, None] + x
    ),
}


def _grow_split(net: GrownNet) -> None:
    source = net.pick()
    width = net.widths[source]
    cut = net.random.randrange(1, width)
    net.add("part", [source], cut, 0, [cut, width - cut])
    net.add("part", [source], width - cut, 1, [cut, width - cut])


def _grow_halves(net: GrownNet) -> None:
    source = net.pick(lambda width: width % 2 == 0)
    for index in (0, 1):
        net.add("half", [source], net.widths[source] // 2, index)


def _grow_slice(net: GrownNet) -> None:
    source = net.pick()
    width = net.widths[source]
    start = net.random.randrange(width - 1)
    step = net.random.choice((1, 1, 2))
    net.add("slice", [source], len(range(start, width, step)), start, None, step)


def _grow_gate(net: GrownNet) -> None:
    source = net.pick()
    width = net.widths[source]
    net.parts.extend([nn.Linear(width, 4), nn.Linear(4, width)])
    net.add("gate", [source], width, len(net.parts) - 2, len(net.parts) - 1)


def _grow_tokens(net: GrownNet) -> None:
    source, width = net.pick(), net.random.choice((4, 6))
    net.parts.append(nn.Linear(net.widths[source], width))
    net.add("tokens", [source], width, len(net.parts) - 1)


def _grow_scale(net: GrownNet) -> None:
    source = net.pick()
    net.scales.append(nn.Parameter(torch.zeros(net.widths[source], 1, 1)))
    net.add("scale", [source], net.widths[source], len(net.scales) - 1)


def _grow_norm(net: GrownNet) -> None:
    source = net.pick()
    width = net.widths[source]
    groups = net.random.choice([g for g in (1, 2, 4, width) if width % g == 0])
    norms = (nn.GroupNorm(groups, width), nn.InstanceNorm2d(width), nn.PReLU(width))
    norm = net.random.choice(norms)
    net.rest |= isinstance(norm, nn.GroupNorm)
    net.module(source, norm, width)


def _grow_blocks(net: GrownNet) -> None:
    source = net.pick(lambda width: width % 2 == 0 and width > 2)
    half = net.widths[source] // 2
    stop = net.random.randrange(1, half + 1)
    net.add("blocks", [source], 2 * stop, 2, stop)


def _grow_sum(net: GrownNet) -> None:
    source = net.pick(lambda width: width % 2 == 0)
    net.rest = True
    net.add("sum in groups", [source], 2, 2, net.widths[source] // 2)


def _grow_pad(net: GrownNet) -> None:
    source = net.pick()
    before, after = net.random.randrange(3), net.random.randrange(3)
    net.add("pad", [source], net.widths[source] + before + after, before, after)


def _grow_transposed(net: GrownNet) -> None:
    source = net.pick(lambda width: width % 2 == 0)
    width, groups = net.random.choice((4, 6)), net.random.choice((1, 2))
    module = nn.ConvTranspose2d(net.widths[source], width, 3, padding=1, groups=groups)
    net.module(source, module, width)


def _two(op: str) -> Callable[[GrownNet], object]:
    def grow(net: GrownNet) -> object:
        pair = net.pair()
        return net.add(op, list(pair), net.widths[pair[0]])

    return grow


def _grow_stack(net: GrownNet) -> None:
    pair = net.pair()
    net.add("stack", list(pair), 2 * net.widths[pair[0]], net.random.choice((1, 2)))


def _grow_depth_wise(net: GrownNet) -> None:
    source = net.pick()
    ins = net.widths[source]
    width = ins * net.random.choice((1, 1, 2))
    net.module(source, conv(ins, width, groups=ins), width)


def _grow_residual(net: GrownNet) -> None:
    source = net.pick()
    width = net.widths[source]
    net.add("add", [source, net.conv(net.conv(source, 6), width)], width)


def _grow_cat(net: GrownNet) -> None:
    sources = [net.pick() for _ in range(net.random.choice((2, 3)))]
    if sum(net.widths[i] for i in sources) <= 32:
        net.add("cat", sources, sum(net.widths[i] for i in sources))


GROWTH: dict[str, Callable[[GrownNet], object]] = {
    "convolution": lambda net: net.conv(net.pick(), net.random.choice((4, 6, 8))),
    "depth-wise": _grow_depth_wise,
    "residual": _grow_residual,
    "add": _two("add"),
    "subtract": _two("sub"),
    "gate by value": _two("gate by value"),
    "concatenate": _grow_cat,
    "split": _grow_split,
    "halves": _grow_halves,
    "slice": _grow_slice,
    "gate": _grow_gate,
    "tokens": _grow_tokens,
    "scale": _grow_scale,
    "norm": _grow_norm,
    "blocks": _grow_blocks,
    "sum": _grow_sum,
    "pad": _grow_pad,
    "transposed": _grow_transposed,
    "stack": _grow_stack,
    "shuffle": lambda net: net.add(
        "shuffle", [s := net.pick(lambda width: width % 2 == 0)], net.widths[s], 2
    ),
    "pixel shuffle": lambda net: net.add(
        "pixels", [s := net.pick(lambda width: width % 4 == 0)], net.widths[s] // 4
    ),
    "pixel unshuffle": lambda net: net.add(
        "space", [s := net.pick(lambda width: width <= 4)], net.widths[s] * 4
    ),
    "repeat": lambda net: net.add(
        "repeat", [s := net.pick(lambda width: width <= 8)], net.widths[s] * 3
    ),
}


def grow(seed: int) -> Example:
    """Make a random example; its groups are not known beforehand."""
    net = GrownNet(seed)
    other = None if net.fixed else 10
    return Example(lambda: GrownNet(seed), {}, other=other, rest=net.rest, keeps_zero=False)


def grown(seed: int) -> nn.Module:
    """Build a random net with random weights."""
    return randomized(GrownNet(seed), seed)
