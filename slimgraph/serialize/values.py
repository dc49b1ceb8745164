"""Node arguments and module attributes as JSON, and back.

JSON's own types stand for themselves (a number with a point or an exponent is a float, any other
an int); everything else is an object whose only key names its type: `{"tuple": [1, 2]}`.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from slimgraph.errors import SlimgraphError
from slimgraph.serialize.errors import MalformedError

_DEPTH_LIMIT = 32  # nested brackets; Python's own parser gives up near 100
_SCALARS = (bool, int, str, type(None))
_CONSTANTS = (torch.dtype, torch.device, torch.memory_format, torch.layout)


def encode_value(value: Any, where: str) -> Any:
    """Turn a value into what `json.dumps` takes.

    Args:
        value: A node, a scalar, one of torch's constants, or a nesting of those.
        where: Named in the error, such as `%add (resnet.py:93)`.

    Raises:
        SlimgraphError: The value holds something else.
    """
    if type(value) in _SCALARS:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, _CONSTANTS):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if value is ...:
        return {"ellipsis": "..."}
    return _encode_nested(value, where)


def _encode_nested(value: Any, where: str) -> Any:
    if isinstance(value, slice):
        bounds = (value.start, value.stop, value.step)
        return {"slice": [encode_value(bound, where) for bound in bounds]}
    if isinstance(value, dict):
        pairs = [[encode_value(key, where), encode_value(value[key], where)] for key in value]
        return {"dict": pairs}
    if isinstance(value, list):  # also torch.fx's immutable one
        return [encode_value(item, where) for item in value]
    if type(value) in (tuple, torch.Size):
        tag = "tuple" if type(value) is tuple else "size"
        return {tag: [encode_value(item, where) for item in value]}
    raise SlimgraphError(
        f"a value of type `{type(value).__name__}` cannot be saved",
        where,
        "only numbers, strings, dtypes, devices and tuples, lists, dicts and slices of them can",
    )


def decode_value(data: Any, nodes: Mapping[str, fx.Node], depth: int = 0) -> Any:
    """Turn parsed JSON back into a value.

    Args:
        data: What `encode_value` returned, or anything a hostile file holds instead.
        nodes: The nodes that may be referred to.
        depth: How deeply `data` is nested in the whole value.

    Raises:
        MalformedError: No value is written like this.
    """
    if depth > _DEPTH_LIMIT:
        raise MalformedError(f"a value is nested more than {_DEPTH_LIMIT} times")
    if type(data) in (*_SCALARS, float):
        return data
    if isinstance(data, list):
        return [decode_value(item, nodes, depth + 1) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise MalformedError(f"{_short(data)} is no value")
    ((tag, content),) = data.items()
    if tag == "node":
        return _node(content, nodes)
    if tag in ("tuple", "slice", "size", "dict") and isinstance(content, list):
        return _NESTED[tag]([decode_value(item, nodes, depth + 1) for item in content])
    constants = _constants().get(tag)
    if constants is not None and isinstance(content, str):
        return constants(content)
    raise MalformedError(f"{_short(data)} is no value")


def _short(data: Any) -> str:
    text = repr(data) if not isinstance(data, list | dict) else str(data)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _node(name: Any, nodes: Mapping[str, fx.Node]) -> fx.Node:
    if not isinstance(name, str) or name not in nodes:
        raise MalformedError(f"a node refers to {_short(name)}, which is no earlier node")
    return nodes[name]


def _slice(bounds: list[Any]) -> slice:
    start, stop, step = bounds
    return slice(start, stop, step)


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    result = {key: value for key, value in pairs if isinstance(key, str | int | float | bool)}
    if len(result) != len(pairs):
        raise MalformedError("a dict has keys that repeat or are no scalars")
    return result


_NESTED: Mapping[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "size": torch.Size,
    "slice": _slice,
    "dict": _dict,
}


@cache
def _constants() -> Mapping[str, Callable[[str], Any]]:
    def named(kind: type) -> Callable[[str], Any]:
        values = [value for value in vars(torch).values() if isinstance(value, kind)]
        table = {str(value).removeprefix("torch."): value for value in values}

        def find(name: str) -> Any:
            if name not in table:
                raise MalformedError(f"torch has no {kind.__name__} `{name}`")
            return table[name]

        return find

    kinds = (torch.dtype, torch.memory_format, torch.layout)
    return {
        "float": _non_finite,
        "device": torch.device,
        "ellipsis": lambda _: ...,
        **{kind.__name__: named(kind) for kind in kinds},
    }


def _non_finite(text: str) -> float:
    if text not in ("inf", "-inf", "nan"):
        raise MalformedError(f"`{text}` is no float")
    return float(text)
