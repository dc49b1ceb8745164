"""Rules say how channels flow through one family of ops; a table finds the rule of a node."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from slimgraph.errors import DuplicateRuleError
from slimgraph.labels import Ledger, Read, Shape, Value, along, compact, varying
from slimgraph.op_names import canonical, is_pointwise, name_of

ALL = ("*",)


@dataclass(frozen=True, slots=True)
class ModuleForm:
    """How a torch.nn module spells an op.

    Attributes:
        types: Module classes.
        parameters: Attributes passed to the rule as values, under these names; `ALL` passes
            every parameter.
        options: Attributes passed to the rule as plain keyword arguments.
        sizes: Sets the size attributes of a sliced module.
    """

    types: tuple[type[nn.Module], ...]
    parameters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    sizes: Callable[[Any], None] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """How channels flow through one family of ops.

    Attributes:
        names: Canonical op names: `conv2d` stands for `F.conv2d`, `torch.conv2d` and
            `torch.ops.aten.conv2d.default`; `add` also for `+`, `+=` and `Tensor.add_`. Or the
            op itself: a function, an autograd function's class, or a `torch.library.custom_op`.
        kind: The word reports use.
        flow: `(site, *arguments) -> value` in the op's own argument order.
        forms: The torch.nn modules that spell the op.
        resize: Recomputes literal sizes in a node's arguments; see `passes/resize_literals.py`.
        over_kept: For ops that read their first argument's channels but for which zero is not the
            same as absent: `(input, removed, *arguments)` computes the op over the kept ones.
    """

    names: tuple[Any, ...]
    kind: str
    flow: Callable[..., Any]
    forms: tuple[ModuleForm, ...] = ()
    resize: "Callable[[Call], None] | None" = None
    over_kept: Callable[..., Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """One node as a rule sees it, with the ledger to write into and the values before it."""

    node: fx.Node
    ledger: Ledger
    values: Mapping[fx.Node, Any] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """The shape of the node's (first) result."""
        value = self.node.meta["val"]
        while isinstance(value, tuple | list):
            value = value[0]
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    def value(self, *layers: Tensor) -> Value:
        """Make the node's result from layers of its shape."""
        return Value(self.shape, layers, node=self.node)

    def layers(self, value: Value, without: Container[int] = ()) -> tuple[Tensor, ...]:
        """Return a value's layers; each dim of a bare parameter, but some, carries channels."""
        if value.parameter is None:
            return value.layers
        dims = [dim for dim, size in enumerate(value.shape) if size > 1 and dim not in without]
        return tuple(along(self.open(value, dim), dim, value.shape) for dim in dims)

    def carried(self, value: Value) -> Value:
        """Return a bare parameter as a value that carries its channels; others as they are."""
        if value.parameter is None:
            return value
        return Value(value.shape, self.layers(value), node=value.node)

    def open(self, value: Value, dim: int, role: str = "bare") -> Tensor:
        """Return the labels along a dim of a weight; those of a parameter may start here."""
        if value.parameter is not None:
            axis = (value.parameter, dim)
            return self.ledger.open(axis, (value.shape[dim],), role, self.node)
        labels = self.vector(value, dim)
        return torch.zeros(value.shape[dim], dtype=torch.long) if labels is None else labels

    def bind(self, value: Value | None, dim: int, labels: Tensor, role: str) -> None:
        """Tie labels to a dim of a weight, be it a parameter or computed."""
        if value is None:
            return
        if value.parameter is not None:
            self.ledger.place((value.parameter, dim), labels, role, self.node)
        elif labels.ndim > 1:
            self.freeze(value, "a computed weight of a grouped convolution")
            self.ledger.freeze(labels, self.node, "a computed weight of a grouped convolution")
        else:
            self.ledger.couple(self.open(value, dim), labels, self.node)

    def vector(self, value: Value, dim: int) -> Tensor | None:
        """Return one label per index of a dim; labels that share an index are coupled."""
        dim %= max(value.ndim, 1)
        layer = value.layer(dim)
        if layer is None:
            return None
        if varying(layer) == (dim,):
            return compact(layer).reshape(-1)
        rows = compact(layer).movedim(dim, 0).reshape(value.shape[dim], -1)
        first: Tensor = rows[:, 0]
        if rows.shape[1] > 1:
            self.ledger.couple(first[:, None], rows[:, 1:], self.node)
        return first

    def read(
        self, value: Value, weight: Value | None = None, dim: int = 0, fill: float = 0
    ) -> None:
        """Note that the channels of a value end here, at a dim of a weight if there is one.

        Args:
            value: What is read.
            weight: What is contracted with it.
            dim: The dim of the weight along which it reads.
            fill: What stands for a channel that this op ignores, such as -inf for a maximum.
        """
        name = weight.parameter if weight is not None else None
        self.ledger.reads.append(Read(self.node, value, name, dim, fill))

    def counts_channels(self, size: Any) -> bool:
        """Return whether a size among the node's arguments depends on a number of channels."""
        if not isinstance(size, fx.Node):
            return False
        origin, dim = _measured(size)
        source = None if origin is None else self.values.get(origin)
        if not isinstance(source, Value):
            sizes = (n for n in size.all_input_nodes if not isinstance(n.meta["val"], Tensor))
            return any(self.counts_channels(each) for each in sizes)
        if dim is None or source.parameter is not None:
            return bool(source.layers) or source.parameter is not None
        return source.layer(dim % source.ndim) is not None

    def heads(self, rows: Tensor, name: str, index: int = 0) -> Tensor:
        """Make one new label per block of labels: it stands for the whole block.

        Args:
            rows: Labels; those along the last dim form a block.
            name: Of the new channels.
            index: Tells them apart from others of that name.

        Returns:
            Shape: that of the rows without the last dim.
        """
        shape = tuple(rows.shape[:-1])
        heads = self.ledger.open((name, index), shape, "created", self.node)
        self.ledger.block(rows.flatten(0, -2), self.node, heads.reshape(-1, 1), heads=True)
        return heads

    def freeze(self, value: Any, message: str) -> None:
        """Keep every channel of a value, or of several."""
        for each in value if isinstance(value, list) else [value]:
            self.ledger.freeze_value(each, self.node, message)

    def without(self, value: Value, dims: Iterable[int], message: str) -> tuple[Tensor, ...]:
        """Return the layers that vary in none of the dims; the others are frozen."""
        dims = frozenset(dims)
        passed = []
        for layer in value.layers:
            if dims.isdisjoint(varying(layer)):
                passed.append(layer)
            else:
                self.ledger.freeze(layer, self.node, message)
        return tuple(passed)


