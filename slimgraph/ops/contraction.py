"""Products summed over dims: matmul, einsum, attention.

Dims are named by letters, as in einsum. In the space of all letters the product is an element-wise
one, so labels meet as there; then the letters that the result lacks are summed over.
"""

import string
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from slimgraph.labels import Product, Shape, Value, compact, restride, varying
from slimgraph.ops.elementwise import Operand, elementwise, meet
from slimgraph.ops.grids import tie
from slimgraph.rules import Call, Rule, Site, values_in


def contract(
    site: Site,
    operands: Sequence[Value],
    names: Sequence[str],
    result: str,
    shape: Shape,
    read: Sequence[Value] | None = None,
) -> Value:
    """Multiply operands and sum over the letters that the result lacks.

    Args:
        site: The op.
        operands: What is multiplied.
        names: One letter per dim of each operand.
        result: One letter per dim of the result.
        shape: The result's shape.
        read: The operands as the op gets them, if it repeats some of their positions itself.
    """
    letters = "".join(dict.fromkeys("".join(names)))
    if any(len(set(own)) < len(own) for own in names):
        site.freeze(list(operands), "is read along a diagonal")
        site.ledger.products.append(Product(site.node, shape, ()))
        return Value(shape, node=site.node)
    for value, named in zip(operands, names, strict=True):
        _settle(site, value, named, result)
    places = [tuple(letters.index(letter) for letter in own) for own in names]
    sizes = [1] * len(letters)
    for value, own in zip(operands, places, strict=True):
        for size, place in zip(value.shape, own, strict=True):
            sizes[place] = max(size, sizes[place])
    met = [Operand(value, own) for value, own in zip(operands, places, strict=True)]
    layers = meet(site, tuple(sizes), met, roles=("out", "in"))
    summed = [place for place, letter in enumerate(letters) if letter not in result]
    ended = [
        tuple(not {own[dim] for dim in varying(x)}.isdisjoint(summed) for x in value.layers)
        for value, own in met
    ]
    if not _read(site, met, ended, read or operands, letters.find(result[-1:])):
        site.ledger.products.append(Product(site.node, tuple(sizes), tuple(layers)))
    order = [letters.index(letter) for letter in result]
    left = []
    for index, layer in enumerate(layers):
        survived = _survive(site, layer, summed, index)
        if survived is not None:
            small = compact(survived).permute(*order, *summed)
            left.append(small.reshape(small.shape[: len(order)]).expand(shape))
    return Value(shape, tuple(left), node=site.node)


def _settle(site: Site, value: Value, names: str, result: str) -> None:
    """Couple channels of different blocks where an operand has its dims in another order.

    In the result blocks come first, then what is within them, then what is summed up.
    """
    for layer in value.layers:
        dims = varying(layer)
        ranks = [result.find(names[dim]) % (len(result) + 1) for dim in dims]
        if ranks != sorted(ranks):
            tie(site, layer, max(dims, key=lambda dim: layer.shape[dim]))


def _read(
    site: Site,
    operands: Sequence[Operand],
    ended: Sequence[Sequence[bool]],
    read: Sequence[Value],
    last: int,
) -> bool:
    """Note which channels end here, and the matrix that reads them if a parameter does.

    Returns:
        Whether a matrix does.
    """
    matrix, dim, found = None, 0, False
    for value, places in operands:
        if value.parameter and len(places) == 2 and last in places:
            matrix, dim = value, 1 - places.index(last)
    for value, ends in zip(read, ended, strict=True):
        own = [layer for layer, end in zip(value.layers, ends, strict=True) if end]
        if own and value.parameter is None:
            site.read(Value(value.shape, tuple(own), node=value.node), matrix, dim)
            found = matrix is not None
    return found


def _survive(site: Site, layer: Tensor, summed: Sequence[int], index: int) -> Tensor | None:
    """Sum a layer over some of its dims: what is left stands for all that was summed up."""
    dims = varying(layer)
    ended = [dim for dim in dims if dim in summed]
    if not ended:
        return layer
    if len(ended) == len(dims):
        return None
    left = [dim for dim in dims if dim not in summed]
    rows = compact(layer).permute(*left, *(d for d in range(layer.ndim) if d not in left))
    rows = rows.flatten(len(left))
    heads = site.heads(rows, f"{site.node.name}[heads]", index)
    spread = heads.reshape([layer.shape[d] if d in left else 1 for d in range(layer.ndim)])
    return spread.expand(layer.shape)


