"""Growths of every other kind: norms, reductions, constants, sharing, moves."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.recipes.maps import divisor, even
from tests.nets.recipes.net import FIT, SIDE, WIDTHS, Growth, RecipeNet

Spelling = Callable[[Tensor], Tensor]


def norm(net: RecipeNet) -> None:
    source = net.pick("map")
    width = net.kinds[source].width
    modules = (
        lambda: nn.BatchNorm2d(width), lambda: nn.GroupNorm(divisor(net, width), width),
        lambda: nn.InstanceNorm2d(width, affine=net.choose((True, False))),
        lambda: nn.PReLU(width), lambda: nn.LocalResponseNorm(3), lambda: nn.Dropout(0.2),
    )  # fmt: skip
    net.module(source, net.choose(modules)())


def norm_last(net: RecipeNet) -> None:
    """Normalise a map's channels: LayerNorm through permutes, or by hand."""
    source = net.pick("map")
    kind = net.kinds[source]
    layer = net.keep(net.choose((nn.LayerNorm, nn.RMSNorm))(kind.width))
    scale = net.keep(nn.Parameter(torch.zeros(kind.width)), "scale")

    def by_hand(own: RecipeNet, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return own.held(scale)[:, None, None] * ((x - u) / torch.sqrt(s + 1e-6))

    spellings = (
        lambda own, x: own.call(layer, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda own, x: own.call(layer, x.movedim(1, -1)).movedim(-1, 1),
        by_hand,
        lambda own, x: F.normalize(x, dim=1),
        lambda own, x: x / (x.norm(dim=1, keepdim=True) + 1),
    )
    net.add(kind, net.choose(spellings), source)


def reduce(net: RecipeNet) -> None:
    """Read all channels, or those of each block, and spread what was found over the map."""
    source = net.pick("map", even)
    kind = net.kinds[source]
    groups = divisor(net, kind.width, least=2)
    each = kind.width // groups
    spellings: tuple[Spelling, ...] = (
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: x + x.amax(1, keepdim=True),
        lambda x: x + torch.max(x, 1, keepdim=True)[0],
        lambda x: x * torch.softmax(x, 1),
        lambda x: (x.view(-1, groups, each, *x.shape[2:]).softmax(2)).reshape(x.shape) * x,
        lambda x: x + x.unflatten(1, (groups, -1)).sum(2).repeat_interleave(each, 1),
        lambda x: x - x.sum((1, 2, 3), keepdim=True) / 64,
        lambda x: x * torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1).sum(1, True),
        lambda x: x + x.unflatten(1, (groups, -1)).amax((1, 2), keepdim=True)[:, 0],
        lambda x: x * x.std(1, keepdim=True),
        lambda x: x + x.logsumexp(1, keepdim=True),
        lambda x: x + x.cumsum(2),
        lambda x: x.cumsum(1),
        lambda x: x * (x.argmax(1, keepdim=True) > 2),
    )  # fmt: skip
    function = net.choose(spellings)
    net.add(kind, lambda _, x: function(x), source)


def regroup(net: RecipeNet) -> None:
    """Sum blocks of channels away, with sizes as literals or as read from the tensor."""
    source = net.pick("map", even)
    kind = net.kinds[source]
    groups = divisor(net, kind.width, least=2)
    each = kind.width // groups
    spellings: tuple[tuple[int, Spelling], ...] = (
        (each, lambda x: x.view(-1, groups, each, x.shape[2], x.shape[3]).sum(1)),
        (each, lambda x: x.view(x.size(0), groups, -1, *x.shape[-2:]).amax(1)),
        (groups, lambda x: x.reshape(x.size(0), groups, x.size(1) // groups, *x.shape[2:]).mean(2)),
        (each, lambda x: torch.stack(x.chunk(groups, 1)).mean(0)),
        (groups, lambda x: x.unflatten(1, (groups, each)).norm(dim=2)),
        (each, lambda x: torch.einsum("bgchw->bchw", x.unflatten(1, (groups, -1)))),
    )  # fmt: skip
    width, function = net.choose(spellings)
    net.add(kind._replace(width=width), lambda _, x: function(x), source)


def move(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.width * 2 <= FIT["map"])
    kind = net.kinds[source]
    width = kind.width
    before, after = net.choose((0, 1, 2)), net.choose((1, 0, 2))
    spellings: tuple[tuple[int, Spelling], ...] = (
        (width + before + after, lambda x: F.pad(x, (0, 0, 0, 0, before, after))),
        (width, lambda x: x.flip(1)),
        (width, lambda x: x.roll(1, 1)),
        (width, lambda x: torch.roll(x, (1, -1), dims=(2, 3))),
        (2 * width, lambda x: x.repeat(1, 2, 1, 1)),
        (2 * width, lambda x: x.repeat_interleave(2, 1)),
        (2 * width, lambda x: torch.cat([x, x], 1)),
        (2 * width, lambda x: torch.cat([x, torch.zeros_like(x)], dim=1)),
        (2 * width, lambda x: torch.cat([x, -x.abs()], 1)),
        (2 * width, lambda x: torch.stack([x, x * 0.5], 2).flatten(1, 2)),
        (2 * width, lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(
            x.shape[0], -1, *x.shape[2:])),
        (width + 1, lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1)),
        (width + 2, lambda x: torch.cat([x, x.new_zeros(x.shape[0], 2, *x.shape[2:])], 1)),
        (width + 2, lambda x: torch.cat([x, x[:, :2]], 1)),
    )  # fmt: skip
    after_width, function = net.choose(spellings)
    net.add(kind._replace(width=after_width), lambda _, x: function(x), source)


def neighbours(net: RecipeNet) -> None:
    """Unfold neighbourhoods, windows of pixels, and products over pixels or channels."""
    source = net.pick("map", lambda kind: kind.side == SIDE)
    kind = net.kinds[source]
    width = kind.width

    def unfolded(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return F.unfold(x, 3, padding=1).view(b, c, 9, h, w).amax(2)

    def windows(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        y = y.softmax(1) * y
        return y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w)

    def crossed(x: Tensor) -> Tensor:
        y = x.flatten(2)
        weights = torch.bmm(y, y.transpose(1, 2)).softmax(-1)
        return torch.bmm(weights, y).view_as(x) + x

    spellings: tuple[Spelling, ...] = (
        lambda x: F.max_pool2d(x, 3, 1, 1) - F.avg_pool2d(x, 3, 1, 1),
        unfolded,
        windows,
        crossed,
        lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[-2:], 2, stride=2),
        lambda x: torch.cat([x[..., ::2], x[..., 1::2]], -1),
        lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
        lambda x: F.adaptive_max_pool2d(x, 1) + x,
        lambda x: F.interpolate(F.pad(x, (1, 0, 1, 0)), size=x.shape[-2:]),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1],
        lambda x: x.permute(0, 3, 1, 2).softmax(-1).permute(0, 2, 3, 1),
        lambda x: x.transpose(2, 3).flatten(2).unflatten(-1, x.shape[2:]),
    )
    function = net.choose(spellings)
    net.add(kind._replace(width=width), lambda _, x: function(x), source)


def constant(net: RecipeNet) -> None:
    """Meet a parameter, a buffer or a number."""
    source = net.pick("map")
    kind = net.kinds[source]
    width = kind.width
    shapes = ((width, 1, 1), (1, width, 1, 1), (1,), (1, 1, 1, 1))
    tensor = torch.zeros(net.choose(shapes))
    name = net.keep(nn.Parameter(tensor) if net.choose((True, False)) else tensor, "scale")
    spellings = (
        lambda own, x: x * own.held(name),
        lambda own, x: x + own.held(name).sigmoid(),
        lambda own, x: own.held(name) - 0.5 * x,
        lambda own, x: torch.where(own.held(name) > 0, x, -x),
        lambda own, x: x * F.softplus(own.held(name)) ** 2,
        lambda own, x: (x + 1).clamp(max=3) / 2,
        lambda own, x: x * own.held(name).view(1, -1, 1, 1),
        lambda own, x: x * x.shape[2] ** -0.5,
        lambda own, x: x * x.size(1) ** -0.5,
    )
    net.add(kind, net.choose(spellings), source)


def matrix(net: RecipeNet) -> None:
    """Multiply the channels of a map by a bare matrix."""
    source = net.pick("map")
    kind, outs = net.kinds[source], net.choose(WIDTHS)
    turned = net.choose((False, True))
    matrix = torch.zeros((outs, kind.width) if turned else (kind.width, outs))
    name = net.keep(nn.Parameter(matrix), "matrix")
    straight = (
        lambda own, x: torch.einsum("bchw,cd->bdhw", x, own.held(name)),
        lambda own, x: (x.movedim(1, -1) @ own.held(name)).movedim(-1, 1),
        lambda own, x: torch.tensordot(x, own.held(name), ([1], [0])).permute(0, 3, 1, 2),
    )
    across = (
        lambda own, x: torch.einsum("oc,bchw->bohw", own.held(name), x),
        lambda own, x: torch.matmul(own.held(name), x.flatten(2)).unflatten(-1, x.shape[2:]),
        lambda own, x: F.conv2d(x, own.held(name)[:, :, None, None]),
        lambda own, x: F.linear(x.permute(0, 2, 3, 1), own.held(name)).permute(0, 3, 1, 2),
    )
    net.add(kind._replace(width=outs), net.choose(across if turned else straight), source)


def share(net: RecipeNet) -> None:
    """Call a module once more, or give a new module the weights of another, maybe transposed."""
    source = net.pick("map")
    kind = net.kinds[source]
    width = kind.width
    convs = [
        name for name in net.handles
        if isinstance(net.held(name), nn.Conv2d) and net.held(name).stride == (1, 1)
    ]  # fmt: skip
    fitting = [n for n in convs if net.held(n).in_channels == width]
    turned = [n for n in convs if net.held(n).out_channels == width and net.held(n).groups == 1]
    how = net.choose(("again", "tied", "transposed"))
    if how == "transposed" and turned:
        name = net.choose(turned[::-1])
        net.add(
            kind._replace(width=net.held(name).in_channels),
            lambda own, x: F.conv_transpose2d(
                x, own.held(name).weight, padding=own.held(name).padding
            ),
            source,
        )
        return
    if not fitting:
        conv = nn.Conv2d(width, width, 3, padding=1)
        made = net.module(source, conv)
        fitting = [net.handles[-1]]
        source = made
    name = net.choose(fitting[::-1])
    old = net.held(name)
    kind = kind._replace(width=old.out_channels)
    if how == "again":
        net.add(kind, lambda own, x: own.call(name, x), source)
        return
    twin = nn.Conv2d(width, old.out_channels, old.kernel_size, 1, old.padding, groups=old.groups)
    twin.weight = old.weight
    net.module(source, twin, width=old.out_channels)


def standardized(net: RecipeNet) -> None:
    """Compute a convolution's weight before it is used."""
    source = net.pick("map")
    kind, width = net.kinds[source], net.choose(WIDTHS)
    conv = net.keep(nn.Conv2d(kind.width, width, 3, padding=1))

    def scaled(weight: Tensor) -> Tensor:
        return weight * 0.5

    def centred(weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)

    def normal(weight: Tensor) -> Tensor:
        return F.normalize(weight.flatten(1), dim=1).view_as(weight)

    compute = net.choose((scaled, centred, normal))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        found = own.held(conv)
        return F.conv2d(x, compute(found.weight), found.bias, padding=1)

    net.add(kind._replace(width=width), run, source)


GROWTHS: dict[str, Growth] = {
    "norm": norm, "norm over channels": norm_last, "reduce": reduce, "regroup": regroup,
    "move": move, "neighbours": neighbours, "constant": constant, "matrix": matrix,
    "share": share, "computed weight": standardized,
}  # fmt: skip
