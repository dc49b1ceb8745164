"""Constants flow through the same ops: which channels always have the same value, and which.

NaN stands for unknown. A channel whose weights are all zero is its bias; BatchNorm with scale
zero is its shift; point-wise ops map constants to constants, and ops that mix positions keep those
they cannot change (`constant_rules`). What an op overwrites in place is unknown from then on, under
all its names.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from slimgraph import constant_rules
from slimgraph.contractions import CONTRACTIONS, op_of
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Ledger, Value, along, compact, varying
from slimgraph.op_names import canonical
from slimgraph.ops.elementwise import IDENTITY
from slimgraph.ops.overwriting import overwrites
from slimgraph.rules import Site, is_fixed
from slimgraph.shapes import attribute, shallow

_MOVES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "getitem", "split",
     "chunk", "squeeze", "unsqueeze", "expand", "unbind", "narrow", "slice", "select", "flip",
     "t", "movedim", "moveaxis", "swapaxes", "swapdims", "repeat", "tile", "repeat_interleave",
     "split_with_sizes", "_unsafe_view", "ravel", "roll",
     "pixel_unshuffle", "view_as", "reshape_as"}
)  # fmt: skip
_MODULE_MOVES = (nn.Flatten, nn.Unflatten, nn.PixelUnshuffle)
_SHAPE_OF_OTHER = frozenset({"expand_as", "type_as", "to"})
_JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
_RANDOM = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
     "feature_alpha_dropout", "rrelu", "rand_like", "randn_like", "empty_like", "bernoulli"}
)  # fmt: skip
Weights = Callable[[str, int], Tensor]


class Constants:
    """Runs a model on what is known of its values.

    Args:
        graph: The analysed model.
        made: Returns which positions along a dim of a weight, by name, have any weight left.
        model: Holds other tensors than the analysed model under the same names.
    """

    def __init__(
        self, graph: DependencyGraph, made: Weights, model: fx.GraphModule | None = None
    ) -> None:
        self.graph = graph
        self.made = made
        self.model = graph.traced if model is None else model
        self.values: dict[fx.Node, Any] = {}
        self._memory: dict[fx.Node, set[fx.Node]] = {}
        with torch.no_grad():
            for node in graph.traced.graph.nodes:
                self.values[node] = self._visit(node)
                self._remember(node)

    def of(self, node: fx.Node) -> Tensor | None:
        """Return a node's constants, NaN where unknown; `None` if nothing is known.

        Its shape is the value's own, with stride 0 along dims without channels.
        """
        if node.op == "get_attr":
            return self._known(node)
        found = self.values.get(node)
        return found if isinstance(found, Tensor) else None

    def _visit(self, node: fx.Node) -> Any:
        kind = self.graph.kinds.get(node)
        name = self._name(node)
        if kind == "contraction":
            return self._contraction(node)
        if kind == "norm":
            return self._norm(node, name)
        if kind == "element-wise":
            return self._prelu(node) if name == "prelu" else self._pointwise(node, name)
        if kind == "selection":
            return self._known(_first(node))
        if kind == "movement":
            return self._moved(node, name)
        if kind == "pool":
            return self._pooled(node, name)
        return self._reduced(node, name) if kind == "reduction" else None

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self.model.get_submodule(str(node.target))).__name__.lower()
        return canonical(node.target)

    def _remember(self, node: fx.Node) -> None:
        """Forget what is overwritten here; note which values share their memory."""
        same = {node}
        writes = overwrites(node, self.model)
        if writes or self._is_view(node):
            for source in node.all_input_nodes:
                same |= self._memory[source]
        if writes:
            self.values.update(dict.fromkeys(same - {node}))
        self._memory.update(dict.fromkeys(same, same))

    def _is_view(self, node: fx.Node) -> bool:
        kind = self.graph.kinds.get(node)
        if kind == "movement":
            return self._name(node) not in _JOINS
        rule = self._rule(node) if kind == "element-wise" else None
        return kind in ("unknown", "selection") or rule is IDENTITY

    def _rule(self, node: fx.Node) -> Any:
        if node.op != "call_module":
            return self.graph.rules.for_function(node.target)
        found = self.graph.rules.for_module(self.model.get_submodule(str(node.target)))
        return IDENTITY if found is None else found[0]  # somebody's own that passes its input

    def _contraction(self, node: fx.Node) -> Tensor | None:
        """A channel without weights is its bias."""
        read = next((r for r in self.graph.ledger.reads if r.node is node), None)
        if read is None or read.weight is None:
            return None
        name = op_of(self.graph, node)
        if name not in CONTRACTIONS:
            return None
        made = self.made(read.weight, 1 - read.dim)  # tied ones are read along either dim
        bias = None if name in ("matmul", "mm") else self._bias(node)
        constant = torch.zeros(len(made), dtype=torch.float64) if bias is None else bias
        ndim = attribute(self.model, read.weight).ndim
        shape = tuple(node.meta["val"].shape)
        channel = len(shape) - 1 if ndim == 2 else len(shape) - ndim + 1
        return along(torch.where(made, torch.nan, constant), channel, shape)

    def _bias(self, node: fx.Node) -> Tensor | None:
        if node.op == "call_module":
            stored = self.model.get_submodule(str(node.target))._parameters["bias"]
            return None if stored is None else stored.detach().double().cpu()
        given = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        if given is None:
            return None
        found = self._known(given)
        return torch.tensor(torch.nan, dtype=torch.float64) if found is None else found

    def _norm(self, node: fx.Node, name: str) -> Tensor | None:
        if name.endswith("batch_norm"):
            return self._batch_norm(node, name)
        if node.op != "call_module":
            return None
        module = self.model.get_submodule(str(node.target))
        if getattr(module, "running_mean", None) is not None:
            return self._batch_norm(node, name)
        shape = tuple(node.meta["val"].shape)
        blocks = constant_rules.blocks_of(module, len(shape))
        if blocks is None:
            return None
        known = self._vector(self._layer(_first(node)))
        return along(constant_rules.normalized(known, module, blocks), 1, shape)

    def _batch_norm(self, node: fx.Node, name: str) -> Tensor | None:
        stored = constant_rules.batch_norm_tensors(node, name, self.model)
        if stored is None:
            return None
        mean, variance, weight, bias, eps = stored
        shape = tuple(node.meta["val"].shape)
        scale = torch.ones_like(mean) if weight is None else weight.double()
        shift = torch.zeros_like(mean) if bias is None else bias.double()
        source = self._known(node.args[0])
        known = torch.full_like(mean, torch.nan)
        if source is not None and not constant_rules.trains(node):
            known = self._vector(source)
        result = (known - mean) / (variance + eps).sqrt() * scale + shift
        return along(torch.where(scale == 0, shift, result).cpu(), 1, shape)

    def _vector(self, known: Tensor) -> Tensor:
        """Return one constant per index of dim 1; unknown where they differ."""
        rows = compact(known).movedim(1, 0).flatten(1)
        rows = rows.expand(known.shape[1], rows.shape[1])
        return torch.where((rows == rows[:, :1]).all(1), rows[:, 0], torch.nan)

    def _known(self, argument: Any) -> Tensor | None:
        if not isinstance(argument, fx.Node):
            return None
        if argument.op == "get_attr":
            stored = attribute(self.model, str(argument.target))
            return stored.detach().double().cpu() if isinstance(stored, Tensor) else None
        return self.of(argument)

    def _pointwise(self, node: fx.Node, name: str) -> Tensor | None:
        """Run the op where all its operands are known; zero times anything is zero."""
        if name in _RANDOM and node.op != "call_module":
            return self._undropped(node)
        tensors = [
            leaf
            for leaf in tree_leaves((node.args, node.kwargs))
            if isinstance(leaf, fx.Node) and isinstance(leaf.meta["val"], Tensor)
        ][: 1 if name in _SHAPE_OF_OTHER else None]
        found = {leaf: self._known(leaf) for leaf in tensors}
        if all(value is None for value in found.values()):
            return None
        small = {leaf: _small(value, leaf) for leaf, value in found.items()}
        result = self._applied(node, name, small)
        try:
            return None if result is None else result.expand(node.meta["val"].shape)
        except RuntimeError:  # the op makes another shape of small tensors
            return None

    def _applied(self, node: fx.Node, name: str, small: dict[fx.Node, Tensor]) -> Tensor | None:
        """Run an op on small tensors; what depends on NaN is NaN."""
        unknown = torch.tensor(self._takes_sizes(node))
        zero = torch.zeros((), dtype=torch.bool)
        for value in small.values():
            unknown = unknown | value.isnan()
            zero = zero | (value == 0)
        if name == "mul":
            unknown = unknown & ~zero
        args, kwargs = map_aggregate(
            (node.args, node.kwargs),
            lambda a: (
                (_typed(small[a], a) if a in small else a.meta["val"])
                if isinstance(a, fx.Node)
                else a
            ),
        )
        try:
            result = self._function(node)(*args, **kwargs)
            return torch.where(unknown, torch.nan, result.double())
        except (RuntimeError, TypeError):
            return None

    def _takes_sizes(self, node: fx.Node) -> bool:
        """Return whether a number among the arguments depends on the size of the input."""
        numbers = (n for n in node.all_input_nodes if not isinstance(n.meta["val"], Tensor))
        return not all(is_fixed(number, self.graph.values) for number in numbers)

    def _undropped(self, node: fx.Node) -> Tensor | None:
        """Pass what a dropout passes that is switched off."""
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
        training = training.meta["val"] if isinstance(training, fx.Node) else training
        is_dropout = "dropout" in canonical(node.target)
        return self._known(_first(node)) if is_dropout and training is False else None

    def _function(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return shallow(self.model.get_submodule(str(node.target))).eval().forward
        if node.op == "call_method":
            name = str(node.target).removesuffix("_")
            return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)
        assert callable(node.target)
        return node.target

    def _moved(self, node: fx.Node, name: str) -> Any:
        mixed = constant_rules.MIXES.get(name.replace("_", ""))
        if mixed is not None:
            return mixed(self._spread(_first(node)), self._settings(node))
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return self._movement(node) if isinstance(module, _MODULE_MOVES) else None
        if name in _JOINS:
            return self._joined(node, torch.stack if name == "stack" else torch.cat)
        return self._movement(node) if name in _MOVES else None

    def _movement(self, node: fx.Node) -> Any:
        """Run the same rule as for labels, on constants; of a tuple, one result per item."""
        first = _first(node)
        if isinstance(first.meta["val"], tuple | list):
            found, index = self.values.get(first), node.args[1]
            return found[index] if isinstance(found, tuple) and isinstance(index, int) else None
        value: Any = Value(tuple(first.meta["val"].shape), (self._comparable(first),), node=first)

        def known(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            return value if argument is first else argument.meta["val"]

        args, kwargs = map_aggregate((node.args, node.kwargs), known)
        result = self._rule(node).flow(Site(node, Ledger()), *args, **kwargs)
        if isinstance(result, Value):
            return _only_layer(result)
        return tuple(_only_layer(item) for item in result)

    def _layer(self, node: fx.Node) -> Tensor:
        """Return a value's constants, with NaN if nothing is known, in its shape."""
        known = self._known(node)
        layer = torch.tensor(torch.nan, dtype=torch.float64) if known is None else known
        return layer.expand(node.meta["val"].shape)

    def _spread(self, node: fx.Node) -> Tensor:
        """Return the same, varying along every dim that carries channels."""
        layer = self._layer(node)
        found = self.graph.values[node].layers if self.graph.values[node] is not None else ()
        dims = {dim for labels in (*found, layer) for dim in varying(labels)}
        index = tuple(slice(None if dim in dims else 1) for dim in range(layer.ndim))
        return layer[index].clone(memory_format=torch.contiguous_format).expand(layer.shape)

    def _comparable(self, node: fx.Node) -> Tensor:
        """Return the same with infinity for unknown, which is equal to itself."""
        layer = self._layer(node)
        return compact(layer).nan_to_num(torch.inf).expand(layer.shape)

    def _joined(self, node: fx.Node, join: Callable[..., Tensor]) -> Tensor | None:
        """Join constants; dims along which none of them varies stay short."""
        pieces = node.args[0] if node.args else node.kwargs["tensors"]
        if isinstance(pieces, fx.Node):
            return None
        layers = [self._layer(piece) for piece in pieces]  # type: ignore[union-attr, arg-type]
        dim: Any = (
            node.args[1]
            if len(node.args) > 1
            else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        )
        return constant_rules.joined(layers, join, dim, node.meta["val"].shape)

    def _settings(self, node: fx.Node) -> constant_rules.Settings:
        module = None
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
        return constant_rules.Settings(node, module)

    def _prelu(self, node: fx.Node) -> Tensor | None:
        source = self._known(_first(node))
        slope: Tensor | None
        if node.op == "call_module":
            slope = self.model.get_submodule(str(node.target))._parameters["weight"]
        else:
            slope = self._known(node.args[1] if len(node.args) > 1 else node.kwargs["weight"])
        if source is None or slope is None:
            return None
        slope = slope.detach().double().cpu()
        small = compact(source)
        if slope.numel() > 1:
            slope = along(slope, 1, tuple(source.shape))
        result: Tensor = torch.where(small >= 0, small, compact(slope) * small)
        return result.expand(source.shape)

    def _pooled(self, node: fx.Node, name: str) -> Tensor | None:
        """Pooling and resizing keep zero, and most of them every other constant."""
        source = self._known(_first(node))
        if source is None or not isinstance(node.meta["val"], Tensor):
            return None
        small = constant_rules.pooled(source, name.replace("_", ""), self._settings(node))
        return None if small is None else small.expand(node.meta["val"].shape)

    def _reduced(self, node: fx.Node, name: str) -> Any:
        source = self._known(_first(node))
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if source is None:
            return None
        value = node.meta["val"]
        if not isinstance(value, Tensor):  # the largest or smallest, and where they are
            name, value = f"a{name}", value[0]
        shape = value.shape
        keepdim = len(shape) == source.ndim
        small = constant_rules.reduced(source, name, given, keepdim=keepdim)
        if small is None:
            return None
        result = small.expand(shape)
        return result if isinstance(node.meta["val"], Tensor) else (result, None)


def _first(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _only_layer(value: Value) -> Tensor | None:
    if not value.layers:
        return None
    layer = value.layers[0]
    small = compact(layer)
    return torch.where(small.isinf(), torch.nan, small).expand(layer.shape)


def _typed(small: Tensor, node: fx.Node) -> Tensor:
    """Return constants as an op takes them: in double precision, or whole numbers and bools."""
    kind = node.meta["val"].dtype
    return small.nan_to_num() if kind.is_floating_point else small.nan_to_num().to(kind)


def _small(known: Tensor | None, node: fx.Node) -> Tensor:
    shape = node.meta["val"].shape
    if known is None:
        return torch.full([1] * len(shape), torch.nan, dtype=torch.float64)
    return compact(known) if known.shape == shape else known
