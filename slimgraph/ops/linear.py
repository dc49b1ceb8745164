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


def _sizes(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


RULES = (
    Rule(
        ("linear",),
        "contraction",
        linear,
        (ModuleForm((nn.Linear,), ("weight", "bias"), sizes=_sizes),),
    ),
)
