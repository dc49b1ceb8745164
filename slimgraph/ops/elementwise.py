"""Element-wise ops: labels that meet in one position are coupled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimgraph.labels import Shape, Value, along, compact, varying
from slimgraph.ops.grids import hold_together
from slimgraph.remedies import SHARED
from slimgraph.rules import ModuleForm, Rule, Site, values_in


class Operand(NamedTuple):
    """A value, and which dim of the result each of its dims lies on."""

    value: Value
    places: tuple[int, ...]


def elementwise(site: Site, *args: Any, **kwargs: Any) -> Value:
    """Couple the operands position by position."""
    rank = len(site.shape)
    values = values_in(args, kwargs)
    if len(values) == 1 and values[0].parameter is None and values[0].shape == site.shape:
        return site.value(*values[0].layers)
    operands = [Operand(v, tuple(range(rank - v.ndim, rank))) for v in values]
    return site.value(*meet(site, site.shape, operands))


def meet(
    site: Site,
    shape: Shape,
    operands: Sequence[Operand],
    roles: tuple[str, str] = ("bare", "scale"),
) -> list[Tensor]:
    """Couple operands position by position in a space that all of them broadcast to.

    Args:
        site: The op.
        shape: Of that space.
        operands: What meets.
        roles: Of the dims of a bare parameter that start channels, and that meet some.

    Returns:
        Layers of that shape.
    """
    computed = [operand for operand in operands if operand.value.parameter is None]
    aligned = {
        id(x): [_align(layer, x.places, shape) for layer in x.value.layers] for x in computed
    }
    layers = _merge(site, [layer for own in aligned.values() for layer in own])
    for operand in computed:
        _freeze_unmatched(site, operand, aligned[id(operand)], layers)
    for operand in operands:
        if operand.value.parameter is not None:
            layers += _started(site, operand, layers, computed, shape, roles)
    return layers


def _align(layer: Tensor, places: Sequence[int], shape: Shape) -> Tensor:
    """Lay the dims of a layer where they belong in a larger space."""
    if layer.shape == shape and tuple(places) == tuple(range(len(shape))):
        return layer
    small = compact(layer)
    order = sorted(range(layer.ndim), key=lambda dim: places[dim])
    sizes = [1] * len(shape)
    for dim in order:
        sizes[places[dim]] = small.shape[dim]
    return small.permute(order).reshape(sizes).expand(shape)


def _merge(site: Site, layers: list[Tensor]) -> list[Tensor]:
    """Couple layers that vary along a common dim into one.

    A layer that varies along some of the dims of another is not merged with it: each of its
    channels goes with a block of the other's.
    """
    merged: list[Tensor] = []
    for layer in layers:
        joined, apart = layer, []
        for other in merged:
            if set(varying(layer)).isdisjoint(varying(other)):
                apart.append(other)
            else:
                joined = _joined(site, other, joined)
        merged = [*apart, joined]
    return merged


def _joined(site: Site, one: Tensor, two: Tensor) -> Tensor:
    few, many = sorted((one, two), key=lambda layer: len(varying(layer)))
    dims, coarse = varying(many), set(varying(few))
    if coarse == set(dims):
        return _tied(site, one, two)
    outer = [dim for dim in dims if dim <= max(coarse)]  # blocks lie within these
    if coarse < set(dims) and len(outer) < len(dims) and not bool((compact(few) == 0).any()):
        order = [*outer, *(dim for dim in range(many.ndim) if dim not in outer)]
        rows = compact(many).permute(order).flatten(len(outer))
        heads = compact(few).permute(order).flatten(len(outer)).expand(*rows.shape[:-1], 1)
        site.ledger.block(rows.flatten(0, -2), site.node, heads.reshape(-1, 1), heads=True)
        return many
    if coarse < set(dims) and hold_together(site, many, max(coarse)):
        site.ledger.freeze(few, site.node, SHARED)
        return many
    return _tied(site, one, two)


def _tied(site: Site, one: Tensor, two: Tensor) -> Tensor:
    site.ledger.couple(one, two, site.node)
    left, right = compact(one), compact(two)
    if left.shape == right.shape and bool(left.all()):
        return one
    return torch.where(left != 0, left, right).expand(one.shape)


def _freeze_unmatched(
    site: Site, operand: Operand, aligned: list[Tensor], layers: list[Tensor]
) -> None:
    """Freeze channels that meet an operand which is as long but has none of its own."""
    own = {dim for layer in aligned for dim in varying(layer)}
    for layer in layers:
        dims = varying(layer)
        if own.isdisjoint(dims) and any(_size(operand, dim) > 1 for dim in dims):
            site.ledger.freeze(layer, site.node, "meets a value whose size cannot change")


def _started(
    site: Site,
    operand: Operand,
    layers: list[Tensor],
    computed: list[Operand],
    shape: Shape,
    roles: tuple[str, str],
) -> list[Tensor]:
    """Tie a bare parameter to the channels it meets, and return those it starts itself."""
    value, started = operand.value, []
    for dim, (size, place) in enumerate(zip(value.shape, operand.places, strict=True)):
        layer = next((x for x in layers if place in varying(x)), None)
        if size > 1 and layer is not None and hold_together(site, layer, place):
            site.ledger.keep(value, dim, site.node, SHARED)
        elif size > 1 and layer is not None:
            labels = site.vector(Value(shape, (layer,)), place)
            assert labels is not None, "the layer varies along this dim"
            site.bind(value, dim, labels, roles[1])
        elif size > 1 and all(_size(x, place) == 1 for x in computed):
            started.append(along(site.open(value, dim, roles[0]), place, shape))
        elif size > 1 and value.parameter is not None:
            site.ledger.pin(value.parameter, dim, site.node, "meets positions that are no channels")
    return started


def _size(operand: Operand, place: int) -> int:
    """Return how long an operand is along a dim of the space."""
    if place not in operand.places:
        return 1
    return operand.value.shape[operand.places.index(place)]


def identity(site: Site, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Pass the channels of the first argument on, whatever the others are."""
    return site.value(*site.layers(input))


