"""Inputs as the command line says them: `1,3,224,224`, `2,7:int64`, `ids=2,7:int64`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimgraph.errors import TraceError
from slimgraph.shapes import tensors_of
from slimgraph.tracing import trace

_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        shape: Its shape.
        dtype: Name of its dtype; empty for that of the model's weights.
        name: Of the argument it is given as; empty if by position.
    """

    shape: tuple[int, ...]
    dtype: str = ""
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read what a user wrote.

        Raises:
            ValueError: It says no input; the message says why.
        """
        rest, _, dtype = text.partition(":")
        name, equals, sizes = rest.rpartition("=")
        if dtype and dtype not in _DTYPES:
            raise ValueError(f"{dtype!r} is no dtype; use one of {', '.join(_DTYPES)}")
        if equals and not name.isidentifier():
            raise ValueError(f"{name!r} is no name of an argument")
        try:
            shape = tuple(int(part) for part in sizes.split(","))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1 or (":" in text and not dtype):
            raise ValueError(f"{text!r} is no shape such as 1,3,224,224 or ids=2,7:int64")
        return cls(shape, dtype, name)

    def make(self, default: torch.dtype) -> Tensor:
        """Make an example: random floats, zeros for integers, all true for bools."""
        dtype: torch.dtype = getattr(torch, self.dtype) if self.dtype else default
        if dtype.is_floating_point:
            return torch.randn(self.shape).to(dtype)
        return torch.full(self.shape, int(dtype == torch.bool), dtype=dtype)


def trace_with(module: nn.Module, specs: Sequence[InputSpec]) -> fx.GraphModule:
    """Trace a model with examples of its inputs.

    Raises:
        TraceError: They do not fit; says how to give other kinds of inputs.
    """
    found = (t.dtype for t in tensors_of(module) if t.is_floating_point())
    default = next(found, torch.float32)
    names = [spec.name for spec in specs if spec.name]
    if names and (len(names) < len(specs) or len(set(names)) < len(names)):
        raise TraceError(
            "some inputs are given by name, others not, or twice",
            hint="write `--input-shape NAME=SHAPE` for every input",
        )
    made = [spec.make(default) for spec in specs]
    inputs: Any = dict(zip(names, made, strict=True)) if names else tuple(made)
    try:
        return trace(module, inputs)
    except TraceError as error:
        raise TraceError(error.message, error.where, _advice(error, specs)) from error


def _advice(error: TraceError, specs: Sequence[InputSpec]) -> str:
    shape = ",".join(map(str, specs[0].shape))
    if "Long, Int" in error.message or "integer" in error.message:
        return f"say that an input holds whole numbers: `--input-shape {shape}:int64`"
    return (
        f"{error.hint or 'give inputs that the model takes'}; `--input-shape` also takes a dtype "
        f"and a name (`x={shape}:int64`); a model with other inputs (lists, dicts) is traced and "
        "saved in Python: `slimgraph.save(slimgraph.trace(model, inputs), 'model.slim')`"
    )
