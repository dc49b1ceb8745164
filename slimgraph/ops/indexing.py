"""Picking positions: basic indexing, by tensors of positions, and the items of tuples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from slimgraph.labels import Value, compact, restride, varying
from slimgraph.ops import resizing
from slimgraph.ops.elementwise import elementwise
from slimgraph.ops.grids import carried, settle
from slimgraph.ops.selection import resize_index
from slimgraph.rules import Rule, Site, values_in

_ROWS = "are picked by positions that only the data tells"


def getitem(site: Site, input: Any, index: Any) -> Any:
    """Pick an item of a tuple, or index the labels; positions of channels must be known."""
    if not isinstance(input, Value):
        return input[_position(site, index)]
    entries = list(index) if isinstance(index, tuple) else [index]
    return _index(site, input, entries)


def _index(site: Site, input: Value, entries: list[Any]) -> Value:
    places = _places(entries, input.ndim)
    for value in values_in(entries):
        site.freeze(value, "says which positions to pick")
    if any(_is_mask(entry) for entry in entries):
        site.freeze(input, _ROWS)
        return site.value()
    if 0 in site.shape:
        return site.value()  # no label lies on nothing, and none meets another there
    known = [_known(site, entry) for entry in entries]
    alone = sum(_is_many(entry) for entry in entries) == 1 and input.parameter is None
    loose = {
        dim
        for entry, dim, cut in zip(known, places, _cuts(site, len(entries)), strict=True)
        if dim is not None and (cut or (_is_many(entry) and not (alone and type(entry) is list)))
    }
    if input.parameter is not None:
        for dim in loose:
            site.ledger.pin(input.parameter, dim, site.node, _ROWS)

    def run(layer: Tensor) -> Tensor:
        return _picked(layer, known, places).expand(site.shape)

    layers = site.without(Value(input.shape, site.layers(input, without=loose)), loose, _ROWS)
    for layer in layers:
        settle(site, layer, run)
    return carried(site, site.shape, [restride(run(layer)) for layer in layers])


def _places(entries: Sequence[Any], ndim: int) -> list[int | None]:
    """Return the dim that each entry of an index stands for."""
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    places: list[int | None] = []
    dim = 0
    for entry in entries:
        places.append(None if entry is None or entry is Ellipsis else dim)
        dim += 0 if entry is None else ndim - used if entry is Ellipsis else 1
    return places


def _is_many(entry: Any) -> bool:
    return isinstance(entry, list | Value | Tensor)


def _is_mask(entry: Any) -> bool:
    if isinstance(entry, Value):
        return entry.node is not None and entry.node.meta["val"].dtype == torch.bool
    return bool(entry.dtype == torch.bool) if isinstance(entry, Tensor) else False


def _known(site: Site, entry: Any) -> Any:
    """Return positions as a plain list where they are constants of the model."""
    if isinstance(entry, list):
        flat = all(type(position) is int for position in entry)
        return list(entry) if flat else torch.tensor(0)
    if not isinstance(entry, Value) or entry.parameter is None or entry.ndim != 1:
        return entry
    return resizing.constant(site.node, entry.parameter)


def _cuts(site: Site, count: int) -> list[bool]:
    """Mark entries that the model's inputs decide, though not by their channels."""
    index = site.node.args[1] if len(site.node.args) > 1 else ()
    entries = index if isinstance(index, tuple) else (index,)
    bounds = [(e.start, e.stop, e.step) if isinstance(e, slice) else (e,) for e in entries]
    cuts = [
        any(_is_size(bound) and not site.counts_channels(bound) for bound in own) for own in bounds
    ]
    return cuts if len(cuts) == count else [False] * count


def _is_size(bound: Any) -> bool:
    return isinstance(bound, fx.Node) and not isinstance(bound.meta["val"], Tensor)


def _picked(layer: Tensor, entries: Sequence[Any], places: Sequence[int | None]) -> Tensor:
    """Index a layer; along dims without channels any position is as good as another."""
    dims = varying(layer)
    index = tuple(
        entry if place is None or place in dims else _any_position(entry)
        for entry, place in zip(entries, places, strict=True)
    )
    return compact(layer)[index]


def _any_position(entry: Any) -> Any:
    if isinstance(entry, slice):
        return slice(None)
    if isinstance(entry, list):
        return torch.zeros(1, dtype=torch.long)
    return torch.zeros([1] * entry.ndim, dtype=torch.long) if _is_many(entry) else 0


def index_select(site: Site, input: Value, dim: int, index: Value) -> Value:
    """Pick positions of one dim."""
    return _index(site, input, [*[slice(None)] * (dim % input.ndim), index])


def gather(site: Site, input: Value, dim: int, *others: Any, **kwargs: Any) -> Value:
    """Move positions along one dim; those along the others meet (gather, scatter)."""
    dim %= input.ndim
    aligned = [_along_others(site, value, dim) for value in values_in(input, others, kwargs)]
    return elementwise(site, *aligned)


def _along_others(site: Site, value: Value, dim: int) -> Value:
    """Give a value the shape of the result; channels along the dim, or of another size, stay."""
    value = site.carried(value)
    layers = site.without(value, [dim], "are moved to positions that only the data tells")
    fits = all(
        one == two or place == dim
        for place, (one, two) in enumerate(zip(value.shape, site.shape, strict=True))
    )
    if not fits:
        for layer in layers:
            site.ledger.freeze(layer, site.node, "meets positions of another size")
        layers = ()
    spread = tuple(layer.narrow(dim, 0, 1).expand(site.shape) for layer in layers)
    shape = tuple(site.shape[d] if d == dim or fits else 1 for d in range(len(site.shape)))
    return Value(shape, spread, node=value.node)


def attribute(site: Site, input: Any, name: str) -> Any:
    """Read a named item of a tuple, or the data of a tensor."""
    if not isinstance(input, tuple | list):
        if name != "data":
            site.freeze(input, f"its `{name}` is read")
            return site.value()
        return site.value(*site.layers(input))
    source = site.node.args[0]
    items = source.meta["val"]  # type: ignore[union-attr]
    return next(v for v, item in zip(input, items, strict=True) if item is getattr(items, name))


def _position(site: Site, index: Any) -> Any:
    """Return the position of an item of a tuple that may be named, as in `x.sort().values`."""
    if not isinstance(index, str):
        return index
    (source,) = site.node.all_input_nodes
    return type(source.meta["val"]).__match_args__.index(index)


RULES = (
    Rule(("getitem",), "movement", getitem, (), resizing.getitem),
    Rule(("index_select",), "movement", index_select, (), resize_index),
    Rule(("gather", "scatter", "scatter_add", "scatter_reduce"), "movement", gather),
    Rule(("getattr",), "movement", attribute),
)