def _measured(size: fx.Node) -> tuple[fx.Node | None, int | None]:
    """Return what a size is read from, and of which dim; `None` where that is not plain."""
    source, dim = (*size.args, None, None)[:2]
    if canonical(size.target) == "getitem" and isinstance(source, fx.Node):
        source = next(iter(source.args), None)  # of its shape
    return source if isinstance(source, fx.Node) else None, dim if isinstance(dim, int) else None


def is_fixed(size: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Return whether a size is the same for every input: it counts channels before any left."""
    origin, dim = _measured(size)
    source = None if origin is None else values.get(origin)
    if isinstance(source, Value):
        if source.parameter is not None:
            return True
        return dim is not None and source.layer(dim % source.ndim) is not None
    return all(
        not isinstance(n.meta["val"], Tensor) and is_fixed(n, values) for n in size.all_input_nodes
    )


class Kept(Protocol):
    """What is left of every value, as `Rule.resize` asks for it."""

    def shape(self, node: fx.Node, item: int | None = None) -> Shape:
        """Return the new shape of a node's value, or of one item of it."""
        ...

    def positions(self, node: fx.Node, dim: int) -> Tensor | None:
        """Return the kept positions along a dim; `None` if all are."""
        ...

    def value(self, node: fx.Node, item: int | None = None) -> Value:
        """Return what the analysis knows of a node's value, or of one item of it."""
        ...

    def groups(self, parameter: str) -> int | None:
        """Return the number of groups left in a grouped weight; `None` if all are."""
        ...


POSITIONS = "_positions"  # ends the names of constants that a compressed graph holds


@dataclass(slots=True)
class Call:
    """One call while its literals are rewritten; mutable, it lives for one `resize`.

    Attributes:
        name: Canonical name of the op; of a module its class in lower case.
        node: The call in the graph before, with its shapes.
        args: The arguments in the new graph.
        kwargs: The keyword arguments in the new graph.
        kept: What is left of every value.
        graph: The new graph, for nodes that compute sizes.
        target: What the new graph calls.
        module: What is called if it is a module.
        weight: Name of its weight.
        instead: The node that users read from now on, if the call is not needed any more.
        constants: Tensors that the new graph holds besides, by name.
        repack: Whether ops that mix neighbouring channels may get other neighbours.
    """

    name: str
    node: fx.Node
    args: list[Any]
    kwargs: dict[str, Any]
    kept: Kept
    graph: fx.Graph
    target: Any
    module: Any = None
    weight: str | None = None
    instead: fx.Node | None = None
    constants: dict[str, Tensor] = field(default_factory=dict)
    repack: bool = False

    def constant(self, tensor: Tensor) -> fx.Node:
        """Let the new graph hold a tensor that only this call reads."""
        root = self.node.graph.owning_module
        name = self.node.name + POSITIONS
        while hasattr(root, name) and name not in vars(root)["_non_persistent_buffers_set"]:
            name += "_"  # the model has something else of that name
        self.constants[name] = tensor
        return self.graph.create_node("get_attr", name, name=name)

    def become(self, target: Callable[..., Any], *args: Any) -> None:
        """Turn the call into another function."""
        self.target, self.args, self.kwargs = target, list(args), {}

    @property
    def new_input(self) -> Any:
        """The first argument in the new graph."""
        return self.args[0] if self.args else self.kwargs["input"]

    @property
    def input(self) -> fx.Node:
        """The first argument in the graph before."""
        first = self.node.args[0] if self.node.args else self.node.kwargs["input"]
        assert isinstance(first, fx.Node)
        return first

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def set(self, position: int, name: str, value: Any) -> None:
        """Replace an argument where it stands."""
        if len(self.args) > position:
            self.args[position] = value
        else:
            self.kwargs[name] = value

    def groups_left(self) -> int | None:
        """Return the groups left in the weight of a convolution; `None` if all are."""
        given = self.node.args[1] if len(self.node.args) > 1 else self.node.kwargs.get("weight")
        if not isinstance(given, fx.Node):
            return None if self.weight is None else self.kept.groups(self.weight)
        weight = self.kept.value(given)
        if weight.parameter is not None:
            return self.kept.groups(weight.parameter)
        depthwise = weight.shape[0] == self.get(6, "groups", 1) > 1
        return self.kept.shape(given)[0] if depthwise else None


def compute(graph: fx.Graph, function: Callable[..., Any], *args: Any) -> fx.Node:
    """Add a node on the way to a resized call."""
    return graph.create_node("call_function", function, args, name="kept_size")


class RuleTable:
    """An immutable table of rules; two rules for one op are an error.

    Args:
        rules: The rules; extend by value: `RuleTable((*default_rules(), my_rule))`.
        pointwise: The rule of ops that torch itself tags as point-wise.

    Raises:
        DuplicateRuleError: Two rules claim one name or module type.
    """

    def __init__(self, rules: Iterable[Rule], pointwise: Rule | None = None) -> None:
        self.rules = tuple(rules)
        self.pointwise = pointwise
        self.by_name: dict[str, Rule] = {}
        self.by_type: dict[type[nn.Module], tuple[Rule, ModuleForm]] = {}
        for rule in self.rules:
            for name in rule.names:
                self._claim(self.by_name, name_of(name), rule)
            for form in rule.forms:
                for kind in form.types:
                    self._claim(self.by_type, kind, (rule, form))

    def plus(self, *rules: Rule) -> "RuleTable":
        """Return a table that has further rules.

        Raises:
            DuplicateRuleError: One of them claims an op that has a rule.
        """
        return RuleTable((*self.rules, *rules), self.pointwise)

    def _claim(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if key in table:
            name = key if isinstance(key, str) else key.__name__
            raise DuplicateRuleError(
                f"two rules claim `{name}`", hint="remove one of them from the table"
            )
        table[key] = value

    def for_function(self, target: Any) -> Rule | None:
        """Find the rule of a called function or method."""
        name = canonical(target)
        found = self.by_name.get(name)
        if found is None and self.pointwise is not None and is_pointwise(name):
            return self.pointwise
        return found

    def for_module(self, module: nn.Module) -> tuple[Rule, ModuleForm] | None:
        """Find the rule of a module that computes what a torch.nn class computes."""
        for kind in type(module).__mro__:
            if kind in self.by_type:
                return self.by_type[kind] if _computes_as(module, kind) else None
        return None

    def form_of(self, module: nn.Module) -> ModuleForm | None:
        """Find the size attributes of a module, whatever its forward does."""
        for kind in type(module).__mro__:
            if kind in self.by_type:
                return self.by_type[kind][1]
        return None


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Check that neither a subclass nor the instance has a forward of its own."""
    names = ("forward", "_conv_forward", "__call__")
    own = type(module)
    same = own is kind or all(getattr(own, n, None) is getattr(kind, n, None) for n in names)
    return same and "forward" not in vars(module)


def values_in(*arguments: Any) -> list[Value]:
    """Collect the tensors among nested arguments."""
    found: list[Value] = []
    for each in arguments:
        if isinstance(each, Value):
            found.append(each)
        elif isinstance(each, tuple | list | dict):
            found += values_in(*(each.values() if isinstance(each, dict) else each))
    return found