def prelu(site: Site, input: Value, weight: Value) -> Value:
    """Scale the negative part of each channel of dim 1, or of all by one number."""
    input = site.carried(input)
    labels = site.vector(input, 1) if input.ndim > 1 else None
    if labels is not None and weight.shape[0] > 1:
        site.bind(weight, 0, labels, "scale")
    return site.value(*input.layers)


def _prelu_sizes(module: Any) -> None:
    module.num_parameters = module.weight.shape[0]


_ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.RReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid,
    nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
_IDENTITIES = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
# Ops that torch does not tag as point-wise although they are.
POINTWISE = Rule(
    (
        "add", "sub", "rsub", "mul", "truediv", "div", "true_divide", "floordiv", "mod", "pow",
        "neg", "abs", "hardtanh", "relu6", "hardswish", "hardsigmoid", "softsign", "tanhshrink",
        "logsigmoid", "log_sigmoid", "rrelu", "selu", "celu", "elu", "mish", "softplus", "clip",
        "clamp", "threshold", "where", "maximum", "minimum", "and", "or", "xor", "invert",
        "lt", "le", "gt", "ge", "eq", "ne", "addcmul", "addcdiv", "lerp", "masked_fill",
        "expand_as",
    ),
    "element-wise",
    elementwise,
    (ModuleForm(_ACTIVATIONS),),
)  # fmt: skip
IDENTITY = Rule(
    (
        "contiguous", "clone", "detach", "to", "type", "type_as", "float", "double", "half",
        "bfloat16", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
        "feature_dropout", "feature_alpha_dropout", "zeros_like", "ones_like", "full_like",
        "empty_like", "rand_like", "randn_like", "alias", "requires_grad", "cpu", "cuda",
    ),
    "element-wise",
    identity,
    (ModuleForm(_IDENTITIES),),
)  # fmt: skip
PRELU = Rule(
    ("prelu",),
    "element-wise",
    prelu,
    (ModuleForm((nn.PReLU,), ("weight",), sizes=_prelu_sizes),),
)
RULES = (POINTWISE, IDENTITY, PRELU)
