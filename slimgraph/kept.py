"""What is left of every value and parameter once a mask is decided."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from slimgraph.errors import EmptiedGroupError, UnevenBlocksError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Axis, Block, Shape, Value, compact, varying
from slimgraph.shapes import place


def extents(alive: Tensor) -> Shape | None:
    """Return the shape of what is left if it is rectangular, else `None`.

    Rows may keep different positions if they keep equally many, or may vanish whole.

    Args:
        alive: Bool tensor of any shape.

    Example:
        >>> import torch
        >>> extents(torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0]]).bool())
        (2, 2)
    """
    sizes = []
    for dim in range(alive.ndim):
        rest = alive.flatten(dim + 1).any(-1) if dim + 1 < alive.ndim else alive
        counts = rest.sum(-1).flatten()
        counts = counts[counts > 0]
        if len(counts) and bool((counts != counts[0]).any()):
            return None
        sizes.append(int(counts[0]) if len(counts) else 0)
    return tuple(sizes)


@dataclass(frozen=True, eq=False)
class KeptChannels:
    """A checked decision: which labels stay.

    Attributes:
        graph: The groups it speaks of.
        channels: Bool tensor over all channels. Shape: (channels,).
    """

    graph: DependencyGraph
    channels: Tensor
    _shapes: dict[Any, Shape] = field(default_factory=dict)
    _axes: dict[int, Tensor | None] = field(default_factory=dict)
    _layers: dict[int, tuple[Tensor, Shape | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every block stays rectangular.

        Raises:
            UnevenBlocksError: Blocks that must stay equal keep different numbers of channels.
        """
        for block in self.graph.ledger.blocks:
            self._check(block)

    @cached_property
    def _stays(self) -> Tensor:
        """Per label, whether it stays."""
        return self.channels[self.graph.component]

    def alive(self, labels: Tensor) -> Tensor:
        """Return whether each label stays; same shape."""
        return self._stays.take(labels)

    def _check(self, block: Block) -> None:
        alive = self.alive(block.labels)
        if bool(alive.all()) and block.partner is None:
            return
        if extents(alive) is None:
            rows = alive.flatten(0, -2).sum(-1)
            raise UnevenBlocksError(
                f"the mask keeps {_counts(rows)} channels in {len(rows)} blocks that must stay "
                "equally long",
                place(block.node),
                "keep the same number of channels in each block; which ones may differ",
            )
        if block.partner is not None:
            rows_differ = alive.any(-1) != self.alive(block.partner).any(-1)
            if bool(rows_differ.any()):
                row = int(rows_differ.nonzero()[0])
                raise UnevenBlocksError(
                    f"the mask removes all of block {row} on one side of this op, not on the other",
                    place(block.node),
                    "remove both sides of a block (a group of a grouped convolution, an attention "
                    "head) together, or keep one channel of each",
                )

    def is_whole(self, value: Value) -> bool:
        """Return whether nothing of a value leaves."""
        return all(bool(self.alive(compact(layer)).all()) for layer in value.layers)

    def value(self, node: fx.Node, item: int | None = None) -> Value:
        """Return what the analysis knows of a node's value, or of one item of it."""
        found = self.graph.values[node]
        if item is not None:
            found = found[item]
        assert isinstance(found, Value), f"%{node.name} is no tensor"
        return found

    def shape(self, node: fx.Node, item: int | None = None) -> Shape:
        """Return the new shape of a node's value, or of one item of it.

        Raises:
            EmptiedGroupError: Nothing would be left along a dim.
            UnevenBlocksError: What is left is not a dense tensor.
        """
        key = (node, item)
        if key not in self._shapes:
            self._shapes[key] = self._shape(node, self.value(node, item))
        return self._shapes[key]

    def _shape(self, node: fx.Node, value: Value) -> Shape:
        if value.parameter is not None:
            return self.parameter_shape(value.parameter, value.shape)
        shape = list(value.shape)
        for layer in value.layers:
            for dim, size in zip(varying(layer), self._left(node, layer), strict=False):
                shape[dim] = size
        if 0 in shape and 0 not in value.shape:
            raise EmptiedGroupError(
                "the mask leaves nothing of this value",
                place(node),
                "keep at least one of its channels",
            )
        return tuple(shape)

    def _left(self, node: fx.Node, layer: Tensor) -> Shape:
        """Return the sizes that are left of the dims of a layer; nothing if they stay."""
        key = id(layer)  # of the layer that is listed below, so that it stays alive
        if key not in self._layers:
            alive = self.alive(compact(layer))
            count = int(alive.sum())
            dims = varying(layer)
            left: Shape | None = ()
            if count != alive.numel():
                left = (count,) if len(dims) == 1 else extents(alive.squeeze())
            self._layers[key] = layer, left
        left = self._layers[key][1]
        if left is None:
            raise UnevenBlocksError(
                "what the mask keeps of this value is not a dense tensor",
                place(node),
                "keep the same number of channels in each block",
            )
        return left

    def parameter_shape(self, name: str, shape: Shape) -> Shape:
        """Return the new shape of a parameter or buffer."""
        entries = self.positions_of(name, len(shape))
        return tuple(
            size if kept is None else kept.shape[-1]
            for size, kept in zip(shape, entries, strict=True)
        )

    def positions(self, node: fx.Node, dim: int) -> Tensor | None:
        """Return the kept positions along a dim; `None` if all are.

        Raises:
            UnevenBlocksError: They differ from block to block.
        """
        value = self.value(node)
        dim %= value.ndim
        if value.parameter is not None:
            return self.positions_of(value.parameter, value.ndim)[dim]
        layer = value.layer(dim)
        if layer is None:
            return None
        rows = self.alive(compact(layer)).movedim(dim, 0).reshape(value.shape[dim], -1)
        live = rows.any(1)
        within = min(varying(layer)) < dim
        if within and bool((rows != live[:, None])[:, rows.any(0)].any()):
            raise UnevenBlocksError(
                "the kept positions differ between blocks that are indexed together",
                place(node),
                "keep the same positions in each block",
            )
        return None if bool(live.all()) else live.nonzero().flatten()

    def positions_of(self, parameter: str, ndim: int) -> tuple[Tensor | None, ...]:
        """Return per dim of a parameter the kept positions, or `None` for all."""
        return tuple(self._axis(parameter, dim) for dim in range(ndim))

    def _axis(self, parameter: str, dim: int) -> Tensor | None:
        axis = self.graph.ledger.axes.get((parameter, dim))
        if axis is None:
            return None
        key = id(axis.labels)  # the parameters of a norm share their labels
        if key not in self._axes:
            self._axes[key] = self._positions(axis)
        return self._axes[key]

    def _positions(self, axis: Axis) -> Tensor | None:
        alive = self.alive(axis.labels)
        found = alive.nonzero()
        if len(found) == alive.numel():
            return None
        if not len(found):
            raise EmptiedGroupError(
                f"the mask leaves nothing of `{axis.parameter}` along dim {axis.dim}",
                place(axis.node),
                "keep at least one channel that this op makes or reads",
            )
        if alive.ndim == 1:
            return found.flatten()
        alive = alive[alive.any(1)]
        return alive.nonzero()[:, 1].reshape(len(alive), -1)

    def groups(self, parameter: str) -> int | None:
        """Return the number of groups left in a grouped weight; `None` if all are."""
        for dim in (0, 1):
            kept = self._axis(parameter, dim)
            if kept is not None and kept.ndim > 1:
                return kept.shape[0]
        return None

    def parameters(self) -> Iterator[tuple[str, tuple[Tensor | None, ...]]]:
        """Yield every parameter and buffer that shrinks, with its kept positions."""
        ndims: dict[str, int] = {}
        for name, dim in self.graph.ledger.axes:
            ndims[name] = max(ndims.get(name, 0), dim + 1)
        for name, ndim in ndims.items():
            kept = self.positions_of(name, ndim)
            if any(entry is not None for entry in kept):
                yield name, kept


def _counts(rows: Tensor) -> str:
    found = sorted(set(rows.tolist()))
    return " or ".join(str(count) for count in found)
