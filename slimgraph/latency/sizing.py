"""The sizes of an operator: what they are under a mask, and what it looks like at others."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import onnx
import torch
from torch import Tensor, fx

from slimgraph.cost import batch_size
from slimgraph.kept import KeptChannels
from slimgraph.labels import Shape, Value, compact, varying
from slimgraph.latency.operators import PLAIN, Operator
from slimgraph.latency.table import Spec


@dataclass(frozen=True, eq=False)
class Sizing:
    """The sizes of one operator.

    A contraction has two that matter, the channels it reads and those it writes; any other op, and
    a depth-wise convolution, has one.

    Attributes:
        whole: The mask that keeps everything.
        operator: The operator; its nodes are known.
        batch: Examples per run; `None` as traced.
    """

    whole: KeptChannels
    operator: Operator
    batch: int | None = None

    @cached_property
    def first(self) -> onnx.NodeProto:
        """The node that sizes are of."""
        return self.operator.nodes[0]

    @cached_property
    def groups(self) -> int:
        """Of a convolution; 1 for others."""
        return next((a.i for a in self.first.attribute if a.name == "group"), 1)

    @cached_property
    def kind(self) -> str:
        """Name what operators have in common that grow in the same steps."""
        ops = "+".join(node.op_type for node in self.operator.nodes)
        window = [
            list(a.ints) for a in self.first.attribute if a.name in ("kernel_shape", "strides")
        ]
        return f"{ops} {window} {'depth-wise' if self.groups > 1 else ''}"

    @cached_property
    def full(self) -> dict[str, int]:
        """The numbers of channels in the dense model, by variable; empty: not measurable."""
        if not self.operator.contracts and self.first.op_type not in PLAIN:
            return {}
        return self.counts(self.whole)

    def counts(self, kept: KeptChannels) -> dict[str, int]:
        """Return the numbers of channels under a mask, by variable."""
        inputs, output = self.operator.shapes(kept)
        if self.operator.contracts and self.groups == 1:
            assert inputs[0] is not None
            dim = 1 if "Conv" in self.first.op_type else -1
            found = {"read": inputs[0][dim], "made": output[dim]}
            return {name: count for name, count in found.items() if self._changes[name]}
        nodes = (self.operator.output, *self.operator.inputs)
        for node, shape in zip(nodes, (output, *inputs), strict=True):
            along = None if node is None else self._dim(node)
            if along is not None and shape is not None:
                return {"both": shape[along]}
        return {}

    @cached_property
    def _changes(self) -> dict[str, bool]:
        """Whether a channel can leave of what a contraction reads, and of what it makes."""
        read, made = self.operator.inputs[0], self.operator.output
        assert read is not None and made is not None  # noqa: PT018
        return {"read": self._dim(read) is not None, "made": self._dim(made) is not None}

    @cached_property
    def channels(self) -> Tensor:
        """The channels that its sizes depend on."""
        nodes = (*self.operator.inputs, self.operator.output)
        values = (self.whole.graph.values[node] for node in nodes if node is not None)
        found = [compact(layer).flatten() for v in values for layer in v.layers]
        labels = torch.cat([torch.zeros(0, dtype=torch.long), *found])
        own: Tensor = self.whole.graph.component[labels].unique()
        return own

    def work(self, kept: KeptChannels) -> int:
        """Return a number that an operator's time is in proportion to: what it multiplies."""
        inputs, output = self.operator.shapes(kept)
        if self.first.op_type == "MatMul" and inputs[0] is not None:
            return prod(output) * inputs[0][-1]
        return prod(output)

    def spec(self, counts: Mapping[str, int]) -> Spec:
        """Return the operator at other numbers of channels; those not given are the dense model's.

        Args:
            counts: By variable.
        """
        inputs, output = self.operator.shapes(self.whole)
        shapes: list[Shape | None] = [*inputs, output]
        asked = self.full | dict(counts)
        if self.operator.contracts and self.groups == 1:
            dim = 1 if "Conv" in self.first.op_type else -1
            for name, place in (("read", 0), ("made", -1)):
                if name in asked:
                    shapes[place] = _with(shapes[place], dim, asked[name])
        elif asked:
            share = asked["both"] / self.full["both"]
            nodes = (*self.operator.inputs, self.operator.output)
            shapes = [self._scaled(n, s, share) for n, s in zip(nodes, shapes, strict=True)]
        if self.first.op_type == "Concat":
            axis = self.first.attribute[0].i
            shapes[-1] = _with(output, axis, sum(s[axis] for s in shapes[:-1] if s is not None))
        *left, made = (self._batched(shape) for shape in shapes)
        assert made is not None
        return self.operator.nodes, left, made

    def _scaled(self, node: fx.Node | None, shape: Shape | None, share: float) -> Shape | None:
        dim = None if node is None else self._dim(node)
        if shape is None or dim is None:
            return shape
        return _with(shape, dim, max(round(shape[dim] * share), 1))

    def _batched(self, shape: Shape | None) -> Shape | None:
        """Put the batch in the place of the traced one."""
        traced = batch_size(self.whole.graph.traced)
        if self.batch is None or not shape or shape[0] != traced:
            return shape
        return (self.batch, *shape[1:])

    def _dim(self, node: fx.Node) -> int | None:
        """Return the last dim that channels lie along, if any can leave."""
        value = self.whole.graph.values[node]
        assert isinstance(value, Value)
        graph = self.whole.graph
        free = (layer for layer in value.layers
                if not bool(graph.frozen[graph.component[compact(layer)]].all()))  # fmt: skip
        return max((dim for layer in free for dim in varying(layer)), default=None)


def _with(shape: Shape | None, dim: int, size: int) -> Shape:
    """Return a shape with another size of one dim."""
    assert shape is not None
    found = list(shape)
    found[dim] = size
    return tuple(found)
