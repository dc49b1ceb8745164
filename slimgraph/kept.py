"""What is left of every value and parameter once a mask is decided."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from slimgraph.errors import EmptiedGroupError, UnevenBlocksError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Axis, Block, Shape, Value, Where, compact, varying, where_in_memory
from slimgraph.shapes import modules_of, place, stored_tensors


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
    _lines: dict[Where | int, Tensor | None] = field(default_factory=dict)
    _extents: dict[Where, Shape | None] = field(default_factory=dict)
    _grids: dict[int, Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every block stays rectangular.

        Raises:
            UnevenBlocksError: Blocks that must stay equal keep different numbers of channels.
        """
        for block in self.graph.ledger.blocks:
            self._check(block)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module of the model by name, when this is asked for first."""
        return modules_of(self.graph.traced)

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Every parameter and buffer of the model by name, when this is asked for first."""
        return stored_tensors(self.graph.traced, self.modules)

    @cached_property
    def _stays(self) -> Tensor:
        """Per label, whether it stays."""
        return self.channels[self.graph.component]

    def alive(self, labels: Tensor) -> Tensor:
        """Return whether each label stays; same shape."""
        return self._stays.take(labels)

    def _check(self, block: Block) -> None:
        if self._extents_of(block.labels) is None:
            rows = self.alive(block.labels).flatten(0, -2).sum(-1)
            raise UnevenBlocksError(
                f"the mask keeps {_counts(rows)} channels in {len(rows)} blocks that must stay "
                "equally long",
                place(block.node),
                "keep the same number of channels in each block; which ones may differ",
            )
        if block.partner is not None:
            one, other = self.alive(block.labels), self.alive(block.partner)
            rows_differ = one.any(-1) != other.any(-1)
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
            dims = varying(layer)
            for dim, size in zip(dims, self._left(node, layer, dims), strict=False):
                shape[dim] = size
        if 0 in shape and 0 not in value.shape:
            raise EmptiedGroupError(
                "the mask leaves nothing of this value",
                place(node),
                "keep at least one of its channels",
            )
        return tuple(shape)

    def _left(self, node: fx.Node, layer: Tensor, dims: Sequence[int]) -> Shape:
        """Return the sizes that are left of the dims of a layer; nothing if they stay."""
        if len(dims) == 1:
            kept = self._line(layer)
            return () if kept is None else tuple(kept.shape)
        left = self._extents_of(layer)
        if left is None:
            raise UnevenBlocksError(
                "what the mask keeps of this value is not a dense tensor",
                place(node),
                "keep the same number of channels in each block",
            )
        return left

    def _extents_of(self, labels: Tensor) -> Shape | None:
        """Return what `extents` says of the dims that vary; nothing if all labels stay."""
        where = where_in_memory(labels)
        if where not in self._extents:
            alive = self.alive(compact(labels))
            self._extents[where] = () if bool(alive.all()) else extents(alive.squeeze())
        return self._extents[where]

    def _line(self, labels: Tensor) -> Tensor | None:
        """Return the kept positions of labels that lie along one dim; `None` if all are."""
        key = id(labels)  # of labels that the graph holds, so that nothing else gets this number
        if key not in self._lines:
            where = where_in_memory(labels)
            if where not in self._lines:
                alive = self.alive(compact(labels).flatten())
                kept = alive.nonzero().flatten()
                self._lines[where] = None if kept.shape == alive.shape else kept
            self._lines[key] = self._lines[where]
        return self._lines[key]

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
        return None if axis is None else self._positions(axis)

    def _positions(self, axis: Axis) -> Tensor | None:
        labels = axis.labels
        per_group = 1 if labels.ndim == 1 else labels.shape[1]
        found = self._line(labels) if per_group == 1 else self._rows(labels)
        if found is None:
            return None
        if not found.numel():
            raise EmptiedGroupError(
                f"the mask leaves nothing of `{axis.parameter}` along dim {axis.dim}",
                place(axis.node),
                "keep at least one channel that this op makes or reads",
            )
        return found if labels.ndim == 1 or per_group > 1 else found.new_zeros((*found.shape, 1))

    def _rows(self, labels: Tensor) -> Tensor | None:
        """Return the kept positions in each row of labels of which any stays; `None` if all are."""
        if id(labels) not in self._grids:
            alive = self.alive(labels)
            rows = alive[alive.any(1)]
            kept = rows.nonzero()[:, 1].reshape(max(len(rows), 1), -1)
            self._grids[id(labels)] = None if kept.shape == alive.shape else kept
        return self._grids[id(labels)]

    def groups(self, parameter: str) -> int | None:
        """Return the number of groups left in a grouped weight; `None` if all are."""
        for dim in (0, 1):
            kept = self._axis(parameter, dim)
            if kept is not None and kept.ndim > 1:
                return kept.shape[0]
        return None

    def parameters(self) -> Iterator[tuple[str, tuple[Tensor | None, ...]]]:
        """Yield every parameter and buffer that shrinks, with its kept positions."""
        found: dict[str, dict[int, Tensor | None]] = {}
        for (name, dim), axis in self.graph.ledger.axes.items():
            found.setdefault(name, {})[dim] = self._positions(axis)
        for name, kept in found.items():
            if any(entry is not None for entry in kept.values()):
                yield name, tuple([kept.get(dim) for dim in range(max(kept) + 1)])


def _counts(rows: Tensor) -> str:
    found = sorted(set(rows.tolist()))
    return " or ".join(str(count) for count in found)
