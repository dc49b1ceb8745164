"""Example inputs by name, at any batch size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from slimgraph.errors import OnnxExportError
from slimgraph.hosted import call_by_name, host_signature
from slimgraph.shapes import device_of, with_data
from slimgraph.shapes import example_inputs as recorded_inputs
from slimgraph.structures import leaves, map_tensors

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Examples:
    """One value per placeholder, and the names of the tensors in them.

    Attributes:
        values: What the model is called with; not necessarily tensors.
        names: A name per tensor among them, in order.
    """

    values: tuple[Any, ...]
    names: tuple[str, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the values, in order."""
        return tuple(leaf for leaf in leaves(self.values) if isinstance(leaf, Tensor))

    @property
    def batch(self) -> int | None:
        """Size of the first dim of the inputs; `None` without one."""
        return next((tensor.shape[0] for tensor in self.tensors if tensor.ndim), None)

    def shares_batch(self, tensor: Tensor) -> bool:
        """Return whether a tensor's first dim is the batch."""
        return tensor.ndim > 0 and tensor.shape[0] == self.batch

    def feeds(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return dict(zip(self.names, self.tensors, strict=True))

    def fill(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the values with other tensors in place of the examples."""
        rest = iter(tensors)
        return tuple(map_tensors(lambda _: next(rest), value) for value in self.values)

    def with_batch(self, size: int) -> "Examples":
        """Repeat or drop samples; repeated ones are shifted, so that no two are alike."""

        def sample(tensor: Tensor, index: int) -> Tensor:
            shift, row = divmod(index, tensor.shape[0])
            # An integer may be an index that fits nowhere but in its own place.
            return tensor[row].roll(shift) if tensor.is_floating_point() else tensor[row]

        def grow(tensor: Tensor) -> Tensor:
            if not self.shares_batch(tensor):
                return tensor
            return torch.stack([sample(tensor, index) for index in range(size)])

        return replace(self, values=tuple(map_tensors(grow, value) for value in self.values))


def bind(graph_module: GraphModule, given: ExampleInputs | None) -> Examples:
    """Give every placeholder its example.

    Args:
        graph_module: The model.
        given: A tensor, a tuple, or a dict by input name; `None` draws random values of the
            recorded shapes.

    Raises:
        OnnxExportError: The inputs do not fit the placeholders.
    """
    defaults = _inputs(graph_module)
    inputs = list(defaults)
    if given is None:
        values = _recorded(graph_module)
    elif isinstance(given, Mapping):
        unknown = [name for name in given if name not in inputs]
        if unknown:
            raise _misfit(f"the model has no input `{unknown[0]}`", inputs)
        values = {name: given[name] for name in inputs if name in given}
    else:
        row = (given,) if isinstance(given, Tensor) else tuple(given)
        if len(row) > len(inputs):
            raise _misfit(f"the model takes {len(inputs)} inputs, not {len(row)}", inputs)
        values = dict(zip(inputs, row, strict=False))
    for name, default in defaults.items():
        if name not in values:
            if not default:
                raise _misfit(f"no example for the input `{name}`", inputs)
            values[name] = default[0]
    ordered = {name: values[name] for name in inputs}
    names = (name for placeholder, value in ordered.items() for name in _names(placeholder, value))
    return Examples(tuple(ordered.values()), tuple(names))


def _inputs(graph_module: GraphModule) -> dict[str, tuple[Any, ...]]:
    """Name the inputs, each with its default if it has one."""
    if "regions" in graph_module.meta:  # it runs its own forward
        parameters = host_signature(graph_module).parameters.values()
        return {p.name: () if p.default is p.empty else (p.default,) for p in parameters}
    nodes = (node for node in graph_module.graph.nodes if node.op == "placeholder")
    return {str(node.target): tuple(node.args) for node in nodes}


def _recorded(graph_module: GraphModule) -> dict[str, Any]:
    if "regions" in graph_module.meta:
        filled: dict[str, Any] = with_data(call_by_name(graph_module), device_of(graph_module))
        return filled
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    if any("val" not in node.meta for node in placeholders):
        raise OnnxExportError(
            "the model has no recorded shapes",
            hint="give `example_inputs=`, or export what `slimgraph.trace` returns",
        )
    values = recorded_inputs(graph_module)
    return {str(node.target): value for node, value in zip(placeholders, values, strict=True)}


def _names(placeholder: str, value: Any) -> list[str]:
    """Name the tensors of one input: `x`, or `x.0`, `x.1` if it is a container."""
    if isinstance(value, Tensor):
        return [placeholder]
    count = sum(isinstance(leaf, Tensor) for leaf in leaves(value))
    return [f"{placeholder}.{index}" for index in range(count)]


def _misfit(message: str, inputs: list[str]) -> OnnxExportError:
    names = ", ".join(f"`{name}`" for name in inputs)
    return OnnxExportError(message, hint=f"give one example per input: {names}")
