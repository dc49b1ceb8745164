"""Names of ops: one for all spellings of an op."""

import operator
from functools import lru_cache
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

_LIBRARIES = ("", "torch", "_operator", "operator", "math", "builtins")


def canonical(target: Any) -> str:
    """Return the name under which rules know the target of a call.

    Example:
        >>> canonical(torch.ops.aten.add_.Tensor), canonical(operator.iadd), canonical("relu_")
        ('add', 'add', 'relu')
    """
    try:
        return _canonical(target)
    except TypeError:  # somebody's callable that cannot be hashed
        return _canonical.__wrapped__(target)


@lru_cache(maxsize=4096)
def _canonical(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        space, name = str(target).split(".")[:2]
        if space != "aten":  # somebody's own op
            return f"{space}.{name}"
        if name in ("batch_norm", "instance_norm"):  # aten orders these arguments differently
            return f"aten.{name}"
    else:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        home = "" if isinstance(target, str) else getattr(target, "__module__", None) or ""
        if home.partition(".")[0] not in _LIBRARIES:  # a function of that name, but whose?
            return f"{home}.{name}"
    if name.startswith("i") and getattr(operator, name, None) is target:
        name = name.removeprefix("i") if hasattr(operator, name.removeprefix("i")) else name
    if not name.startswith("_"):
        name = name.removesuffix("_")
    return name


def name_of(op: Any) -> str:
    """Return the name of an op that a rule claims by name, or by the op itself."""
    if isinstance(op, str):
        return op
    if isinstance(op, CustomOpDef):
        return op._qualname.replace("::", ".")
    return canonical(op)


@lru_cache(maxsize=4096)
def is_pointwise(name: str) -> bool:
    """Ask torch whether an op treats every position on its own."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    return any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
