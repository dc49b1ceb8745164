"""What a model costs: channels, parameters, multiply-accumulates, for any set of kept channels.

Each weight of a convolution or linear layer is used once per output position, so its
multiply-accumulates are its numbers times these positions. Products of computed values (matmul,
einsum, attention) multiply once per position of all their dims. All costs are then products of
how many positions each dim keeps.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, fx, nn

from slimgraph.graph import DependencyGraph
from slimgraph.labels import compact
from slimgraph.op_names import canonical
from slimgraph.shapes import attribute

Unit = Literal["channels", "params", "macs"]


class Totals(NamedTuple):
    """What is left of a model.

    `channels` counts those of prunable groups, `params` numbers in parameters, `macs`
    multiply-accumulates for the traced inputs, per example: of convolutions, linear and recurrent
    layers, and of products of computed values as in attention.
    """

    channels: int
    params: int
    macs: int


@dataclass(frozen=True, eq=False)
class CostModel:
    """The costs of a model as a function of its kept channels.

    Attributes:
        graph: The analysed model.
    """

    graph: DependencyGraph

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, shared ones once."""
        return {name: tuple(p.shape) for name, p in self.graph.traced.named_parameters()}

    @cached_property
    def positions(self) -> dict[str, float]:
        """Per weight, how often each of its numbers is multiplied, per example."""
        found: dict[str, float] = {}
        for read in self.graph.ledger.reads:
            if read.weight is not None:
                used = _uses(read.node, self.graph.traced, read.weight)
                found[read.weight] = found.get(read.weight, 0) + used
        return found

    @cached_property
    def products(self) -> list[tuple[float, list[Tensor]]]:
        """Per product of computed values: its size along dims without channels, and the channels.

        The multiplications per example are that size times what is kept of each.
        """
        found = []
        for product in self.graph.ledger.products:
            layers = [self.graph.component[compact(layer)] for layer in product.layers]
            whole = math.prod(layer.numel() for layer in layers)
            found.append((math.prod(product.shape) / whole / self._batch, layers))
        return found

    @cached_property
    def _axes(self) -> list[tuple[str, int]]:
        return [key for key in self.graph.ledger.axes if key[0] in self.shapes]

    @cached_property
    def _flat(self) -> tuple[Tensor, Tensor]:
        """Channels of all axes in one vector, and which axis each belongs to."""
        axes = [self.graph.ledger.axes[key].labels.flatten() for key in self._axes]
        lengths = torch.tensor([len(labels) for labels in axes], dtype=torch.long)
        labels = torch.cat([torch.zeros(0, dtype=torch.long), *axes])
        return self.graph.component[labels], torch.arange(len(axes)).repeat_interleave(lengths)

    @cached_property
    def _batch(self) -> int:
        return batch_size(self.graph.traced)

    @cached_property
    def prunable(self) -> Tensor:
        """Mark channels of prunable groups. Shape: (channels,)."""
        found = torch.zeros(len(self.graph.frozen), dtype=torch.bool)
        for group in self.graph.groups:
            found[group.components] = group.prunable
        return found & ~self.graph.is_head  # their blocks are counted

    def extents(self, keep: Tensor) -> dict[str, list[int]]:
        """Return the shape that every parameter is left with."""
        channels, segment = self._flat
        counts = torch.bincount(segment, keep[channels].double(), minlength=len(self._axes))
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for (name, dim), kept in zip(self._axes, counts.tolist(), strict=True):
            count = kept
            labels = self.graph.ledger.axes[name, dim].labels
            if labels.ndim > 1:  # grouped: the numbers kept in each group that is left
                rows = int(keep[self.graph.component[labels]].any(1).sum())
                count /= max(rows, 1)
                if dim == 1 and self._is_output(name):
                    shapes[name][1] = int(count)
                    continue
            shapes[name][dim] = int(count)
        return shapes

    def _is_output(self, name: str) -> bool:
        return self.graph.ledger.axes[name, 1].role == "out"

    def totals(self, keep: Tensor) -> Totals:
        """Return the cost of what is left.

        Args:
            keep: Bool tensor. Shape: (channels,).
        """
        numbers = {name: math.prod(shape) for name, shape in self.extents(keep).items()}
        macs = sum(numbers.get(name, 0) * used for name, used in self.positions.items())
        macs += sum(size * math.prod(_counts(layers, keep)) for size, layers in self.products)
        channels = int((keep & self.prunable).sum())
        return Totals(channels, sum(numbers.values()), round(macs))

    def savings(self, keep: Tensor, unit: Unit) -> Tensor:
        """Return what each channel costs while the others stay. Shape: (channels,)."""
        if unit == "channels":
            return self.prunable.double()
        shapes = self.extents(keep)
        channels, segment = self._flat
        weights = []
        for name, dim in self._axes:
            used = self.positions.get(name, 0.0) if unit == "macs" else 1.0
            labels = self.graph.ledger.axes[name, dim].labels
            total = shapes[name][dim] * (len(labels) if labels.ndim > 1 else 1)
            depth_wise = labels.ndim > 1 and labels.shape[1] == 1
            share = 0.0 if depth_wise else used * math.prod(shapes[name]) / max(total, 1)
            weights.append(share)
        per_axis = torch.tensor(weights, dtype=torch.float64)
        found = torch.bincount(channels, per_axis[segment], minlength=len(keep))
        return found + self._saved_in_products(keep) if unit == "macs" else found

    def _saved_in_products(self, keep: Tensor) -> Tensor:
        found = torch.zeros(len(keep), dtype=torch.float64)
        for size, layers in self.products:
            counts = _counts(layers, keep)
            for layer, count in zip(layers, counts, strict=True):
                uses = torch.bincount(layer.flatten(), minlength=len(keep))
                found += uses * (size * math.prod(counts) / max(count, 1))
        return found


def _counts(layers: list[Tensor], keep: Tensor) -> list[int]:
    return [int(keep[layer].sum()) for layer in layers]


def _uses(node: fx.Node, traced: fx.GraphModule, weight: str) -> float:
    """Count the output positions of a contraction, per example."""
    made = node.meta["val"]
    shape = tuple((made[0] if isinstance(made, tuple) else made).shape)  # of a recurrent layer's
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    ndim = attribute(traced, weight).ndim
    core = canonical(node.target) == "convolution" and bool(node.args[6])
    transposed = (
        core
        or "transpose" in str(node.target).lower()
        or (
            node.op == "call_module"
            and isinstance(traced.get_submodule(str(node.target)), nn.modules.conv._ConvTransposeNd)
        )
    )
    if ndim == 2:
        places: float = math.prod(shape[:-1])
    else:
        spatial = tuple(source.meta["val"].shape) if transposed else shape
        places = math.prod(spatial[len(shape) - ndim + 2 :]) * math.prod(
            shape[: len(shape) - ndim + 1]
        )
    return places / batch_size(traced)


def batch_size(traced: fx.GraphModule) -> int:
    """Return the first dim of the first tensor input; 1 if there is none."""
    for node in traced.graph.nodes:
        value = node.meta["val"]
        if node.op == "placeholder" and isinstance(value, Tensor) and value.ndim > 1:
            return int(value.shape[0])
    return 1
