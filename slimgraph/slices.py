"""Slices: the part of a parameter that belongs to one channel, along one of its dims."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from slimgraph.graph import DependencyGraph
from slimgraph.shapes import attribute


@dataclass(frozen=True, eq=False)
class Slices:
    """All slices of a parameter along one dim.

    Attributes:
        graph: The groups.
        parameter: Its qualified name.
        dim: Of the parameter; of a grouped weight, the dim that holds other channels per group.
        role: What it does for the channels: makes them ("out", "bare"), reads them ("in"), scales
            or shifts them, or holds their statistics.
        channels: The channel of each slice. Shape: (slices,).
        blocks: Number of groups of a grouped weight, else 1.
        node: The op that reads the parameter.
    """

    graph: DependencyGraph
    parameter: str
    dim: int
    role: str
    channels: Tensor
    blocks: int
    node: fx.Node

    @property
    def tensor(self) -> Tensor:
        """The parameter as it is now."""
        found: Tensor = attribute(self.graph.traced, self.parameter)
        return found

    def norms(self, order: float = 2) -> Tensor:
        """Return each slice's norm; it has a gradient, zero where the norm is. Shape: (slices,)."""
        return norms_of(self.tensor, self.dim, self.blocks, order)

    def sum_of(self, values: Tensor) -> Tensor:
        """Sum numbers, one for each of the parameter's, over every slice. Shape: (slices,)."""
        tensor, others = _arranged(values, self.dim, self.blocks)
        return tensor.sum(others).flatten() if others else tensor.flatten()

    def matrix(self) -> Tensor:
        """Return the numbers of every slice in a row. Shape: (slices, numbers)."""
        tensor, others = _arranged(self.tensor.detach(), self.dim, self.blocks)
        kept = [dim for dim in range(tensor.ndim) if dim not in others]
        return tensor.permute(*kept, *others).reshape(len(self.channels), -1)

    def spread(self, values: Tensor) -> Tensor:
        """Lay one number per channel of the model over the parameter.

        Args:
            values: Shape: (channels,).

        Returns:
            As `lay` does.
        """
        return self.lay(values[self.channels.to(values.device)])

    def lay(self, values: Tensor) -> Tensor:
        """Lay one number per slice over the parameter.

        Args:
            values: Shape: (slices,).

        Returns:
            What broadcasts to the parameter, on its device and of its dtype.
        """
        tensor = self.tensor
        own = values.to(tensor.device, tensor.dtype)
        if self.blocks == 1:
            return own.reshape([-1 if dim == self.dim else 1 for dim in range(tensor.ndim)])
        shape = (self.blocks, 1, tensor.shape[1], *[1] * (tensor.ndim - 2))
        wide = (-1, tensor.shape[0] // self.blocks, *[-1] * (tensor.ndim - 1))
        return own.reshape(shape).expand(wide).flatten(0, 1)


def norms_of(tensor: Tensor, dim: int, blocks: int, order: float) -> Tensor:
    """Return the norm of each slice of a tensor along a dim. Shape: (slices,)."""
    arranged, others = _arranged(tensor, dim, blocks)
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    if not others:
        return arranged.to(dtype).abs().flatten()
    norms: Tensor = torch.linalg.vector_norm(arranged, order, dim=others, dtype=dtype)
    return norms.flatten()


def _arranged(tensor: Tensor, dim: int, blocks: int) -> tuple[Tensor, tuple[int, ...]]:
    """Split the groups of a grouped weight, and name the dims that run within slices."""
    kept = {dim}
    if blocks > 1:
        tensor, kept = tensor.reshape(blocks, -1, *tensor.shape[1:]), {0, 2}
    return tensor, tuple(other for other in range(tensor.ndim) if other not in kept)


def slices_of(graph: DependencyGraph, roles: Collection[str]) -> tuple[Slices, ...]:
    """List the slices of every floating-point parameter that plays one of some roles."""
    found, stored = [], graph.stored
    for axis in graph.ledger.axes.values():
        if axis.role in roles and stored[axis.parameter].is_floating_point():
            channels = graph.component[axis.labels.flatten()]
            blocks = len(axis.labels) if axis.labels.ndim > 1 else 1
            found.append(
                Slices(graph, axis.parameter, axis.dim, axis.role, channels, blocks, axis.node)
            )
    return tuple(found)


def total(slices: Collection[Slices], order: float, count: int) -> Tensor:
    """Sum the norms' order-th powers by channel; it has a gradient. Shape: (count,)."""
    sums: Tensor = torch.zeros(count)
    for each in slices:
        norms = each.norms(order)
        if sums.device != norms.device or sums.dtype != norms.dtype:
            sums = sums.to(norms.device, torch.promote_types(sums.dtype, norms.dtype))
        channels = each.channels.to(norms.device)
        sums = sums.index_add(0, channels, (norms**order).to(sums.dtype))
    return sums
