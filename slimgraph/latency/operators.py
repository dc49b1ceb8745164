"""Which operators a model runs as in onnxruntime, and how their sizes follow from a mask.

The model is exported once, at full width. onnxruntime's profiler says which fused kernels it runs
and how long each takes; every kernel is traced back, by the names of values, to the plain ONNX
nodes it stands for, and these to nodes of the analysed graph, whose labels say which sizes are left
under any mask.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor, fx

from slimgraph.graph import DependencyGraph
from slimgraph.kept import KeptChannels
from slimgraph.labels import Shape, Value
from slimgraph.latency.kernels import LAYOUT, Profile

CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Their inputs are values, or constants that are laid along the output.
PLAIN = (
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Div", "Elu", "Erf", "Exp",
    "Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LayerNormalization",
    "LeakyRelu", "LRN", "MaxPool", "Mish", "Mul", "PRelu", "Pow", "ReduceMean", "Relu", "Sigmoid",
    "Softmax", "Softplus", "Sqrt", "Sub", "Tanh", "Transpose",
)  # fmt: skip
_LINE = re.compile(r"<eval_with_key>[^\n]*\n\s*(?:\w+ [^=\n]?= \w+;\s*)?(\w+) = ")
_FUSED = re.compile(r"(_nchwc)?(_token_\d+)?$")
_STACK = "pkg.torch.onnx.stack_trace"


@dataclass(frozen=True, eq=False)
class Operator:
    """One kernel, and what it computes.

    Attributes:
        name: Of the kernel.
        op: Its type.
        ms: Of the dense model's run, in milliseconds.
        blocked: Whether it runs on blocked channels.
        nodes: The plain nodes it stands for, first to last; none if it is unknown.
        inputs: Where the values of the first node come from; `None` for constants.
        output: Where its value goes.
    """

    name: str
    op: str
    ms: float
    blocked: bool
    nodes: tuple[onnx.NodeProto, ...] = ()
    inputs: tuple[fx.Node | None, ...] = ()
    output: fx.Node | None = None

    @property
    def contracts(self) -> bool:
        """Whether it has one size for what it reads and one for what it writes."""
        return bool(self.nodes) and self.nodes[0].op_type in CONTRACTIONS and (
            self.inputs[1] is None
        )  # fmt: skip

    def shapes(self, kept: KeptChannels) -> tuple[tuple[Shape | None, ...], Shape]:
        """Return the shapes of inputs and output that a mask leaves."""
        assert self.output is not None
        found = tuple(None if node is None else kept.shape(node) for node in self.inputs)
        return found, kept.shape(self.output)


@dataclass(frozen=True, eq=False)
class PlainModel:
    """An exported file, before onnxruntime fuses anything.

    Attributes:
        graph: The analysed model that was exported, at full width.
        model: The file.
    """

    graph: DependencyGraph
    model: onnx.ModelProto

    @classmethod
    def load(cls, graph: DependencyGraph, path: Path) -> "PlainModel":
        """Read a file; weights in a file of their own are not needed."""
        return cls(graph, onnx.load(str(path), load_external_data=False))

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node of every value."""
        return {name: node for node in self.model.graph.node for name in node.output}

    @cached_property
    def by_name(self) -> dict[str, onnx.NodeProto]:
        """The nodes by name."""
        return {node.name: node for node in self.model.graph.node}

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Weights and constants by name."""
        found = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant":
                found[node.output[0]] = node.attribute[0].t
        return found

    @cached_property
    def sources(self) -> dict[str, fx.Node]:
        """The node of the analysed graph that a value is the result of, where one is known."""
        nodes = {node.name: node for node in self.graph.traced.graph.nodes}
        shapes = {name: node for name, node in nodes.items() if self._is_tensor(node)}
        found = {v.name: shapes[v.name] for v in self.model.graph.input if v.name in shapes}
        for node in self.model.graph.node:
            trace = next((p.value for p in node.metadata_props if p.key == _STACK), "")
            lines = _LINE.findall(trace)
            if lines and lines[-1] in shapes:
                found.update(dict.fromkeys(node.output, shapes[lines[-1]]))
        return found

    def _is_tensor(self, node: fx.Node) -> bool:
        value = self.graph.values.get(node)
        return isinstance(value, Value) and isinstance(node.meta.get("val"), Tensor)

    def operators(self, profile: Profile) -> list[Operator]:
        """Trace kernels back to nodes.

        Args:
            profile: Of this model.

        Returns:
            One operator per kernel, in order; those that are unknown have no nodes.
        """
        return [self._operator(kernel) for kernel in profile.kernels]

    def _operator(self, kernel: Any) -> Operator:
        bare = Operator(kernel.name, kernel.op, kernel.ms, kernel.blocked)
        base = _FUSED.sub("", kernel.name)
        node = self.producers.get(base) or self.by_name.get(base)
        if node is None or kernel.op in LAYOUT:
            return bare
        chain = self._chain(node) if kernel.op.removeprefix("Fused") in CONTRACTIONS else (node,)
        inputs = tuple(self.sources.get(name) for name in chain[0].input if name)
        output = self.sources.get(node.output[0])
        if output is None or all(source is None for source in inputs):
            return bare
        return Operator(kernel.name, kernel.op, kernel.ms, kernel.blocked, chain, inputs, output)

    def _chain(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes from a contraction to the activation that is fused with it."""
        chain = [node]
        while chain[0].op_type not in CONTRACTIONS:
            values = [name for name in chain[0].input if name and name not in self.constants]
            before = self.producers.get(values[0]) if len(values) == 1 else None
            if before is None or before.op_type not in (*CONTRACTIONS, *PLAIN):
                return (node,)
            chain.insert(0, before)
        return tuple(chain)
