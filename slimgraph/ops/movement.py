"""Data movement: the very same op runs on the labels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.labels import Shape, Value, along, compact, restride, varying
from slimgraph.op_names import canonical
from slimgraph.ops import resizing
from slimgraph.ops.elementwise import elementwise
from slimgraph.ops.grids import carried, settle, tie
from slimgraph.rules import ModuleForm, Rule, Site

_CUTS = ("getitem", "narrow", "slice")


def move(site: Site, input: Value, *args: Any, **kwargs: Any) -> Any:
    """Run the op itself on every layer."""
    op = _runner(site)
    if 0 in site.shape and isinstance(site.node.meta["val"], Tensor):
        return site.value()  # no label lies on nothing, and none meets another there

    def run(layer: Tensor) -> Any:
        return op(layer, *args, **kwargs)

    layers = site.layers(input)
    for layer in layers:
        settle(site, layer, run)
    results = [run(layer) for layer in layers]
    value = site.node.meta["val"]
    if not isinstance(value, tuple | list):
        return carried(site, site.shape, [restride(layer) for layer in results])
    return tuple(
        carried(site, item.shape, [restride(parts[i]) for parts in results])
        for i, item in enumerate(value)
    )


def _runner(site: Site) -> Callable[..., Any]:
    target = site.node.target
    if site.node.op == "call_module":
        root = site.node.graph.owning_module
        assert root is not None, "traced graphs belong to a module"
        module = root.get_submodule(str(target))
        return lambda layer, **_: module(layer)
    if site.node.op == "call_method":
        return lambda layer, *args, **kwargs: getattr(layer, str(target))(*args, **kwargs)
    assert callable(target)
    return target


def reshape(site: Site, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Regroup dims without copying those that carry no channels."""
    if any(isinstance(arg, torch.dtype) for arg in args):
        site.freeze(input, "its bytes are reinterpreted")
        return site.value()
    layers = []
    for layer in site.layers(input):
        if _scatters(layer, site.shape):
            site.ledger.freeze(layer, site.node, "is spread over dims that carry no channels")
        else:
            layers.append(_reshaped(layer, site.shape))
    return carried(site, site.shape, layers)


def reshape_as(site: Site, input: Value, other: Value) -> Value:
    """Regroup dims into the sizes that another value is left with."""
    return elementwise(site, reshape(site, input), other)


def _scatters(layer: Tensor, shape: Shape) -> bool:
    """Tell whether channels alternate along a dim without any, and both are cut anew.

    Which positions a channel has then depends on the size of the image.
    """
    dims = varying(layer)
    for old, new in _regroup(tuple(layer.shape), shape):
        inner = [dim for dim in old if dim in dims]
        outer = [dim for dim in old if dim not in dims and layer.shape[dim] > 1]
        cut = sum(shape[dim] > 1 for dim in new) > 1
        if cut and inner and outer and outer[0] < inner[-1]:
            return True
    return False


def _reshaped(layer: Tensor, shape: Shape) -> Tensor:
    results: list[int] = []
    dims = varying(layer)
    small = layer
    for old, new in _regroup(tuple(layer.shape), shape):
        if not set(dims).isdisjoint(old):
            results += [shape[dim] for dim in new]
        else:
            for dim in old:
                small = small.narrow(dim, 0, 1)
            results += [1] * len(new)
    return restride(small.reshape(results)).expand(shape)


