"""Parity: how closely two models, or two runtimes, agree on the same inputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import ParityError


@dataclass(frozen=True)
class Parity:
    """How far one output is from its reference.

    Attributes:
        output: Name of the output.
        max_abs: Largest absolute difference, in the output's own unit; infinite if the outputs
            cannot be compared.
        max_rel: The same over the reference's largest absolute value (dimensionless).
        tolerance: What `max_rel` may be at most; 0 for outputs that are not floating-point.
        ok: Whether it is.
        note: Why the outputs cannot be compared, else empty.
    """

    output: str
    max_abs: float
    max_rel: float
    tolerance: float
    ok: bool
    note: str = ""

    def __str__(self) -> str:
        """What error messages say about it."""
        if self.note:
            return f"`{self.output}`: {self.note}"
        return f"`{self.output}` is off by {self.max_rel:.2g}, tolerance {self.tolerance:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the JSON report."""
        return {
            "output": self.output,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "tolerance": self.tolerance,
            "ok": self.ok,
        }


def compare(reference: Any, candidate: Any, tolerance: float | None = None) -> tuple[Parity, ...]:
    """Compare two model outputs of any nesting, value by value.

    Values are paired by name where both sides have the same names, else by position. NaN and
    infinities in the same places count as equal; integers and bools must be equal.

    Args:
        reference: Tensors, arrays and numbers in tuples, lists, mappings and dataclasses.
        candidate: What should equal it.
        tolerance: Largest allowed `max_rel` (dimensionless); `None` takes the square root of the
            machine epsilon of the reference's dtype. Types narrower than float32 are allowed
            eight of their epsilons at least, unless 0 asks for equality.

    Returns:
        One result per value; missing and surplus values are failures.
    """
    expected, got = _named_tensors(reference), _named_tensors(candidate)
    return tuple(
        _compare_values(name, one, other, tolerance) for name, one, other in _pairs(expected, got)
    )


def require_parity(results: Sequence[Parity], what: str, where: str | None = None) -> None:
    """Raise unless all agree.

    Args:
        results: From `compare`.
        what: What was compared with what, for the message.
        where: On which inputs.

    Raises:
        ParityError: Names the worst output, its error and the tolerance.
    """
    failed = [result for result in results if not result.ok]
    if failed:
        worst = max(failed, key=lambda result: result.max_rel)
        raise ParityError(
            f"{what} disagree: output {worst}",
            where,
            None if worst.note else "raise the tolerance if this is rounding; else it is a bug",
        )


def worst_of(runs: Sequence[Sequence[Parity]]) -> tuple[Parity, ...]:
    """Merge the results of several runs into the worst per output, in the first run's order."""
    return tuple(
        max(group, key=lambda p: (not p.ok, p.max_rel)) for group in zip(*runs, strict=True)
    )


def named_leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Flatten a nested value into named tensors, arrays and numbers.

    A value reached through keys or fields is named after them (`boxes`, `heads.0`); one reached
    through positions only is `output`, `output_1` and so on by its place. `None` is skipped.

    Args:
        value: Tensors, arrays and numbers in tuples, lists, mappings and dataclasses.

    Raises:
        ParityError: Something else is in it.
    """
    taken: set[str] = set()
    for place, (path, leaf) in enumerate(_leaves((), value)):
        if any(isinstance(step, str) for step in path):
            name = ".".join(str(step) for step in path)
        else:
            name = f"output_{place}" if place else "output"
        while name in taken:
            name += "_"
        taken.add(name)
        yield name, leaf


_Path = tuple[str | int, ...]
_LEAVES = (
    *(Tensor, np.ndarray, np.generic, int, float, complex),
    *(torch.SymInt, torch.SymFloat, torch.SymBool),  # sizes while torch.export runs
)


def _named_tensors(value: Any) -> dict[str, Tensor]:
    return {
        # arrays are copied, since they may be read-only
        name: leaf if isinstance(leaf, Tensor) else torch.as_tensor(np.array(leaf))
        for name, leaf in named_leaves(value)
    }


def _leaves(path: _Path, value: Any) -> Iterator[tuple[_Path, Any]]:
    if value is None:
        return
    if isinstance(value, _LEAVES):
        yield path, value
    else:
        for step, item in _items(path, value):
            yield from _leaves((*path, step), item)


def _items(path: _Path, value: Any) -> Iterator[tuple[str | int, Any]]:
    """Yield the parts of a container and how they are reached."""
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    else:
        place = ".".join(str(step) for step in path) or "output"
        raise ParityError(
            f"cannot compare a value of type `{type(value).__name__}`",
            f"`{place}`",
            "outputs are tensors and numbers in tuples, lists, dicts or dataclasses",
        )


def _pairs(
    expected: dict[str, Tensor], got: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    if expected.keys() == got.keys():
        yield from ((name, one, got[name]) for name, one in expected.items())
        return
    rows = zip_longest(expected.items(), got.items(), fillvalue=("", None))
    yield from ((name or surplus, one, other) for (name, one), (surplus, other) in rows)


def _compare_values(
    name: str, expected: Tensor | None, got: Tensor | None, tolerance: float | None
) -> Parity:
    if expected is None or got is None:
        return _failure(name, "is missing" if got is None else "has no reference")
    if expected.shape != got.shape:
        return _failure(name, f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}")
    allowed = _allowed(expected.dtype, tolerance)
    one, other = _doubles(expected), _doubles(got)
    finite = one.isfinite() & other.isfinite()
    same = (one == other) | (one.isnan() & other.isnan())
    if not (finite | same).all():
        return _failure(name, "NaN or infinite values in different places")
    one, other = one[finite], other[finite]
    if not one.numel():
        return Parity(name, 0.0, 0.0, allowed, ok=True)
    max_abs = (one - other).abs().max().item()
    scale = one.abs().max().item()
    max_rel = max_abs / scale if scale else max_abs
    return Parity(name, max_abs, max_rel, allowed, ok=max_rel <= allowed)


def _failure(name: str, note: str) -> Parity:
    return Parity(name, math.inf, math.inf, 0.0, ok=False, note=note)


def _allowed(dtype: torch.dtype, tolerance: float | None) -> float:
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    epsilon = torch.finfo(dtype).eps
    if tolerance is None:
        return math.sqrt(epsilon)
    narrow = epsilon > torch.finfo(torch.float32).eps
    return max(tolerance, 8 * epsilon) if narrow and tolerance else tolerance


def _doubles(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return torch.view_as_real(value).double() if value.is_complex() else value.double()
