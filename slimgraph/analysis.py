"""The label walk: one pass over the traced graph, in order, that runs it on labels."""

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from slimgraph.collecting import collector_paused
from slimgraph.errors import BudgetError, UnknownOpWarning, UnsupportedOpError
from slimgraph.functions import is_elementwise
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Heads, Ledger, Value
from slimgraph.naming import frozen_labels
from slimgraph.op_names import canonical
from slimgraph.opaque import is_opaque, passes_through
from slimgraph.ops import DEFAULT_TABLE
from slimgraph.ops.elementwise import IDENTITY
from slimgraph.remedies import ASKED, HOSTED, OUTPUT
from slimgraph.rules import ALL, ModuleForm, Rule, RuleTable, Site, values_in
from slimgraph.shapes import attribute, modules_of, names_of, place, stored_tensors
from slimgraph.structures import holds_tensor, is_record, map_tensors
from slimgraph.tracing import ensure_traced

# Reading these of a tensor says nothing about how many channels it has, or is resized later.
_HARMLESS = frozenset(
    {"getattr", "size", "dim", "ndimension", "sym_size", "is_floating_point", "is_complex",
     "get_device", "element_size", "is_contiguous", "isinstance"}
)  # fmt: skip
_TRANSPOSES = frozenset({"T", "mT"})


@collector_paused()
def analyze(
    traced: fx.GraphModule,
    *,
    rules: RuleTable | Sequence[Rule] = DEFAULT_TABLE,
    strict: bool = False,
    freeze: Sequence[str] = (),
    heads: Heads = "dims",
) -> DependencyGraph:
    """Find which channels of a traced model can only leave together.

    Args:
        traced: From `slimgraph.trace`; it is not changed.
        rules: How channels flow through ops: those that slimgraph lacks, or a whole table.
        strict: Raise at an op without a rule instead of freezing what touches it.
        freeze: Channels that stay, by name: of a group or module those it makes, of a parameter
            those of all its dims; `*` matches any part of a name.
        heads: What leaves of heads of attention that share a table (rotary positions) or a norm:
            `dims`, the same positions of all of them, or `whole` heads. Of others, both can.

    Returns:
        The groups of coupled channels, what freezes them, and where each one is stored.

    Raises:
        TraceError: The graph module has no shapes.
        DuplicateRuleError: One of the rules claims an op that has one already.
        UnsupportedOpError: With `strict`, an op has no rule.
        UnknownGroupError: `freeze` names nothing.
    """
    traced = ensure_traced(traced)
    rules = rules if isinstance(rules, RuleTable) else DEFAULT_TABLE.plus(*rules)
    if heads not in get_args(Heads):
        raise BudgetError(f"unknown heads `{heads}`", hint="use `dims` or `whole`")
    walk = Walk(traced, rules, strict=strict)
    walk.ledger.heads = heads
    for node in traced.graph.nodes:
        walk.values[node] = walk.visit(node)
    walk.ledger.close()
    for why, where in walk.missing.items():
        message = f"{why} at {where}; the channels it touches stay (docs/add-an-op.md)"
        warnings.warn(message, UnknownOpWarning, stacklevel=3)
    graph = DependencyGraph(traced, walk.ledger, walk.values, walk.kinds, rules)
    while ties := _ties_of_heads(graph):
        for left, right, node in ties:
            walk.ledger.couple(left, right, node)
        graph = DependencyGraph(traced, walk.ledger, walk.values, walk.kinds, rules)
    if not freeze:
        return graph
    for labels, node in frozen_labels(graph, freeze):
        walk.ledger.freeze(labels, node, ASKED)
    return DependencyGraph(traced, walk.ledger, walk.values, walk.kinds, rules)


