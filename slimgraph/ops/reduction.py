"""Reductions over dims, and ops that mix the positions of one dim."""

import math
import operator
from functools import partial
from typing import Any

from torch import Tensor, nn

from slimgraph.labels import Value, varying
from slimgraph.op_names import canonical
from slimgraph.ops import resizing
from slimgraph.rules import Call, ModuleForm, Rule, Site

# What a reduction reads in the place of a channel, so that the others alone decide.
_IGNORED: dict[str, float] = {
    "sum": 0, "mean": 0, "norm": 0, "vector_norm": 0, "prod": 1, "amax": -math.inf,
    "max": -math.inf, "logsumexp": -math.inf, "amin": math.inf, "min": math.inf,
}  # fmt: skip


def _dims(input: Value, dim: Any) -> frozenset[int]:
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return frozenset(range(input.ndim))
    return frozenset(d % input.ndim for d in (dim if isinstance(dim, list | tuple) else (dim,)))


def _over(site: Site, input: Value, dim: Any, fill: float | None) -> Value:
    """Drop dims; channels that vary along other dims too are coupled across the dropped ones.

    Args:
        site: The op.
        input: What is reduced.
        dim: The dims, `None` for all.
        fill: What a channel that ends here is read as once removed; `None` if it has to stay.
    """
    dropped = _dims(input, dim)
    keepdim = len(site.shape) == input.ndim
    layers: list[Tensor] = []
    ended: list[Tensor] = []
    for layer in site.layers(input):
        if dropped.issuperset(varying(layer)):
            ended.append(layer)
            if fill is None:
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
    if fill is not None and ended:
        site.read(Value(input.shape, tuple(ended), node=input.node), fill=fill)
    return site.value(*layers)


def reduce(site: Site, input: Value, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Reduce over dims; a reduction over channels reads them, if it can ignore some."""
    dim = kwargs.get("axis", None if isinstance(dim, bool) else dim)  # `x.std(False)`
    if any(isinstance(arg, Value) for arg in (dim, *args)):
        site.freeze(dim, "is compared with other channels")
        site.freeze(input, "is compared with other channels")
        return site.value()
    value = site.node.meta["val"]
    first = value[0] if isinstance(value, tuple) else value
    fill = _IGNORED.get(canonical(site.node.target))
    if not first.is_floating_point() or (isinstance(value, tuple) and _positions_used(site)):
        fill = None
    result = _over(site, input, dim, fill)
    return tuple(result for _ in value) if isinstance(value, tuple) else result


def _positions_used(site: Site) -> bool:
    """Return whether anything but the values is taken from a maximum or minimum."""
    items = (user for user in site.node.users if user.users)
    return any(
        canonical(item.target) not in ("getitem", "getattr") or item.args[1] not in (0, "values")
        for item in items
    )


def norm(site: Site, input: Value, p: Any = 2, dim: Any = None, *args: Any, **kwargs: Any) -> Value:
    """Take a p-norm over dims; zeros add nothing to it, unless the smallest number counts."""
    return _over(site, input, dim, _fill_of_norm(kwargs.get("ord", p)))


def _fill_of_norm(order: Any) -> float | None:
    return None if isinstance(order, int | float) and order < 0 else 0


def normalize(
    site: Site, input: Value, p: float = 2, dim: Any = 1, *args: Any, **kwargs: Any
) -> Value:
    """Divide by a p-norm over dims; their channels are read, and stay apart."""
    dims = _dims(input, dim)
    layers = site.layers(input)
    measured = tuple(layer for layer in layers if not dims.isdisjoint(varying(layer)))
    for layer in measured if _fill_of_norm(p) is None else ():
        site.ledger.freeze(layer, site.node, "is compared with other channels")
    if measured:
        site.read(Value(input.shape, measured, node=input.node))
    return site.value(*layers)


def window(site: Site, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Mix each channel of dim 1 with its neighbours, of which a removed one counts as zero."""
    input = site.carried(input)
    site.vector(input, 1)
    site.read(
        Value(input.shape, tuple(x for x in input.layers if 1 in varying(x)), node=input.node)
    )
    return site.value(*input.layers)


def mix(site: Site, input: Value, dim: Any = -1, *args: Any, **kwargs: Any) -> Any:
    """Mix the positions of one dim (softmax, cumsum, sort): channels along it alone stay.

    Those that vary along other dims too leave from all its positions at once.
    """
    mixed = range(input.ndim) if dim is None else (dim % input.ndim,)
    layers: list[Tensor] = []
    for layer in site.layers(input):
        if set(varying(layer)) <= set(mixed):
            site.ledger.freeze(layer, site.node, "is mixed with other channels")
            continue
        first = layer
        for d in mixed:
            first = first.narrow(d, 0, 1)
        site.ledger.couple(layer, first.expand(layer.shape), site.node)
        layers.append(layer if layer.shape == site.shape else first.expand(site.shape))
    value = site.node.meta["val"]
    result = site.value(*layers)
    return tuple(result for _ in value) if isinstance(value, tuple) else result


def pick(site: Site, input: Value, k: int, dim: Any = -1, *args: Any, **kwargs: Any) -> Any:
    """Pick among the positions of one dim."""
    return mix(site, input, dim)


def _resize_mean(call: Call) -> None:
    """Divide by as many channels as there were: those that left count as zeros."""
    old, new = tuple(call.input.meta["val"].shape), call.kept.shape(call.input)
    given = call.node.args[1] if len(call.node.args) > 1 else None
    dims = _dims(Value(old), given if given is not None else call.node.kwargs.get("dim"))
    share = math.prod(new[dim] / old[dim] for dim in dims)
    if share != 1:
        call.become(operator.mul, resizing.again(call), share)


RULES = (
    Rule(("mean",), "reduction", reduce, (), _resize_mean),
    Rule(
        ("amax", "amin", "max", "min", "std", "var", "std_mean", "var_mean", "prod", "median",
         "aminmax", "logsumexp", "argmax", "argmin", "any", "all", "sum"),
        "reduction",
        reduce,
    ),
    Rule(("norm", "linalg_norm", "linalg_vector_norm"), "reduction", norm),
    Rule(("normalize",), "mixing", normalize),
    Rule(
        ("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "cummax", "cummin",
         "logcumsumexp", "sort", "argsort"),
        "mixing",
        mix,
        (ModuleForm((nn.Softmax, nn.LogSoftmax, nn.Softmin), options=("dim",)),),
    ),
    Rule(("topk",), "mixing", pick),
    Rule(("softmax2d",), "mixing", partial(mix, dim=-3), (ModuleForm((nn.Softmax2d,)),)),
    Rule(
        ("local_response_norm",),
        "mixing",
        window,
        (ModuleForm((nn.LocalResponseNorm,)),),
        lambda call: resizing.spread(call, 1),
    ),
)  # fmt: skip
