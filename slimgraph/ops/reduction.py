"""Reductions over dims, and ops that mix the positions of one dim."""

from typing import Any

from torch import Tensor, nn

from slimgraph.labels import Value, varying
from slimgraph.rules import ModuleForm, Rule, Site


def _dims(input: Value, dim: Any) -> frozenset[int]:
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return frozenset(range(input.ndim))
    return frozenset(d % input.ndim for d in (dim if isinstance(dim, list | tuple) else (dim,)))


def _reduce(site: Site, input: Value, dim: Any, *, ends: bool) -> Value:
    """Drop dims; channels that vary along other dims too are coupled across the dropped ones."""
    dropped = _dims(input, dim)
    keepdim = len(site.shape) == input.ndim
    layers: list[Tensor] = []
    ended: list[Tensor] = []
    for layer in site.layers(input):
        if dropped.issuperset(varying(layer)):
            ended.append(layer)
            if not ends:
                site.ledger.freeze(layer, site.node, "is reduced together with other channels")
            continue
        first = layer
        for d in sorted(dropped, reverse=True):
            first = first.narrow(d, 0, 1)
        site.ledger.couple(layer, first.expand(layer.shape), site.node)
        if not keepdim:
            for d in sorted(dropped, reverse=True):
                first = first.squeeze(d)
        layers.append(first.expand(site.shape))
    if ends and ended:
        site.read(Value(input.shape, tuple(ended), node=input.node))
    return site.value(*layers)


def reduce(site: Site, input: Value, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Reduce over dims; over channels the count would matter, so they stay."""
    if any(isinstance(arg, Value) for arg in (dim, *args)):
        site.freeze(dim, "is compared with other channels")
        site.freeze(input, "is compared with other channels")
        return site.value()
    result = _reduce(site, input, dim, ends=False)
    value = site.node.meta["val"]
    return tuple(result for _ in value) if isinstance(value, tuple) else result


def total(site: Site, input: Value, dim: Any = None, *args: Any, **kwargs: Any) -> Value:
    """Sum over dims; a sum over channels reads them and ends them."""
    return _reduce(site, input, dim, ends=True)


def mix(site: Site, input: Value, dim: Any = -1, *args: Any, **kwargs: Any) -> Value:
    """Mix the positions of one dim (softmax, cumsum): its channels stay."""
    dims = range(input.ndim) if dim is None else (dim % input.ndim,)
    whole = Value(input.shape, site.layers(input))
    return site.value(*site.without(whole, dims, "is mixed with other channels"))


RULES = (
    Rule(
        ("mean", "amax", "amin", "max", "min", "std", "var", "prod", "median", "logsumexp",
         "argmax", "argmin", "any", "all"),
        "reduction",
        reduce,
    ),
    Rule(("sum",), "reduction", total),
    Rule(
        ("softmax", "log_softmax", "softmin", "cumsum", "cumprod"),
        "mixing",
        mix,
        (ModuleForm((nn.Softmax, nn.LogSoftmax, nn.Softmin), options=("dim",)),),
    ),
)  # fmt: skip
