"""Pooling and resampling: channels pass, positions within one channel mix."""

from typing import Any

from torch import Tensor, nn

from slimgraph.labels import Value, varying
from slimgraph.rules import ModuleForm, Rule, Site


def _spatial(site: Site, input: Value, dims: int) -> Value:
    input = site.carried(input)
    layers: list[Tensor] = []
    space = frozenset(range(input.ndim - dims, input.ndim))
    for layer in input.layers:
        inside = [dim for dim in varying(layer) if dim not in space]
        if not inside:
            site.ledger.freeze(layer, site.node, "positions along this dim are mixed")
            continue
        first = layer
        for dim in space.intersection(varying(layer)):
            first = first.narrow(dim, 0, 1)
        site.ledger.couple(layer, first.expand(layer.shape), site.node)
        for dim in space:
            first = first.narrow(dim, 0, 1)
        layers.append(first.expand(site.shape))
    return site.value(*layers)


def _pool(dims: int) -> Any:
    def flow(site: Site, input: Value, *args: Any, **kwargs: Any) -> Value | tuple[Value, ...]:
        if isinstance(site.node.meta["val"], tuple):  # with the indices of the maxima
            site.freeze(input, "its pooling indices are used")
            return tuple(Value(tuple(x.shape)) for x in site.node.meta["val"])
        return _spatial(site, input, dims)

    return flow


def resample(site: Site, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Interpolate over every dim behind the channels."""
    return _spatial(site, input, input.ndim - 2)


def _modules(dims: int) -> tuple[type[nn.Module], ...]:
    kinds = ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "LPPool")
    found = [getattr(nn, f"{kind}{dims}d", None) for kind in kinds]
    padding = [getattr(nn, f"{kind}Pad{dims}d", None) for kind in _PADS]
    return tuple(module for module in (*found, *padding) if module is not None)


_PADS = ("Zero", "Constant", "Reflection", "Replication", "Circular")
_NAMES = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
_RESAMPLE = ModuleForm((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d))
RULES = (
    *(
        Rule(
            tuple(f"{name}{dims}d" for name in _NAMES),
            "pool",
            _pool(dims),
            (ModuleForm(_modules(dims)),),
        )
        for dims in (1, 2, 3)
    ),
    Rule(("interpolate", "upsample"), "pool", resample, (_RESAMPLE,)),
)
