"""What grows on maps: convolutions, branches, joins, pieces, shuffles."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.recipes.net import FIT, SIDE, WIDTHS, Growth, Kind, RecipeNet

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.Identity, nn.SiLU, nn.Sigmoid, nn.GELU, nn.Hardswish, nn.LeakyReLU,
)  # fmt: skip


def divisor(net: RecipeNet, *widths: int, least: int = 1) -> int:
    """Choose a number of groups."""
    options = [n for n in (1, 2, 4, 3, 6) if n >= least and all(w % n == 0 for w in widths)]
    chosen: int = net.choose(options or [1])
    return chosen


def even(kind: Kind) -> bool:
    """Return whether the width can be halved and leave more than one channel."""
    return kind.width % 2 == 0 and kind.width > 2


def convolution(net: RecipeNet) -> int:
    source = net.pick("map") if len(net.kinds) > 1 else 0
    ins, side, width = net.kinds[source].width, net.kinds[source].side, net.choose((8, *WIDTHS))
    kernel, groups = net.choose((3, 1)), divisor(net, ins, width)
    stride = net.choose((1, 1, 2)) if side == SIDE and len(net.kinds) > 1 else 1
    conv = nn.Conv2d(
        ins, width, kernel, stride, kernel // 2, groups=groups, bias=net.choose((True, False))
    )
    made = net.module(source, conv, width=width, side=side // stride)
    return activated(net, normed(net, made))


def normed(net: RecipeNet, made: int) -> int:
    width = net.kinds[made].width
    norm = net.choose((None, nn.BatchNorm2d, None, nn.GroupNorm))
    if norm is None:
        return made
    return net.module(made, norm(2, width) if norm is nn.GroupNorm and width % 2 == 0
                      else nn.BatchNorm2d(width))  # fmt: skip


def activated(net: RecipeNet, made: int) -> int:
    return net.module(made, net.choose(ACTIVATIONS)())


def depth_wise(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.width <= 12)
    ins = net.kinds[source].width
    width = ins * net.choose((1, 2))
    activated(net, net.module(source, nn.Conv2d(ins, width, 3, padding=1, groups=ins), width=width))


def transposed(net: RecipeNet) -> None:
    source = net.pick("map")
    ins, side, width = net.kinds[source].width, net.kinds[source].side, net.choose(WIDTHS)
    groups = divisor(net, ins, width)
    if side < SIDE:
        conv = nn.ConvTranspose2d(ins, width, 2, stride=2, groups=groups)
    else:
        conv = nn.ConvTranspose2d(ins, width, 3, padding=1, groups=groups)
    net.module(source, conv, width=width, side=SIDE)


JOINS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x + y,
    lambda x, y: x * torch.sigmoid(y),
    lambda x, y: torch.where(x > 0, x, y),
    lambda x, y: x.clone().sub_(y),
    torch.maximum,
    lambda x, y: torch.add(x, y, alpha=0.5),
    lambda x, y: torch.lerp(x, y, 0.25),
    lambda x, y: x.masked_fill(y > 0, 0.5),
    lambda x, y: torch.stack([x, y]).sum(0),
    lambda x, y: torch.addcmul(x, x, y),
    lambda x, y: x / (1 + y.abs()),
)


def join(net: RecipeNet) -> None:
    pair = net.pair(net.choose(("map", "tokens", "vector")))
    function = net.choose(JOINS)
    net.add(net.kinds[pair[0]], lambda _, x, y: function(x, y), *pair)


def residual(net: RecipeNet) -> None:
    source = net.pick("map")
    kind, inner = net.kinds[source], net.choose(WIDTHS)
    groups = divisor(net, inner)
    made = activated(net, net.module(source, nn.Conv2d(kind.width, inner, 1), width=inner))
    made = net.module(made, nn.Conv2d(inner, inner, 3, padding=1, groups=groups))
    made = net.module(activated(net, made), nn.Conv2d(inner, kind.width, 1), width=kind.width)
    made = normed(net, made)
    net.add(kind, lambda _, x, y: F.relu(x + y), source, made)


def concatenate(net: RecipeNet) -> None:
    form = net.choose(("map", "tokens", "vector"))
    sources = [net.pick(form)]
    kind = net.kinds[sources[0]]
    sources += [
        net.pick(form, lambda other: other.side == kind.side) for _ in range(net.choose((1, 2)))
    ]
    width = sum(net.kinds[i].width for i in sources)
    if width > FIT[form]:
        return
    dim = net.choose((-1 if form == "tokens" else 1, -3 if form == "map" else -1))
    net.add(kind._replace(width=width), lambda _, *xs: torch.cat(xs, dim), *sources)


def _sliced(x: Tensor, dim: int, start: int, stop: int | None, step: int) -> Tensor:
    return x[(*[slice(None)] * dim, slice(start, stop, step))]


def pieces(net: RecipeNet) -> None:
    form = net.choose(("map", "tokens", "vector"))
    source = net.pick(form, even)
    kind = net.kinds[source]
    width, dim = kind.width, 2 if form == "tokens" else 1
    cut = 1 + net.choose(range(width - 1))
    both = (kind._replace(width=cut), kind._replace(width=width - cut))
    half = kind._replace(width=width // 2)
    sizes = [cut, width - cut]
    order = torch.tensor([(3 * i + cut) % width for i in range(cut)])
    spellings: tuple[tuple[Any, Any], ...] = (
        (both, lambda _, x: x.split(sizes, dim)),
        (half, lambda _, x: _sliced(x, dim, 0, width // 2, 1)),
        ((half, half), lambda _, x: torch.chunk(x, 2, dim=dim)),
        (half, lambda _, x: _sliced(x, dim, 0, None, 2)),
        (both, lambda _, x: (_sliced(x, dim, 0, cut, 1), _sliced(x, dim, cut, None, 1))),
        (half, lambda _, x: x.narrow(dim, width // 2, width // 2)),
        ((half, half), lambda _, x: x.tensor_split(2, dim)),
        ((half, half), lambda _, x: x.unflatten(dim, (2, -1)).unbind(dim)),
        (half, lambda _, x: x.unflatten(dim, (2, width // 2)).select(dim, 1)),
        (half, lambda _, x: x.split(width // 2, dim)[0]),
        (both[0], lambda _, x: torch.index_select(x, dim, order)),
    )
    kinds, function = net.choose(spellings)
    net.add(kinds, function, source)


def _to_groups(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w)


def _mixed(x: Tensor, groups: int) -> Tensor:
    """Shuffle pixels and channels at once."""
    return x.reshape(x.shape[0], groups, -1).permute(0, 2, 1).reshape(x.shape)


SHUFFLES: tuple[Callable[[Tensor, int], Tensor], ...] = (
    lambda x, g: _to_groups(x, g).transpose(1, 2).reshape(x.shape),
    lambda x, g: _to_groups(x, g).transpose(1, 2).contiguous().view(x.size(0), -1, *x.shape[2:]),
    lambda x, g: x.unflatten(1, (g, -1)).transpose(1, 2).flatten(1, 2),
    _mixed,
    F.channel_shuffle,
    lambda x, g: torch.stack(x.chunk(g, 1), 2).flatten(1, 2),
)


def shuffle(net: RecipeNet) -> None:
    source = net.pick("map", even)
    groups, function = divisor(net, net.kinds[source].width, least=2), net.choose(SHUFFLES)
    # Where it puts a channel depends on the image, and one size may look like what no other is.
    net.fixed |= function is _mixed
    net.add(net.kinds[source], lambda _, x: function(x, groups), source)


GATES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, g: x * g.view(x.size(0), x.size(1), 1, 1),
    lambda x, g: x * g[:, :, None, None],
    lambda x, g: x * g.unsqueeze(-1).unsqueeze(-1).expand_as(x),
    lambda x, g: torch.einsum("bchw,bc->bchw", x, g),
    lambda x, g: x * g.reshape(*g.shape, 1, 1).expand(-1, -1, x.shape[2], x.shape[3]),
)


def squeeze_excite(net: RecipeNet) -> None:
    source = net.pick("map")
    width, function = net.kinds[source].width, net.choose(GATES)
    down, up = net.keep(nn.Linear(width, 4)), net.keep(nn.Linear(4, width))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        gate = own.call(up, F.relu(own.call(down, x.mean((2, 3)))))
        return function(x, torch.sigmoid(gate))

    net.add(net.kinds[source], run, source)


def efficient_attention(net: RecipeNet) -> None:
    """ECA: a convolution over the channels."""
    source = net.pick("map")
    size, own_bias = net.choose((3, 5)), net.choose((False, True))
    conv = net.keep(nn.Conv1d(1, 1, size, padding=size // 2, bias=own_bias))
    spelled = net.choose((0, 1))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        if spelled:
            gate = own.call(conv, x.mean((2, 3)).view(x.shape[0], 1, -1))
            return x * gate.sigmoid().view(x.shape[0], -1, 1, 1)
        y = F.adaptive_avg_pool2d(x, 1)
        y = own.call(conv, y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * torch.sigmoid(y).expand_as(x)

    net.add(net.kinds[source], run, source)


def pool(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.side == SIDE)
    modules = (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1))
    net.module(source, net.choose(modules), side=SIDE // 2)


def resize(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.side == SIDE // 2)
    net.module(source, nn.Upsample(scale_factor=2.0, mode=net.choose(("nearest", "bilinear"))),
               side=SIDE)  # fmt: skip


def pixel_shuffle(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.side == SIDE // 2 and kind.width % 4 == 0
                      and kind.width > 4)  # fmt: skip
    net.module(source, nn.PixelShuffle(2), width=net.kinds[source].width // 4, side=SIDE)


def pixel_unshuffle(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.side == SIDE and kind.width <= 6)
    net.module(source, nn.PixelUnshuffle(2), width=net.kinds[source].width * 4, side=SIDE // 2)


def finish(net: RecipeNet) -> None:
    """Read whatever nobody read yet, and make three numbers of it."""
    read = {i for _, sources in net.program for i in sources}
    unread = [i for i in range(1, len(net.kinds)) if i not in read]
    vectors = []
    for i in unread:
        kind = net.kinds[i]
        dims = {"map": (2, 3), "tokens": (1,), "vector": ()}[kind.form]
        vectors.append(
            net.add(Kind("vector", kind.width, 1), lambda _, x, d=dims: x.mean(d), i)
            if dims else i
        )  # fmt: skip
    total = sum(net.kinds[i].width for i in vectors)
    joined = net.add(Kind("vector", total, 1), lambda _, *xs: torch.cat(xs, 1), *vectors)
    net.module(joined, nn.Linear(total, 3), width=3)


GROWTHS: dict[str, Growth] = {
    "convolution": convolution, "depth-wise": depth_wise, "transposed": transposed, "join": join,
    "residual": residual, "concatenate": concatenate, "pieces": pieces, "shuffle": shuffle,
    "squeeze": squeeze_excite, "efficient attention": efficient_attention, "pool": pool,
    "resize": resize, "pixel shuffle": pixel_shuffle, "pixel unshuffle": pixel_unshuffle,
}  # fmt: skip
