"""What grows on tokens and vectors: projections, norms, attention, gates, and ways back to maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.recipes.maps import ACTIVATIONS
from tests.nets.recipes.net import SIDE, WIDTHS, Growth, Kind, RecipeNet


def to_tokens(net: RecipeNet) -> None:
    source = net.pick("map", lambda kind: kind.side == SIDE // 2)
    spellings: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),
        lambda x: x.view(x.size(0), x.size(1), -1).permute(0, 2, 1),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]),
        lambda x: torch.flatten(x, 2).mT,
    )
    function = net.choose(spellings)
    made = net.add(net.kinds[source]._replace(form="tokens"), lambda _, x: function(x), source)
    if net.choose((False, True)):
        net.module(made, nn.LayerNorm(net.kinds[source].width))


def to_map(net: RecipeNet) -> None:
    source = net.pick("tokens")
    width = net.kinds[source].width
    spellings: tuple[Callable[[Tensor, int], Tensor], ...] = (
        lambda x, s: x.transpose(1, 2).reshape(x.shape[0], -1, s, s),
        lambda x, s: x.permute(0, 2, 1).reshape(x.shape[0], x.shape[2], s, s),
        lambda x, s: x.mT.unflatten(2, (s, s)),
        lambda x, s: x.reshape(-1, s, s, width).permute(0, 3, 1, 2),
        lambda x, s: x.transpose(1, 2).contiguous().view(-1, width, s, s),
    )
    function, side = net.choose(spellings), net.kinds[source].side
    net.fixed = True
    net.add(net.kinds[source]._replace(form="map"), lambda _, x: function(x, side), source)


def project(net: RecipeNet) -> int:
    form = net.choose(("tokens", "vector"))
    source = net.pick(form)
    width = net.choose(WIDTHS)
    layer = nn.Linear(net.kinds[source].width, width, bias=net.choose((True, False)))
    made = net.module(source, layer, width=width)
    if form == "vector" and net.choose((False, True)):
        made = net.module(made, nn.BatchNorm1d(width))
    return net.module(made, net.choose(ACTIVATIONS)())


def normed(net: RecipeNet, source: int) -> int:
    norm = net.choose((nn.LayerNorm, nn.RMSNorm, None))
    return source if norm is None else net.module(source, norm(net.kinds[source].width))


def added(net: RecipeNet, source: int, made: int) -> int:
    """Close a residual branch, maybe scaled."""
    kind = net.kinds[source]
    if net.choose((False, True)):
        scale = net.keep(nn.Parameter(torch.zeros(kind.width)), "scale")
        return net.add(kind, lambda own, x, y: x + own.held(scale) * y, source, made)
    return net.add(kind, lambda _, x, y: x + y, source, made)


def perceptron(net: RecipeNet) -> None:
    source = net.pick("tokens")
    width, inner = net.kinds[source].width, net.choose(WIDTHS)
    first = normed(net, source)
    gated = net.choose((None, "chunk", "glu", "two", "split"))
    if gated is None:
        made = net.module(first, nn.Linear(width, inner), width=inner)
        made = net.module(made, net.choose((nn.GELU, nn.ReLU))())
    elif gated == "two":
        one = net.module(first, nn.Linear(width, inner), width=inner)
        two = net.module(first, nn.Linear(width, inner), width=inner)
        made = net.add(net.kinds[one], lambda _, x, y: F.silu(x) * y, one, two)
    else:
        both = net.module(first, nn.Linear(width, 2 * inner), width=2 * inner)
        half = net.kinds[both]._replace(width=inner)
        functions: dict[str, Callable[[Any, Tensor], Tensor]] = {
            "chunk": lambda _, x: x.chunk(2, dim=-1)[0] * F.gelu(x.chunk(2, dim=-1)[1]),
            "glu": lambda _, x: F.glu(x, -1),
            "split": lambda _, x: F.silu(x[..., :inner]) * x[..., inner:],
        }
        made = net.add(half, functions[gated], both)
    added(net, source, net.module(made, nn.Linear(inner, width), width=width))


def attention(net: RecipeNet) -> None:
    source = net.pick("tokens")
    width = net.kinds[source].width
    first = normed(net, source)
    heads, each = net.choose((2, 3)), net.choose((2, 4, 3))
    made = net.choose(ATTENTIONS)(net, first, heads, each)
    inner = net.kinds[made].width
    added(net, source, net.module(made, nn.Linear(inner, width), width=width))


def _weigh(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return ((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v


def _fused(net: RecipeNet, source: int, heads: int, each: int) -> int:
    inner = heads * each
    kind = net.kinds[source]
    qkv = net.keep(nn.Linear(kind.width, 3 * inner, bias=net.choose((True, False))))
    norm = net.keep(nn.LayerNorm(each)) if net.choose((False, True)) else None
    torchs, how = net.choose((False, True)), net.choose((0, 1, 2, 3))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = own.call(qkv, x)
        if how == 0:
            q, k, v = y.reshape(b, n, 3, heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        elif how == 1:
            q, k, v = (part.view(b, n, heads, -1).transpose(1, 2) for part in y.chunk(3, dim=-1))
        elif how == 2:
            parts = y.reshape(b, n, 3, heads, y.shape[-1] // (3 * heads)).permute(2, 0, 3, 1, 4)
            q, k, v = parts[0], parts[1], parts[2]
        else:
            q, k, v = (
                part.unflatten(-1, (heads, each)).permute(0, 2, 1, 3)
                for part in torch.split(y, inner, -1)
            )
        if norm is not None:
            q, k = own.call(norm, q), own.call(norm, k)
        mixed = F.scaled_dot_product_attention(q, k, v) if torchs else _weigh(q, k, v, each**-0.5)
        return mixed.transpose(1, 2).reshape(b, n, inner)

    return net.add(kind._replace(width=inner), run, source)


def _apart(net: RecipeNet, source: int, heads: int, each: int) -> int:
    """Queries, keys and values by layers of their own; einsum; a scale per head."""
    inner = heads * each
    kind = net.kinds[source]
    layers = [net.keep(nn.Linear(kind.width, inner)) for _ in range(3)]
    scale = net.keep(nn.Parameter(torch.zeros(heads, 1, 1)), "scale")
    how = net.choose((0, 1, 2))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (own.call(layer, x).view(b, n, heads, each) for layer in layers)
        if how == 0:
            weights = torch.einsum("bihd,bjhd->bhij", q, k) + own.held(scale)
            return torch.einsum("bhij,bjhd->bihd", weights.softmax(-1), v).reshape(b, n, -1)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if how == 1:  # cosine attention
            weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            mixed = (weights * own.held(scale).exp()).softmax(-1) @ v
            return mixed.transpose(1, 2).flatten(2)
        context = k.softmax(2).transpose(-2, -1) @ v  # linear attention
        return (q.softmax(-1) @ context).transpose(1, 2).reshape(b, n, -1)

    return net.add(kind._replace(width=inner), run, source)


def _shared(net: RecipeNet, source: int, heads: int, each: int) -> int:
    """Grouped queries: heads of queries share keys and values."""
    kind, times = net.kinds[source], 2
    inner = heads * each
    q, kv = nn.Linear(kind.width, times * inner), nn.Linear(kind.width, 2 * inner)
    names, how = (net.keep(q), net.keep(kv)), net.choose((0, 1, 2))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = own.call(names[0], x).view(b, n, times * heads, each).transpose(1, 2)
        k, v = own.call(names[1], x).view(b, n, 2, heads, each).permute(2, 0, 3, 1, 4)
        if how == 0:
            k, v = (part.repeat_interleave(times, dim=1) for part in (k, v))
        elif how == 1:
            k, v = (
                part[:, :, None].expand(b, heads, times, n, each).reshape(b, times * heads, n, each)
                for part in (k, v)
            )
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=how == 2)
        return mixed.transpose(1, 2).reshape(b, n, -1)

    return net.add(kind._replace(width=times * inner), run, source)


def _module(net: RecipeNet, source: int, heads: int, each: int) -> int:
    inner = heads * each
    made = net.module(source, nn.Linear(net.kinds[source].width, inner), width=inner)
    layer = net.keep(nn.MultiheadAttention(inner, heads, batch_first=True))
    wanted = net.choose((False, True))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        mixed: Tensor = own.held(layer)(x, x, x, need_weights=wanted)[0]
        return mixed

    return net.add(net.kinds[made], run, made)


def _across_channels(net: RecipeNet, source: int, heads: int, each: int) -> int:
    """Attend over channels, as XCiT does."""
    kind, inner = net.kinds[source], heads * each
    qkv = net.keep(nn.Linear(kind.width, 3 * inner))

    def run(own: RecipeNet, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = own.call(qkv, x).reshape(b, n, 3, heads, each).permute(2, 0, 3, 4, 1)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
        return (weights @ v).permute(0, 3, 1, 2).reshape(b, n, -1)

    return net.add(kind._replace(width=inner), run, source)


ATTENTIONS = (_fused, _apart, _shared, _module, _across_channels)


def along_tokens(net: RecipeNet) -> None:
    """Mix tokens: convolutions, positions, a class token, recurrence, a layer over all tokens."""
    source = net.pick("tokens")
    kind = net.kinds[source]
    width, count = kind.width, kind.side**2
    how = net.choose(("each", "conv", "class", "roll", "positions", "mixer", "recurrent", "shift"))
    if how in ("positions", "mixer", "class"):
        net.fixed = net.fixed or how != "class"
        shape = (count, count) if how == "mixer" else (1, count if how == "positions" else 1, width)
        held = net.keep(nn.Parameter(torch.zeros(shape)), "bare")
    elif how == "recurrent":
        rnn = net.choose((nn.GRU, nn.LSTM))(width, width, batch_first=True)
        held = net.keep(rnn)
    else:
        held = net.keep(nn.Conv1d(width, width, 3, padding=1, groups=1 if how == "conv" else width))
    functions: dict[str, Callable[[RecipeNet, Tensor], Tensor]] = {
        "each": lambda own, x: own.call(held, x.transpose(1, 2)).transpose(1, 2),
        "conv": lambda own, x: own.call(held, x.mT).mT,
        "class": lambda own, x: torch.cat(
            [own.held(held).expand(x.shape[0], -1, -1), x], 1
        ).softmax(1)[:, 1:],
        "roll": lambda own, x: x + own.call(held, x.roll(1, 1).mT).mT,
        "positions": lambda own, x: x + own.held(held),
        "mixer": lambda own, x: own.held(held) @ x,
        "recurrent": lambda own, x: own.held(held)(x)[0],
        "shift": lambda own, x: torch.cat(
            [x[..., : width // 2].roll(1, 1), x[..., width // 2 :]], -1
        ),
    }
    net.add(kind, functions[how], source)


def condition(net: RecipeNet) -> None:
    """Let a vector scale and shift a map or tokens."""
    form = net.choose(("map", "tokens"))
    source = net.pick(form)
    kind = net.kinds[source]
    vector = net.pick("vector")
    made = net.module(vector, nn.Linear(net.kinds[vector].width, 2 * kind.width),
                      width=2 * kind.width)  # fmt: skip
    literal = net.choose((False, True))

    def run(_: RecipeNet, x: Tensor, y: Tensor) -> Tensor:
        if form == "tokens":
            scale, shift = (part.unsqueeze(1) for part in y.chunk(2, dim=-1))
        elif literal:
            scale, shift = y.view(-1, 2, kind.width, 1, 1).unbind(1)
        else:
            scale, shift = y[:, :, None, None].chunk(2, 1)
        return x * (1 + scale) + shift

    net.add(kind, run, source, made)


def to_vector(net: RecipeNet) -> None:
    form = net.choose(("map", "tokens"))
    source = net.pick(form)
    kind = net.kinds[source]
    maps: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: x.mean([-2, -1]),
        lambda x: x.amax((2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
        lambda x: torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1),
    )
    rows: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.mean(1), lambda x: x[:, 0], lambda x: x.amax(dim=1),
    )  # fmt: skip
    function = net.choose(maps if form == "map" else rows)
    net.add(Kind("vector", kind.width, 1), lambda _, x: function(x), source)


def flatten(net: RecipeNet) -> None:
    """Read every pixel by a linear layer, and maybe make a map of its result."""
    source = net.pick("map", lambda kind: kind.side == SIDE // 2)
    kind = net.kinds[source]
    total, outs = kind.width * kind.side**2, net.choose(WIDTHS)
    net.fixed = True
    spellings: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.flatten(1),
        lambda x: x.contiguous().view(x.size(0), -1),
        lambda x: x.reshape(-1, total),
        lambda x: x.permute(0, 2, 3, 1).flatten(1),
        lambda x: x.transpose(1, 2).reshape(x.shape[0], -1),
    )
    function = net.choose(spellings)
    flat = net.add(Kind("vector", total, 1), lambda _, x: function(x), source)
    made = net.module(flat, nn.Linear(total, outs), width=outs)
    if net.choose((False, True)):
        wide = net.module(made, nn.Linear(outs, total), width=total)
        shape = (-1, kind.width, kind.side, kind.side)
        net.add(kind, lambda _, x: F.relu(x).view(shape), wide)


GROWTHS: dict[str, Growth] = {
    "to tokens": to_tokens, "to a map": to_map, "project": project, "perceptron": perceptron,
    "attention": attention, "along tokens": along_tokens, "condition": condition,
    "to a vector": to_vector, "flatten": flatten,
}  # fmt: skip
