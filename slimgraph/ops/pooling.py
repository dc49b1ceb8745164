"""Pooling and resampling: channels pass, positions within one channel mix."""

from typing import Any

from torch import Tensor, nn

from slimgraph.labels import Value, varying
from slimgraph.ops.elementwise import elementwise
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
        result = _spatial(site, input, dims)
        value = site.node.meta["val"]
        return tuple(result for _ in value) if isinstance(value, tuple) else result  # with places

    return flow


def _unpool(dims: int) -> Any:
    def flow(site: Site, input: Value, indices: Value, *args: Any, **kwargs: Any) -> Value:
        both = [_spatial(site, value, dims) for value in (input, indices)]
        return elementwise(site, *both)

    return flow


def random(site: Site, input: Value, *args: Any, **kwargs: Any) -> Any:
    """Pool windows drawn at random: other channels would draw others."""
    site.freeze(input, "is pooled over windows drawn at random for each channel")
    value = site.node.meta["val"]
    return tuple(site.value() for _ in value) if isinstance(value, tuple) else site.value()


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
            tuple(f"{name}{dims}d{end}" for name in _NAMES for end in ("", "_with_indices")),
            "pool",
            _pool(dims),
            (ModuleForm(_modules(dims)),),
        )
        for dims in (1, 2, 3)
    ),
    *(
        Rule(
            (f"max_unpool{dims}d",),
            "pool",
            _unpool(dims),
            (ModuleForm((getattr(nn, f"MaxUnpool{dims}d"),)),),
        )
        for dims in (1, 2, 3)
    ),
    Rule(
        ("fractional_max_pool2d", "fractional_max_pool2d_with_indices", "fractional_max_pool3d",
         "fractional_max_pool3d_with_indices"),
        "pool",
        random,
        (ModuleForm((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)),),
    ),
    Rule(("interpolate", "upsample"), "pool", resample, (_RESAMPLE,)),
)  # fmt: skip