def _ties_of_heads(graph: DependencyGraph) -> list[tuple[Tensor, Tensor, fx.Node]]:
    """Find what leaves together because of the blocks it stands for, or is, and is not tied.

    Labels of blocks that have channels in common do, such as heads of queries that share one head
    of keys. So does a label with its block if that is a single channel.
    """
    found = []
    for labels, node, partner, heads in graph.ledger.blocks:
        if not heads or partner is None:
            continue
        rows, tops = graph.component[labels], partner.flatten()
        single = (rows == rows[:, :1]).all(1) & (rows[:, 0] != graph.component[0])
        channels, order = rows.flatten().sort()
        owners = tops.repeat_interleave(rows.shape[1])[order]
        same = (channels[1:] == channels[:-1]) & (channels[1:] != graph.component[0])
        left = torch.cat([tops[single], owners[1:][same]])
        right = torch.cat([labels[single, 0], owners[:-1][same]])
        if bool((graph.component[left] != graph.component[right]).any()):
            found.append((left, right, node))
    return found


class Walk:
    """Holds the state of one label walk."""

    def __init__(self, traced: fx.GraphModule, rules: RuleTable, *, strict: bool) -> None:
        self.traced = traced
        self.rules = rules
        self.strict = strict
        self.ledger = Ledger()
        self.values: dict[fx.Node, Any] = {}
        self.kinds: dict[fx.Node, str] = {}
        self.missing: dict[str, str] = {}  # why an op has no rule, and where it is called first
        self.modules = modules_of(traced)
        self.names = parameter_names(traced, self.modules)

    def visit(self, node: fx.Node) -> Any:
        """Return what the labels say of a node's value."""
        if node.op == "placeholder":
            self.kinds[node] = "input"
            return _neutral(node, node.meta["val"])
        if node.op == "get_attr":
            self.kinds[node] = "parameter"
            return self.parameter(node, attribute(self.traced, str(node.target)))
        args, kwargs = self.arguments((node.args, node.kwargs))
        if node.op == "output":
            self.kinds[node] = "output"
            hosted = "regions" in self.traced.meta
            why = HOSTED if hosted else OUTPUT
            for value in values_in(args):
                self.ledger.freeze_value(value, node, why)
            return None
        if isinstance(node.target, type) and holds_tensor(node.meta["val"]):
            self.kinds[node] = "container"
            return values_in(args, kwargs)  # a class whose instance the model returns
        if not holds_tensor(node.meta["val"]) and node.target is not operator.setitem:
            self.kinds[node] = "size"
            if canonical(node.target) not in _HARMLESS:
                self.freeze(node, (args, kwargs), f"its size is read by `{canonical(node.target)}`")
            return None
        return self.call(node, args, kwargs)

    def call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Apply the rule of a call; without one, freeze what touches it."""
        if node.target is getattr and is_record(args[0]) and not isinstance(args[0], Value):
            self.kinds[node] = "movement"  # a field of a structure of tensors
            return getattr(*args)
        rule, kwargs = self.rule(node, args, kwargs)
        if rule is None:
            return self.unknown(node, (args, kwargs))
        self.kinds[node] = rule.kind
        try:
            value = rule.flow(Site(node, self.ledger, self.values), *args, **kwargs)
            other = isinstance(value, Value) and value.node is not node
            return replace(value, node=node) if other else value
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            message = f"the rule of `{_name(node)}` cannot read this call: {error}"
            self.freeze(node, (args, kwargs), message)
            return _neutral(node, node.meta["val"])

    def rule(self, node: fx.Node, args: Any, kwargs: Any) -> tuple[Rule | None, Any]:
        """Find the rule; a module's parameters and options become keyword arguments."""
        if node.op != "call_module":
            if node.target is getattr and args[1] in _TRANSPOSES:
                return self.rules.for_function(args[1]), kwargs
            if node.target is getattr and isinstance(args[0], tuple):  # `x.sort(2).values`
                return self.rules.for_function("getitem"), kwargs
            known = self.rules.for_function(node.target)
            if known is None and is_elementwise(node, self.rules):
                known = self.rules.pointwise
            return known, kwargs
        module = self.modules[str(node.target)]
        found = self.rules.for_module(module)
        if found is None and len(node.args) == 1 and not kwargs:
            given = node.args[0].meta["val"] if isinstance(node.args[0], fx.Node) else None
            if isinstance(given, Tensor) and passes_through(module, given):
                return IDENTITY, kwargs
        if found is None or not _plain(module, found[1]):
            return None, kwargs
        rule, form = found
        given = {
            name: self.parameter(node, stored)
            for name in (module._parameters if form.parameters == ALL else form.parameters)
            if (stored := _held(module, name)) is not None
        }
        return rule, {**kwargs, **given, **{name: getattr(module, name) for name in form.options}}

    def unknown(self, node: fx.Node, arguments: Any) -> Any:
        """Freeze what an op without a rule touches."""
        if self.strict:
            raise UnsupportedOpError(
                self.why_unknown(node),
                place(node),
                "add a rule (docs/add-an-op.md), or drop `strict=True` to keep its channels",
            )
        self.kinds[node] = "unknown"
        if node.op == "call_module":
            self.pin(node)
        if any(value.layers or value.parameter for value in values_in(arguments)):
            self.freeze(node, arguments, self.why_unknown(node))
            if not self.is_leaf(node):
                self.missing.setdefault(self.why_unknown(node), place(node))
        return _neutral(node, node.meta["val"])

    def is_leaf(self, node: fx.Node) -> bool:
        """Return whether a call is a submodule of the user's that was not looked into."""
        return node.op == "call_module" and is_opaque(self.modules[str(node.target)])

    def pin(self, node: fx.Node) -> None:
        """Keep the parameters of a module that is not looked into; others may share them."""
        module = self.traced.get_submodule(str(node.target))
        for tensor in chain(module.parameters(), module.buffers()):
            self.ledger.freeze_value(self.parameter(node, tensor), node, self.why_unknown(node))

    def why_unknown(self, node: fx.Node) -> str:
        """Say why a node has no rule."""
        name = _name(node)
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if str(node.target) in self.traced.meta.get("leaves", {}):
                reason = self.traced.meta["leaves"][str(node.target)]
                return f"`{node.target}`, a `{name}`, is an opaque leaf: {reason}"
            if self.rules.for_module(module) is not None:
                return f"this `{name}` has hooks or computed weights, which may do anything"
        return f"no rule says how channels flow through `{name}`"

    def freeze(self, node: fx.Node, arguments: Any, message: str) -> None:
        """Keep every channel among the arguments."""
        for value in values_in(arguments):
            self.ledger.freeze_value(value, node, message)

    def arguments(self, arguments: Any) -> Any:
        """Replace nodes by what is known of their tensors, or by their plain values."""

        def known(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            value = self.values[argument]
            return argument.meta["val"] if value is None else value

        return map_aggregate(arguments, known)

    def parameter(self, node: fx.Node, stored: Any) -> Value | None:
        """Make the value of a stored tensor, under one name if it is shared."""
        if not isinstance(stored, Tensor):
            return None
        known = self.names.get(id(stored))
        return Value(tuple(stored.shape), parameter=known, node=node)


def parameter_names(
    module: nn.Module, modules: Mapping[str, nn.Module] | None = None
) -> dict[int, str]:
    """Map the identity of every parameter and buffer to its first name."""
    stored = stored_tensors(module, modules)
    return {tensor: names[0] for tensor, names in names_of(stored).items()}


def _plain(module: nn.Module, form: ModuleForm) -> bool:
    """Refuse modules whose parameters are computed on the fly, or replaced by hooks."""
    if module._forward_pre_hooks or module._forward_hooks:
        return False
    stores = module._parameters, module._buffers
    return all(
        name in stores[0] or name in stores[1] or not hasattr(module, name)
        for name in form.parameters
    )


def _held(module: nn.Module, name: str) -> Tensor | None:
    """Return a parameter or buffer of a module itself; `getattr` takes thrice as long."""
    found = module._parameters.get(name)
    return module._buffers.get(name) if found is None else found


def _name(node: fx.Node) -> str:
    if node.op == "call_module":
        module = node.graph.owning_module
        assert module is not None
        return type(module.get_submodule(str(node.target))).__name__
    return canonical(node.target)


def _neutral(node: fx.Node, value: Any) -> Any:
    """Make values in which nothing can leave."""
    return map_tensors(lambda tensor: Value(tuple(tensor.shape), node=node), value)
