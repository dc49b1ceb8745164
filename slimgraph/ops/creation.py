"""Positions that an op creates: they are new channels, and leave with those they meet."""

from typing import Any

from torch import Tensor, fx

from slimgraph.labels import Value, along
from slimgraph.op_names import canonical
from slimgraph.ops import resizing
from slimgraph.ops.movement import move
from slimgraph.rules import Rule, Site, values_in
from slimgraph.structures import map_tensors


def _created(site: Site, dim: int) -> Tensor:
    """Open channels along a dim of the result, all of them alike."""
    axis = (f"{site.node.name}[{dim}]", dim)
    labels = site.ledger.open(axis, (site.shape[dim],), "created", site.node)
    return along(labels, dim, site.shape)


def _flexible(site: Site) -> list[bool]:
    """Mark sizes that may be numbers of channels: those written down, or read from one."""
    _, sizes = resizing.sizes_of(canonical(site.node.target), site.node.args, site.node.kwargs)
    source = sizes[0].args[0] if len(sizes) == 1 and isinstance(sizes[0], fx.Node) else None
    whole = site.values.get(source) if isinstance(source, fx.Node) else None
    if isinstance(whole, Value) and isinstance(sizes[0].meta["val"], tuple):  # `x.shape`
        return [whole.layer(dim) is not None for dim in range(whole.ndim)]
    return [isinstance(size, int) or site.counts_channels(size) for size in sizes]


def constant(site: Site, *args: Any, **kwargs: Any) -> Value:
    """Fill a new tensor with one number."""
    flexible = _flexible(site)
    if len(flexible) != len(site.shape):
        return site.value()
    dims = [dim for dim, size in enumerate(site.shape) if size > 1 and flexible[dim]]
    return site.value(*(_created(site, dim) for dim in dims))


def fixed(site: Site, *args: Any, **kwargs: Any) -> Any:
    """Make numbers that differ from place to place: none can leave."""
    for value in values_in(args, kwargs):
        site.freeze(value, "decides what is made here")
    made = site.node.meta["val"]  # a tuple of a mesh
    return map_tensors(lambda tensor: Value(tuple(tensor.shape), node=site.node), made)


def spread_out(site: Site, input: Value, *sizes: Any, **kwargs: Any) -> Value:
    """Repeat along dims; a value without channels becomes as many as it meets."""
    moved: Value = move(site, input, *sizes, **kwargs)
    flexible = _flexible(site)
    if input.layers or len(flexible) != len(site.shape):
        return moved
    before = (1,) * (len(site.shape) - input.ndim) + input.shape
    dims = [
        dim
        for dim, size in enumerate(site.shape)
        if flexible[dim] and before[dim] == 1 and size > 1
    ]
    return site.value(*moved.layers, *(_created(site, dim) for dim in dims))


RULES = (
    Rule(
        ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
        "created",
        constant,
        (),
        resizing.create,
    ),
    Rule(
        ("arange", "linspace", "logspace", "eye", "one_hot", "meshgrid", "tensor", "new_tensor",
         "rand", "randn", "randint", "randperm", "tril_indices", "triu_indices", "scalar_tensor"),
        "created",
        fixed,
    ),
    Rule(("expand",), "movement", spread_out, (), resizing.reshape),
    Rule(("repeat", "tile"), "movement", spread_out, (), resizing.repeat),
)  # fmt: skip
