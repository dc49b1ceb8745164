"""Example inputs as JSON, and back: nested structures of tensors without data."""

import math
from typing import Any

import torch
from torch import Tensor

from slimgraph.serialize.errors import MalformedError
from slimgraph.serialize.values import decode_value, encode_value

INPUT_LIMIT = 2**31  # bytes that all inputs of a model may declare together
_DIM_LIMIT = 64  # torch's own
_DEPTH_LIMIT = 32  # containers in containers


def encode_example(value: Any, where: str, *, exact: bool = False) -> Any:
    """Describe an input: its structure, and the shape and dtype of every tensor in it.

    Args:
        value: The input, without data.
        where: Named in the error.
        exact: Whether to refuse named tuples, which become plain ones.

    Raises:
        SlimgraphError: It holds something that is no data.
    """
    if isinstance(value, Tensor):
        dtype = encode_value(value.dtype, where)["dtype"]
        return {"tensor": {"shape": list(value.shape), "dtype": dtype}}
    if isinstance(value, tuple) and type(value) is not torch.Size and not (exact and _named(value)):
        return {"tuple": [encode_example(item, where, exact=exact) for item in value]}
    if isinstance(value, list):
        return [encode_example(item, where, exact=exact) for item in value]
    if type(value) is dict:
        pairs = value.items()
        return {
            "dict": [
                [encode_value(k, where), encode_example(v, where, exact=exact)] for k, v in pairs
            ]
        }
    return encode_value(value, where)


def _named(value: tuple[Any, ...]) -> bool:
    return type(value) is not tuple


def decode_example(data: Any, depth: int = 0) -> Any:
    """Rebuild what `encode_example` describes, with tensors without data.

    Args:
        data: What it returned, or what a hostile file holds instead.
        depth: How deeply the data is nested in the whole input.

    Raises:
        MalformedError: No input is written like this.
    """
    if depth > _DEPTH_LIMIT:
        raise MalformedError(f"the input is nested more than {_DEPTH_LIMIT} times")
    if isinstance(data, list):
        return [decode_example(item, depth + 1) for item in data]
    if isinstance(data, dict) and isinstance(data.get("tuple"), list):
        return tuple(decode_example(item, depth + 1) for item in data["tuple"])
    if isinstance(data, dict) and isinstance(data.get("dict"), list):
        keys = decode_value({"dict": [[key, None] for key, _ in data["dict"]]}, {})
        values = [decode_example(value, depth + 1) for _, value in data["dict"]]
        return dict(zip(keys, values, strict=True))
    fields = data.get("tensor") if isinstance(data, dict) else None
    return decode_value(data, {}) if fields is None else _decode_tensor(fields)


def _decode_tensor(fields: Any) -> Tensor:
    shape = fields["shape"]
    dtype = decode_value({"dtype": fields["dtype"]}, {})
    if len(shape) > _DIM_LIMIT or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise MalformedError("the input has a shape that is no shape")
    if math.prod(shape) * dtype.itemsize > INPUT_LIMIT:
        raise MalformedError(
            f"the input is declared with shape {tuple(shape)}, which is more than "
            f"{INPUT_LIMIT // 2**30} GiB"
        )
    return torch.empty(shape, dtype=dtype, device="meta")
