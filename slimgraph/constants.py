"""Constants flow through the same ops: which channels always have the same value, and which.

NaN stands for unknown. A channel whose weights are all zero is its bias; BatchNorm with scale
zero is its shift; point-wise ops map constants to constants.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from slimgraph.graph import DependencyGraph
from slimgraph.labels import Ledger, Value, along, compact
from slimgraph.ops import DEFAULT_TABLE
from slimgraph.rules import Site, canonical
from slimgraph.shapes import attribute

_MOVES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "cat", "concat", "getitem",
     "split", "chunk", "squeeze", "unsqueeze", "expand", "unbind", "narrow", "slice", "stack"}
)  # fmt: skip
_MODULE_MOVES = (nn.Flatten, nn.Unflatten)
Weights = Callable[[str], Tensor]


class Constants:
    """Runs a model on what is known of its values.

    Args:
        graph: The analysed model.
        made: Returns, for a weight's name, which of its output channels have any weight left.
    """

    def __init__(self, graph: DependencyGraph, made: Weights) -> None:
        self.graph = graph
        self.made = made
        self.model = graph.traced
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in graph.traced.graph.nodes:
                self.values[node] = self._visit(node)

    def of(self, node: fx.Node) -> Tensor | None:
        """Return a node's constants, NaN where unknown; `None` if nothing is known.

        Its shape is the value's own, with stride 0 along dims without channels.
        """
        found = self.values.get(node)
        return found if isinstance(found, Tensor) else None

    def _visit(self, node: fx.Node) -> Any:
        kind = self.graph.kinds.get(node)
        value = node.meta["val"]
        name = "" if node.op == "call_module" else canonical(node.target)
        if kind == "contraction":
            return self._contraction(node)
        if kind == "norm" and name in ("", "batch_norm", "aten.batch_norm"):
            return self._batch_norm(node, name)
        if kind == "element-wise":
            return self._pointwise(node)
        if kind == "movement" and self._moves(node, name):
            return self._movement(node)
        if kind in ("pool", "reduction") and isinstance(value, Tensor):
            return self._zeros_only(node)
        return None

    def _contraction(self, node: fx.Node) -> Tensor | None:
        """A channel without weights is its bias."""
        read = next((r for r in self.graph.ledger.reads if r.node is node), None)
        if read is None or read.weight is None:
            return None
        made = self.made(read.weight)
        bias = self._bias(node)
        constant = torch.zeros(len(made), dtype=torch.float64) if bias is None else bias.double()
        ndim = attribute(self.model, read.weight).ndim
        shape = tuple(node.meta["val"].shape)
        channel = len(shape) - 1 if ndim == 2 else len(shape) - ndim + 1
        return along(torch.where(made, torch.nan, constant.cpu()), channel, shape)

    def _bias(self, node: fx.Node) -> Tensor | None:
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))._parameters["bias"]
        given = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        return attribute(self.model, str(given.target)) if isinstance(given, fx.Node) else None

    def _batch_norm(self, node: fx.Node, name: str) -> Tensor | None:
        stored = self._batch_norm_tensors(node, name)
        if stored is None:
            return None
        mean, variance, weight, bias, eps = stored
        shape = tuple(node.meta["val"].shape)
        scale = torch.ones_like(mean) if weight is None else weight.double()
        shift = torch.zeros_like(mean) if bias is None else bias.double()
        source = self._known(node.args[0])
        known = torch.full_like(mean, torch.nan) if source is None else self._vector(source)
        result = (known - mean) / (variance + eps).sqrt() * scale + shift
        return along(torch.where(scale == 0, shift, result).cpu(), 1, shape)

    def _vector(self, known: Tensor) -> Tensor:
        """Return one constant per index of dim 1; unknown where they differ."""
        rows = compact(known).movedim(1, 0).flatten(1)
        rows = rows.expand(known.shape[1], rows.shape[1])
        return torch.where((rows == rows[:, :1]).all(1), rows[:, 0], torch.nan)

    def _batch_norm_tensors(self, node: fx.Node, name: str) -> Any:
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                return None
            found = [module.running_mean, module.running_var, module.weight, module.bias]
            eps = module.eps
        else:
            given = [a for a in node.args[1:5] if isinstance(a, fx.Node) and a.op == "get_attr"]
            if len(given) != 4:
                return None
            found = [attribute(self.model, str(a.target)) for a in given]
            if name.startswith("aten."):
                found = [*found[2:], *found[:2]]
            eps = float(node.kwargs.get("eps", node.args[7] if len(node.args) > 7 else 1e-5))  # type: ignore[arg-type]
        if found[0] is None or found[1] is None:
            return None
        doubles = [None if t is None else t.detach().double().cpu() for t in found]
        return (*doubles, eps)

    def _known(self, argument: Any) -> Tensor | None:
        if not isinstance(argument, fx.Node):
            return None
        if argument.op == "get_attr":
            stored = attribute(self.model, str(argument.target))
            return stored.detach().double().cpu() if isinstance(stored, Tensor) else None
        return self.of(argument)

    def _pointwise(self, node: fx.Node) -> Tensor | None:
        """Run the op where all its operands are known; zero times anything is zero."""
        tensors = [
            leaf
            for leaf in tree_leaves((node.args, node.kwargs))
            if isinstance(leaf, fx.Node) and isinstance(leaf.meta["val"], Tensor)
        ]
        found = {leaf: self._known(leaf) for leaf in tensors}
        product = canonical(node.target) == "mul" if node.op != "call_module" else False
        if all(value is None for value in found.values()):
            return None
        small = {leaf: _small(value, leaf) for leaf, value in found.items()}
        unknown = torch.zeros((), dtype=torch.bool)
        zero = torch.zeros((), dtype=torch.bool)
        for value in small.values():
            unknown = unknown | value.isnan()
            zero = zero | (value == 0)
        if product:
            unknown = unknown & ~zero
        args, kwargs = map_aggregate(
            (node.args, node.kwargs),
            lambda a: (
                (small[a].nan_to_num() if a in small else a.meta["val"])
                if isinstance(a, fx.Node)
                else a
            ),
        )
        try:
            result = self._function(node)(*args, **kwargs)
        except (RuntimeError, TypeError):
            return None
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return None
        return torch.where(unknown, torch.nan, result.double()).expand(node.meta["val"].shape)

    def _function(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target)).forward
        if node.op == "call_method":
            name = str(node.target).removesuffix("_")
            return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)
        assert callable(node.target)
        return node.target

    def _moves(self, node: fx.Node, name: str) -> bool:
        if node.op == "call_module":
            return isinstance(self.model.get_submodule(str(node.target)), _MODULE_MOVES)
        return name in _MOVES

    def _movement(self, node: fx.Node) -> Any:
        """Run the same rule as for labels, on constants."""

        def known(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            value = argument.meta["val"]
            found = self.values.get(argument)
            if isinstance(value, Tensor):
                layer = self._known(argument)
                if layer is None:
                    layer = torch.full((), torch.nan, dtype=torch.float64)
                return Value(tuple(value.shape), (layer.expand(value.shape),), node=argument)
            return found if found is not None else value

        args, kwargs = map_aggregate((node.args, node.kwargs), known)
        rule = DEFAULT_TABLE.for_function(node.target)
        if node.op == "call_module":
            rule = DEFAULT_TABLE.for_module(self.model.get_submodule(str(node.target)))[0]  # type: ignore[index]
        assert rule is not None, "only nodes with a rule have a kind"
        result = rule.flow(Site(node, Ledger()), *args, **kwargs)
        if isinstance(result, Value):
            return result.layers[0] if result.layers else None
        return result

    def _zeros_only(self, node: fx.Node) -> Tensor | None:
        """Pooling and averages keep zero; padding and counts may change other constants."""
        source = self._known(node.args[0] if node.args else node.kwargs.get("input"))
        if source is None:
            return None
        rule_values = self.graph.values_at(node)
        if len(rule_values) != 1 or not rule_values[0].layers or source.ndim < 2:
            return None
        known = self._vector(source)
        zeros = torch.where(known == 0, 0.0, torch.nan)
        return along(zeros, 1, tuple(node.meta["val"].shape))


def _small(known: Tensor | None, node: fx.Node) -> Tensor:
    shape = node.meta["val"].shape
    if known is None:
        return torch.full([1] * len(shape), torch.nan, dtype=torch.float64)
    return compact(known) if known.shape == shape else known
