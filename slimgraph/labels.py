"""Labels: every channel that a parameter creates gets an integer that flows through the graph.

A *layer* is an integer tensor of a value's own shape. Dims along which it does not vary have
stride 0, so it costs O(channels), not O(pixels). Label 0 marks positions that cannot leave.
A value usually has one layer; none means nothing in it can leave; two when two of its dims
carry channels of their own.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, fx

from slimgraph.remedies import SINGLE

Shape = tuple[int, ...]
MAKING = ("out", "bare", "selected")  # roles of axes whose channels a mask may name
NOT_STORED = ("created", "selected")  # roles of axes that are no dims of parameters


def varying(layer: Tensor) -> tuple[int, ...]:
    """Return the dims along which a layer carries channels."""
    strides = layer.stride()
    return tuple([dim for dim, size in enumerate(layer.shape) if size > 1 and strides[dim]])


def compact(layer: Tensor) -> Tensor:
    """Narrow every dim that does not vary to size 1."""
    strides = layer.stride()
    sizes = [n if s or not n else 1 for n, s in zip(layer.shape, strides, strict=True)]
    return layer.as_strided(sizes, strides)


Where = tuple[int, tuple[tuple[int, int], ...]]


def where_in_memory(labels: Tensor) -> Where:
    """Tell where labels lie in memory: many axes and values of many shapes hold the same ones."""
    dims = zip(labels.shape, labels.stride(), strict=True)
    return labels.data_ptr(), tuple([(n, stride) for n, stride in dims if n > 1 and stride])


def along(labels: Tensor, dim: int, shape: Shape) -> Tensor:
    """Spread a vector of labels along one dim of a shape, stride 0 elsewhere."""
    view = [1] * len(shape)
    view[dim] = labels.numel()
    return labels.reshape(view).expand(shape)


def restride(layer: Tensor) -> Tensor:
    """Find the dims along which a copied layer is constant, and give them stride 0 again."""
    small = compact(layer)  # a comparison would write out what is only expanded
    for dim in varying(layer):
        first = small.narrow(dim, 0, 1)
        if bool((small == first).all()):
            small = first
    return small.expand(layer.shape)


@dataclass(frozen=True, slots=True)
class Value:
    """What the analysis knows of one tensor.

    Attributes:
        shape: The shape at the traced example inputs.
        layers: Label tensors of that shape; no dim varies in two of them.
        parameter: Qualified name if the value is a parameter or buffer itself.
        node: The node that computes it.
    """

    shape: Shape
    layers: tuple[Tensor, ...] = ()
    parameter: str | None = None
    node: fx.Node | None = None

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return len(self.shape)

    def layer(self, dim: int) -> Tensor | None:
        """Return the layer that varies along a dim."""
        return next((layer for layer in self.layers if dim in varying(layer)), None)


Heads = Literal["dims", "whole"]  # what leaves of heads that share a table or a norm


class Axis(NamedTuple):
    """One dim of a parameter or buffer and the labels of its positions.

    `labels` is a vector, or a matrix (groups, channels per group) for the dim of a grouped
    weight that holds a different set of channels in each group.
    """

    parameter: str
    dim: int
    role: str
    labels: Tensor
    node: fx.Node


class Edges(NamedTuple):
    """Labels that a node couples pairwise."""

    left: Tensor
    right: Tensor
    node: fx.Node


class Freeze(NamedTuple):
    """Labels that a node keeps from leaving, and why."""

    labels: Tensor
    node: fx.Node
    message: str


class Block(NamedTuple):
    """A label tensor of two or more dims that must stay rectangular.

    With a `partner` (the other side of a grouped convolution), a row may vanish only together
    with the partner's row. With `heads`, each partner row is one label that stands for its block:
    it leaves when the block has left, and takes the block along.
    """

    labels: Tensor
    node: fx.Node
    partner: Tensor | None
    heads: bool


class Selection(NamedTuple):
    """Channels of a consumer of its own, each of which stays only if the one it reads does."""

    node: fx.Node
    labels: Tensor
    source: Tensor


class Read(NamedTuple):
    """A value whose channels end at a node: the node consumes them.

    `fill` is what the node reads in the place of a removed channel, so that it is ignored.
    """

    node: fx.Node
    value: Value
    weight: str | None
    dim: int
    fill: float = 0


class Product(NamedTuple):
    """A product of computed values, summed over dims: attention and the like.

    `layers` are labels in the space of all its dims, those it sums over among them; it multiplies
    once per position of which every label stays.
    """

    node: fx.Node
    shape: Shape
    layers: tuple[Tensor, ...]


@dataclass(slots=True)
class Ledger:
    """What the rules write down during the label walk; mutable until the walk ends."""

    size: int = 1
    heads: Heads = "dims"
    axes: dict[tuple[str, int], Axis] = field(default_factory=dict)
    opened: list[Axis] = field(default_factory=list)
    edges: list[Edges] = field(default_factory=list)
    frozen: list[Freeze] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    neighbours: list[tuple[fx.Node, Tensor]] = field(default_factory=list)  # whose order counts
    pinned: dict[tuple[str, int | None], tuple[fx.Node, str]] = field(default_factory=dict)

    def fresh(self, count: int) -> Tensor:
        """Make new labels."""
        self.size += count
        return torch.arange(self.size - count, self.size)

    def open(self, axis: tuple[str, int], shape: Shape, role: str, node: fx.Node) -> Tensor:
        """Return the labels of an axis; a new axis starts new channels."""
        if axis not in self.axes:
            labels = self.fresh(math.prod(shape)).reshape(shape)
            self.axes[axis] = Axis(*axis, role, labels, node)
            self.opened.append(self.axes[axis])
            if labels.numel() == 1:
                self.freeze(self.axes[axis].labels, node, SINGLE)
        return self.axes[axis].labels

    def place(self, axis: tuple[str, int], labels: Tensor, role: str, node: fx.Node) -> None:
        """Say that the positions of an axis are these channels."""
        if axis in self.axes:
            self.couple(self.axes[axis].labels.flatten(), labels.flatten(), node)
        else:
            self.axes[axis] = Axis(*axis, role, labels, node)

    def couple(self, left: Tensor, right: Tensor, node: fx.Node) -> None:
        """Couple labels that meet; what meets a position that cannot leave is frozen."""
        if left is right:
            return
        left, right = compact(left), compact(right)
        if left.shape != right.shape:
            left, right = torch.broadcast_tensors(left, right)
        left, right = left.reshape(-1), right.reshape(-1)
        if torch.equal(left, right):
            return
        if int(torch.minimum(left, right).amin()):
            self.edges.append(Edges(left, right, node))
            return
        both = (left != 0) & (right != 0)
        self.edges.append(Edges(left[both], right[both], node))
        lone = torch.maximum(left, right)[~both]  # zero with zero says nothing
        self.freeze(lone, node, "meets positions that cannot be removed")

    def freeze(self, labels: Tensor, node: fx.Node, message: str) -> None:
        """Keep labels from leaving."""
        labels = compact(labels).flatten()
        labels = labels[labels != 0]
        if labels.numel():
            self.frozen.append(Freeze(labels, node, message))

    def freeze_value(self, value: Any, node: fx.Node, message: str) -> None:
        """Keep every channel of a value from leaving."""
        if isinstance(value, Value):
            for layer in value.layers:
                self.freeze(layer, node, message)
            if value.parameter is not None:
                self.pin(value.parameter, None, node, message)

    def pin(self, parameter: str, dim: int | None, node: fx.Node, message: str) -> None:
        """Keep whatever lies along a dim of a parameter from leaving; `None` stands for all."""
        self.pinned[parameter, dim] = (node, message)

    def keep(self, value: Value, dim: int, node: fx.Node, message: str) -> None:
        """Keep whatever lies along a dim of a value from leaving, be it a parameter or computed."""
        if value.parameter is not None:
            self.pin(value.parameter, dim, node, message)
        elif (layer := value.layer(dim)) is not None:
            self.freeze(layer, node, message)

    def close(self) -> None:
        """End the walk: freeze every axis of a parameter that an op needs whole."""
        for axis in list(self.axes.values()):
            for dim in (axis.dim, None):
                if (axis.parameter, dim) in self.pinned:
                    self.freeze(axis.labels, *self.pinned[axis.parameter, dim])

    def block(
        self,
        labels: Tensor,
        node: fx.Node,
        partner: Tensor | None = None,
        *,
        heads: bool = False,
    ) -> None:
        """Ask that a label tensor of two or more dims stays rectangular."""
        self.blocks.append(Block(labels, node, partner, heads))