def matmul(site: Site, input: Value, other: Value) -> Value:
    """Multiply matrices, or batches of them, or vectors."""
    one, two = input.ndim, other.ndim
    batch = string.ascii_lowercase[: max(one, two, 2) - 2]
    names = (batch[len(batch) - max(one - 2, 0) :] + "XY"[2 - min(one, 2) :],
             batch[len(batch) - max(two - 2, 0) :] + "YZ"[: min(two, 2)])  # fmt: skip
    result = batch + "X" * (one > 1) + "Z" * (two > 1)
    return contract(site, (input, other), names, result, site.shape)


def add_matmul(site: Site, input: Value, one: Value, two: Value, **options: Any) -> Value:
    """Multiply matrices, or batches of them, and add."""
    return elementwise(site, matmul(site, one, two), input)


def einsum(site: Site, equation: str, *operands: Any) -> Value:
    """Sum products as an equation says."""
    values = values_in(operands)
    if not isinstance(equation, str):
        site.freeze([*values_in(equation), *values], "is multiplied by numbered dims")
        return site.value()
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    spare = [c for c in string.ascii_letters if c not in equation]
    most = max(
        value.ndim - len(own) + 3 if "..." in own else 0
        for own, value in zip(names, values, strict=True)
    )
    dots = "".join(spare[:most])
    if not arrow:
        once = sorted(c for c in set(inputs) - set(".,") if inputs.count(c) == 1)
        result = "..." * ("..." in inputs) + "".join(once)
    full = [
        own.replace("...", dots[most - (value.ndim - len(own) + 3) :])
        for own, value in zip(names, values, strict=True)
    ]
    return contract(site, values, full, result.replace("...", dots), site.shape)


def tensordot(site: Site, a: Value, b: Value, dims: Any = 2, **options: Any) -> Value:
    """Sum products over some dims of one value and as many of another."""
    if isinstance(dims, int):
        dims = (range(a.ndim - dims, a.ndim), range(dims))
    if not all(isinstance(dim, int) for pair in dims for dim in pair):
        site.freeze([a, b], "is multiplied along computed dims")
        return site.value()
    one = list(string.ascii_lowercase[: a.ndim])
    two = list(string.ascii_uppercase[: b.ndim])
    for left, right in zip(*dims, strict=True):
        two[right] = one[left]
    shared = set(one) & set(two)
    result = "".join(letter for letter in (*one, *two) if letter not in shared)
    return contract(site, (a, b), ("".join(one), "".join(two)), result, site.shape)


def attention(
    site: Site,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: Any = None,
    scale: float | None = None,
    enable_gqa: Any = None,
) -> Value:
    """Attend: heads carry over from queries and keys to values, in blocks."""
    batch = string.ascii_lowercase[: query.ndim - 2]
    given = (query, key, value)
    if enable_gqa:
        key, value = (_shared(site, x, query.shape[-3]) for x in (key, value))
    shape = (*query.shape[:-1], key.shape[-2])
    names = (f"{batch}XE", f"{batch}YE")
    weights = contract(site, (query, key), names, f"{batch}XY", shape, given[:2])
    if attn_mask is not None:
        first = len(shape) - attn_mask.ndim
        masks = Operand(attn_mask, tuple(range(first, len(shape))))
        layers = meet(site, shape, [Operand(weights, tuple(range(len(shape)))), masks])
        weights = Value(shape, tuple(layers), node=site.node)
    left = site.without(weights, (len(shape) - 1,), "is a key that others are compared with")
    weights = Value(shape, left, node=site.node)
    names = (f"{batch}XY", f"{batch}YF")
    return contract(site, (weights, value), names, f"{batch}XF", site.shape, (weights, given[2]))


def _shared(site: Site, value: Value, heads: int) -> Value:
    """Repeat the heads of keys and values for the queries that share them."""
    times = heads // value.shape[-3]
    shape = (*value.shape[:-3], heads, *value.shape[-2:])
    layers = [
        restride(compact(layer).expand(*layer.shape[:-2], *compact(layer).shape[-2:])
                 .repeat_interleave(times, -3)).expand(shape)
        for layer in site.layers(value)
    ]  # fmt: skip
    return Value(shape, tuple(layers), node=value.node)


def _resize_attention(call: Call) -> None:
    """Keep the scale of the dot products, which torch takes from the width of a head."""
    old, new = call.input.meta["val"].shape[-1], call.kept.shape(call.input)[-1]
    if old != new and call.kwargs.get("scale") is None:
        call.kwargs["scale"] = old**-0.5


RULES = (
    Rule(("matmul", "mm", "bmm", "mv", "dot"), "product", matmul),
    Rule(("baddbmm", "addmm", "addbmm", "addmv"), "product", add_matmul),
    Rule(("einsum",), "product", einsum),
    Rule(("tensordot",), "product", tensordot),
    Rule(("scaled_dot_product_attention",), "product", attention, (), _resize_attention),
)
