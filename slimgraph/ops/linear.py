"""Fully connected layers."""

from typing import Any

from torch import nn

from slimgraph.labels import Value, along, varying
from slimgraph.rules import ModuleForm, Rule, Site


def linear(site: Site, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """Contract the last dim; channels along other dims pass through."""
    input = site.carried(input)
    last = input.ndim - 1
    ins = site.vector(input, last)
    ended = tuple(x for x in input.layers if last in varying(x))
    site.read(Value(input.shape, ended, node=input.node), weight, 1)
    if ins is not None:
        site.bind(weight, 1, ins, "in")
    outs = site.open(weight, 0, "out")
    site.bind(bias, 0, outs, "shift")
    passed = [x[..., :1].expand(site.shape) for x in input.layers if last not in varying(x)]
    made = [along(outs, len(site.shape) - 1, site.shape)] if len(outs) > 1 else []
    return site.value(*passed, *made)


def bilinear(
    site: Site, input1: Value, input2: Value, weight: Value, bias: Value | None = None
) -> Value:
    """Contract the last dims of two values with the last two of a weight."""
    for dim, value in ((1, site.carried(input1)), (2, site.carried(input2))):
        last = value.ndim - 1
        labels = site.vector(value, last)
        site.without(value, range(last), "meets every channel of the other input")
        if labels is not None:
            site.bind(weight, dim, labels, "in")
            site.read(Value(value.shape, (along(labels, last, value.shape),), node=value.node))
    outs = site.open(weight, 0, "out")
    site.bind(bias, 0, outs, "shift")
    return site.value(*([along(outs, len(site.shape) - 1, site.shape)] if len(outs) > 1 else []))


def _bilinear_sizes(module: Any) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _sizes(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


RULES = (
    Rule(
        ("linear",),
        "contraction",
        linear,
        (ModuleForm((nn.Linear,), ("weight", "bias"), sizes=_sizes),),
    ),
    Rule(
        ("bilinear",),
        "bilinear",
        bilinear,
        (ModuleForm((nn.Bilinear,), ("weight", "bias"), sizes=_bilinear_sizes),),
    ),
)