def _regroup(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """Pair the shortest runs of old and new dims that hold equally many positions."""
    pairs: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left = old[i] if i < len(old) else 1
        right = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        pairs.append((range(start_i, i), range(start_j, j)))
    return pairs


def cat(site: Site, tensors: Sequence[Value], dim: int = 0, **kwargs: Any) -> Value:
    """Join values along a dim; positions that carry no channel stay."""
    dim = kwargs.get("axis", dim) % len(site.shape)
    layers = [site.layers(value) for value in tensors]
    carrying = {frozenset(varying(layer)) for value in layers for layer in value}
    dims = frozenset().union(*carrying) - {dim}
    along_dim = any(dim in own for own in carrying)
    alike = len({own - {dim} for own in carrying}) <= 1  # along the same other dims, or none
    if any(len(value) > 1 for value in layers) or (along_dim and not alike):
        for value in tensors:
            site.freeze(value, "is joined with values that carry channels elsewhere")
        return site.value()
    if not along_dim and dims:
        return _meet(site, tensors, dim)
    for layer in (layer for value in layers for layer in value if min(dims, default=dim) < dim):
        tie(site, layer, dim)
    index = tuple(slice(None if d == dim or d in dims else 1) for d in range(len(site.shape)))
    parts = [
        (own[0] if own else torch.zeros((), dtype=torch.long).expand(value.shape))[index]
        for value, own in zip(tensors, layers, strict=True)
    ]
    joined = torch.cat(parts, dim)
    return carried(site, site.shape, [joined.expand(site.shape)]) if along_dim else site.value()


def _meet(site: Site, tensors: Sequence[Value], dim: int) -> Value:
    """Join along a dim without channels: those along the others meet in every piece."""
    pieces = [site.layers(_whole(site, value, dim)) for value in tensors]
    first = next(piece[0] for piece in pieces if piece).narrow(dim, 0, 1)
    for piece in pieces:
        if piece:
            site.ledger.couple(first, piece[0].narrow(dim, 0, 1), site.node)
        else:
            site.ledger.freeze(first, site.node, "is joined with a value whose size cannot change")
    return site.value(first.expand(site.shape))


def _whole(site: Site, value: Value, dim: int) -> Value:
    """Return what an empty piece was cut from: no layer can hold labels of nothing."""
    if value.shape[dim] or value.node is None or canonical(value.node.target) not in _CUTS:
        return value
    source = site.values[value.node.all_input_nodes[0]]
    rest = [own[:dim] + own[dim + 1 :] for own in (value.shape, source.shape)]
    return source if rest[0] == rest[1] else value


def stack(site: Site, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Join values along a new dim."""
    dim %= len(site.shape)
    expanded = [
        Value(
            (*value.shape[:dim], 1, *value.shape[dim:]),
            tuple(
                layer.unsqueeze(dim).expand((*value.shape[:dim], 1, *value.shape[dim:]))
                for layer in site.layers(value)
            ),
        )
        for value in tensors
    ]
    if any(min(varying(x), default=dim) < dim for value in expanded for x in value.layers):
        return _meet(site, expanded, dim)
    return cat(site, expanded, dim)


def pad(
    site: Site, input: Value, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Value:
    """Pad; constant positions added along a dim with channels are new channels."""
    layers: list[Tensor] = []
    for layer in site.layers(input):
        before = [(0, 0)] * input.ndim
        for k in range(len(pad) // 2):
            before[input.ndim - 1 - k] = (pad[2 * k], pad[2 * k + 1])
        touched = [dim for dim in varying(layer) if before[dim] != (0, 0)]
        plain = mode == "constant" and varying(layer) == tuple(touched) and len(touched) == 1
        if not touched:
            layers.append(
                layer[
                    tuple(
                        slice(0, 1) if d not in varying(layer) else slice(None)
                        for d in range(input.ndim)
                    )
                ].expand(site.shape)
            )
        elif plain and min(before[touched[0]]) >= 0:
            layers.append(_padded(site, compact(layer).flatten(), touched[0], before[touched[0]]))
        else:
            site.ledger.freeze(layer, site.node, f"is padded in mode `{mode}`")
    return site.value(*layers)


def _padded(site: Site, labels: Tensor, dim: int, amount: tuple[int, int]) -> Tensor:
    name = f"{site.node.name}[pad]"
    added = site.ledger.open((name, dim), (sum(amount),), "created", site.node)
    return along(torch.cat([added[: amount[0]], labels, added[amount[0] :]]), dim, site.shape)


def pixel_shuffle(site: Site, input: Value, upscale_factor: int) -> Any:
    """Move channels into space; those that make one new channel leave together."""
    channel = input.ndim - 3
    labels = site.vector(input, channel)
    if labels is not None:
        blocks = labels.reshape(-1, upscale_factor**2)
        site.ledger.couple(blocks[:, :1], blocks, site.node)
        first = blocks[:, :1].expand(blocks.shape).flatten()  # one label for all of a new channel
        input = Value(input.shape, (along(first, channel, input.shape),), node=input.node)
    return move(site, input, *([] if site.node.op == "call_module" else [upscale_factor]))


def channel_shuffle(site: Site, input: Value, groups: int) -> Any:
    """Put the channels of all blocks at one position side by side; any of them may leave."""
    labels = site.vector(input, 1)
    others = [layer for layer in input.layers if 1 not in varying(layer)]
    if labels is None:
        return site.value(*others)
    return site.value(*others, along(labels[resizing.shuffled(len(labels), groups)], 1, site.shape))


def roll(site: Site, input: Value, shifts: Any, dims: Any = None) -> Value:
    """Roll; the shift along a dim with channels would have to be another one."""
    rolled = (
        range(input.ndim) if dims is None else dims if isinstance(dims, tuple | list) else [dims]
    )
    whole = Value(input.shape, site.layers(input))
    rest = site.without(whole, [dim % input.ndim for dim in rolled], "is rolled")
    return site.value(*rest)


def glu(site: Site, input: Value, dim: int = -1) -> Value:
    """Gate one half of a dim by the other: they leave together."""
    dim %= input.ndim
    half = input.shape[dim] // 2
    layers: list[Tensor] = []
    for layer in site.layers(input):
        first, second = layer.narrow(dim, 0, half), layer.narrow(dim, half, half)
        site.ledger.couple(first, second, site.node)
        layers.append(first)
    return site.value(*layers)


def unbind(site: Site, input: Value, dim: int = 0) -> Any:
    """Take a value apart along a dim; none of its items may vanish."""
    dim %= input.ndim
    for layer in site.layers(input):
        rows = compact(layer).movedim(dim, 0)
        rows = rows.reshape(rows.shape[0], -1)
        if dim in varying(layer) and rows.shape[1] == 1:
            site.ledger.freeze(layer, site.node, "is taken apart channel by channel")
    return move(site, input, dim)


RULES = (
    Rule(
        ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "ravel"),
        "movement",
        reshape,
        (
            ModuleForm((nn.Flatten,)),
            ModuleForm((nn.Unflatten,), options=("dim", "unflattened_size")),
        ),
        resizing.reshape,
    ),
    Rule(
        (
            "permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims",
            "unsqueeze", "flip", "pixel_unshuffle", "repeat_interleave", "T", "mT",
        ),
        "movement",
        move,
        (ModuleForm((nn.PixelUnshuffle,)),),
    ),
    Rule(
        ("pixel_shuffle",),
        "movement",
        pixel_shuffle,
        (ModuleForm((nn.PixelShuffle,), options=("upscale_factor",)),),
    ),
    Rule(
        ("channel_shuffle", "native_channel_shuffle"),
        "movement",
        channel_shuffle,
        (ModuleForm((nn.ChannelShuffle,), options=("groups",)),),
        resizing.shuffle,
    ),
    Rule(("view_as", "reshape_as"), "movement", reshape_as),
    Rule(("roll",), "movement", roll),
    Rule(("glu",), "element-wise", glu, (ModuleForm((nn.GLU,), options=("dim",)),)),
    Rule(("unbind",), "movement", unbind, (), resizing.unbind),
    Rule(("squeeze",), "movement", move, (), resizing.squeeze),
    Rule(
        ("split", "split_with_sizes", "chunk", "tensor_split"),
        "movement",
        move,
        (),
        resizing.split,
    ),
    Rule(("narrow", "slice", "select"), "movement", move, (), resizing.narrow),
    Rule(("cat", "concat", "concatenate"), "movement", cat),
    Rule(("stack",), "movement", stack),
    Rule(("pad", "constant_pad_nd"), "movement", pad, (), resizing.pad),
)  # fmt: skip
