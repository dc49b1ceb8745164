"""Convolutions: 1-D to 3-D, transposed, grouped, depth-wise.

The weight's dim 0 spans all groups, dim 1 the channels of one group. Output channels lie on
dim 0, those of a transposed convolution on dim 1. Along a spatial dim that carries channels (ECA
convolves over them) each keeps its old neighbours, see `slimgraph.ops.resizing.spread`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from slimgraph.labels import Shape, Value, along, compact, varying
from slimgraph.ops import resizing
from slimgraph.rules import Call, ModuleForm, Rule, Site


class _Options(NamedTuple):
    """How a convolution slides, and which dim of its weight makes channels."""

    groups: int
    stride: Any
    out: int


def _flow(site: Site, value: Value, weight: Value, bias: Value | None, options: _Options) -> Value:
    groups, _, out = options
    value = site.carried(value)
    channel = value.ndim - weight.ndim + 1  # 1, or 0 without a batch dim
    ins = site.vector(value, channel)
    if ins is None:
        ins = torch.zeros(value.shape[channel], dtype=torch.long)
    ended = tuple(x for x in value.layers if channel in varying(x))
    others = tuple(x for x in value.layers if channel not in varying(x))
    around = Value(value.shape, others, node=value.node)
    passed = _along_space(site, around, weight, options.stride)
    site.read(Value(value.shape, ended, node=value.node), weight, 1 - out)
    site.without(weight, range(2, weight.ndim), "is a kernel position")
    if groups == 1:
        outs = site.open(weight, out, "out")
        site.bind(weight, 1 - out, ins, "in")
    else:
        outs = _grouped(site, weight, ins, groups, out)
    site.bind(bias, 0, outs, "shift")
    layers = [compact(layer).expand(site.shape) for layer in passed]
    return site.value(*layers, *([along(outs, channel, site.shape)] if len(outs) > 1 else []))


def _along_space(site: Site, value: Value, weight: Value, stride: Any) -> tuple[Tensor, ...]:
    """Let channels along one spatial dim pass if the result has the same positions there."""
    first = value.ndim - weight.ndim + 2
    plain = all(step == 1 for step in (stride if isinstance(stride, tuple | list) else (stride,)))
    fixed = [
        dim for dim in range(first, value.ndim) if not plain or value.shape[dim] != site.shape[dim]
    ]
    passed = site.without(value, fixed, "a convolution mixes neighbours along this dim")
    layers, reads = [], False
    for layer in passed:
        dims = [dim for dim in varying(layer) if dim >= first]
        mixed = any(weight.shape[dim - value.ndim] > 1 for dim in dims)
        if (dims and len(varying(layer)) > 1) or (mixed and reads):
            site.ledger.freeze(layer, site.node, "is convolved over along several dims")
            continue
        if mixed:
            reads = True
            site.ledger.neighbours.append((site.node, layer))
            site.read(Value(value.shape, (layer,), node=value.node))
        layers.append(layer)
    return tuple(layers)


def _grouped(site: Site, weight: Value, ins: Tensor, groups: int, out: int) -> Tensor:
    count = weight.shape[1] * groups if out else weight.shape[0]
    if weight.parameter is None:
        each = site.vector(weight, 0) if count == groups == len(ins) else None
        if each is not None:  # depth-wise, by one kernel that was repeated for every channel
            site.ledger.couple(ins, each, site.node)
            return torch.where(ins != 0, ins, each)
        site.freeze(weight, "is the computed weight of a grouped convolution")
        site.ledger.freeze(ins, site.node, "feeds a grouped convolution with a computed weight")
        return torch.zeros(count, dtype=torch.long)
    rows_in = ins.reshape(groups, -1)
    shape = (groups, count // groups) if out else (count,)
    axis = (weight.parameter, out)
    if rows_in.numel() == count == groups and bool(ins.any()):
        rows_out = rows_in  # depth-wise: the channels pass through
    else:
        rows_out = site.ledger.open(axis, shape, "out", site.node).reshape(groups, -1)
    if 1 in (rows_in.shape[1], rows_out.shape[1]):
        site.ledger.couple(rows_in[:, :, None], rows_out[:, None, :], site.node)
    else:
        site.ledger.block(rows_in, site.node, partner=rows_out)
        site.ledger.block(rows_out, site.node, partner=rows_in)
    site.ledger.place(axis, rows_out.reshape(shape), "out", site.node)
    site.ledger.place(
        (weight.parameter, 1 - out), rows_in.flatten() if out else rows_in, "in", site.node
    )
    return rows_out.flatten()


def convolution(
    site: Site,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Contract the channels of the input; the weight's dim 0 starts new ones."""
    return _flow(site, input, weight, bias, _Options(groups, stride, 0))


def transposed(
    site: Site,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """Contract the channels of the input; the weight's dim 1 starts new ones."""
    return _flow(site, input, weight, bias, _Options(groups, stride, 1))


def core(site: Site, input: Value, weight: Value, bias: Value | None, *rest: Any) -> Value:
    """Do either: the one convolution of decomposed `torch.export` programs."""
    stride, _, _, is_transposed, _, groups = rest
    return _flow(site, input, weight, bias, _Options(groups, stride, int(is_transposed)))


def _resize(call: Call) -> None:
    left = call.groups_left()
    if left is not None:
        call.set(8 if call.name == "convolution" else 6, "groups", left)
    kernel = _kernel(call)
    for dim in range(-len(kernel), 0):
        if kernel[dim] > 1:
            resizing.spread(call, dim)


def _kernel(call: Call) -> Shape:
    """Return the spatial sizes of the weight."""
    if call.module is not None:
        return tuple(call.module.weight.shape[2:])
    given = call.node.args[1] if len(call.node.args) > 1 else call.node.kwargs["weight"]
    assert isinstance(given, fx.Node), "a convolution has a weight"
    return tuple(given.meta["val"].shape[2:])


def _sizes(conv: Any) -> None:
    full, share = conv.weight.shape[0], conv.weight.shape[1] * conv.groups
    conv.in_channels, conv.out_channels = (full, share) if conv.transposed else (share, full)


def _form(*types: type[nn.Module]) -> tuple[ModuleForm, ...]:
    return (ModuleForm(types, ("weight", "bias"), ("groups", "stride"), _sizes),)


_PLAIN = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
RULES = (
    Rule(_PLAIN, "contraction", convolution, _form(nn.Conv1d, nn.Conv2d, nn.Conv3d), _resize),
    Rule(
        _TRANSPOSED,
        "contraction",
        transposed,
        _form(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        _resize,
    ),
    Rule(("convolution",), "contraction", core, (), _resize),
)
