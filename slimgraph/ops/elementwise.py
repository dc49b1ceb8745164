"""Element-wise ops: labels that meet in one position are coupled."""

from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.labels import Shape, Value, along, compact, varying
from slimgraph.rules import ModuleForm, Rule, Site, values_in


def elementwise(site: Site, *args: Any, **kwargs: Any) -> Value:
    """Couple the operands position by position."""
    values = values_in(args, kwargs)
    computed = [value for value in values if value.parameter is None]
    layers = _merge(site, [x.expand(site.shape) for value in computed for x in value.layers])
    for value in computed:
        _freeze_unmatched(site, value, layers)
    for value in values:
        if value.parameter is not None:
            layers += _started(site, value, layers, computed)
    return site.value(*layers)


def _merge(site: Site, layers: list[Tensor]) -> list[Tensor]:
    """Couple layers that vary along a common dim into one."""
    merged: list[Tensor] = []
    for layer in layers:
        joined, apart = layer, []
        for other in merged:
            if set(varying(layer)).isdisjoint(varying(other)):
                apart.append(other)
            else:
                site.ledger.couple(other, layer, site.node)
                one, two = torch.broadcast_tensors(compact(other), compact(joined))
                joined = torch.where(one != 0, one, two).expand(layer.shape)
        merged = [*apart, joined]
    return merged


def _freeze_unmatched(site: Site, value: Value, layers: list[Tensor]) -> None:
    """Freeze channels that meet an operand which is as long but has none of its own."""
    own = {dim for x in value.layers for dim in varying(x.expand(site.shape))}
    for layer in layers:
        dims = varying(layer)
        if own.isdisjoint(dims) and any(_size(value, dim, site.shape) > 1 for dim in dims):
            site.ledger.freeze(layer, site.node, "meets a value whose size cannot change")


def _started(site: Site, value: Value, layers: list[Tensor], computed: list[Value]) -> list[Tensor]:
    """Tie a bare parameter to the channels it meets, and return those it starts itself."""
    offset = len(site.shape) - value.ndim
    started = []
    for dim, size in enumerate(value.shape):
        layer = next((x for x in layers if dim + offset in varying(x)), None)
        if size > 1 and layer is not None:
            labels = site.vector(Value(site.shape, (layer,)), dim + offset)
            assert labels is not None, "the layer varies along this dim"
            site.bind(value, dim, labels, "scale")
        elif size > 1 and all(_size(x, dim + offset, site.shape) == 1 for x in computed):
            started.append(along(site.open(value, dim), dim + offset, site.shape))
    return started


def _size(value: Value, dim: int, shape: Shape) -> int:
    index = dim - (len(shape) - value.ndim)
    return value.shape[index] if index >= 0 else 1


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
