"""Order channels so that what consumers select of them lies side by side."""

import operator
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, fx

from slimgraph.analysis import analyze
from slimgraph.calls import calls_of
from slimgraph.graph import DependencyGraph
from slimgraph.intervals import side_by_side
from slimgraph.labels import Value, compact, varying
from slimgraph.ops import DEFAULT_TABLE
from slimgraph.ops.selection import picked_by, slice_of
from slimgraph.pass_manager import Pass, PassResult, clone
from slimgraph.passes.slice_parameters import SliceParameters
from slimgraph.plan import Plan
from slimgraph.remedies import SINGLE
from slimgraph.rules import POSITIONS, RuleTable
from slimgraph.selection import select
from slimgraph.shapes import device_of, names_of, propagate, stored_tensors


@dataclass(frozen=True)
class ReorderChannels(Pass):
    """Turn gathers into slices by giving the channels they read another order.

    ::

        %bn1_in_positions = get_attr[target=bn1_in_positions]
        %bn1_in = call_function[target=torch.index_select](args = (%stream, 1, %bn1_in_positions))

    becomes

        %bn1_in = call_function[target=operator.getitem](args = (%stream, (:, slice(4, 8))))

    Every parameter that makes or reads the channels is permuted alike, and the plan of the model,
    if it has one, says so. Channels stay where they are if their order matters anywhere else:
    where they are joined, split or shuffled, reach an input or output, form blocks, or meet an op
    that looks at neighbours. `reasons` tells. If selections overlap so that not all of them can lie
    side by side, those that copy most come first.

    Attributes:
        rules: How channels flow through ops.
    """

    rules: RuleTable = DEFAULT_TABLE
    name: ClassVar[str] = "reorder-channels"

    def rewrite(self, graph_module: fx.GraphModule) -> PassResult:
        """Permute the parameters, then say where the selected positions are now."""
        if not any(picked_by(node) for node in graph_module.graph.nodes):
            return PassResult(graph_module, modified=False)
        layouts = [each for each in _Streams(graph_module, self.rules).layouts() if each.gained > 0]
        if not layouts:
            return PassResult(graph_module, modified=False)
        permuted = _permutation(graph_module, layouts)
        result = SliceParameters(permuted).rewrite(graph_module).graph_module
        nodes = {node.name: node for node in result.graph.nodes}
        for layout in layouts:
            for name, dim, positions in layout.picks:
                _take(result, nodes[name], dim, positions)
        result.recompile()
        _follow(graph_module, result, permuted)
        return PassResult(result, modified=True, removed=sum(each.gained for each in layouts))


def reasons(graph_module: fx.GraphModule, rules: RuleTable = DEFAULT_TABLE) -> dict[str, str]:
    """Say, by node, why the pass leaves a gather of channels as it is."""
    streams = _Streams(ReorderChannels(rules).rewrite(graph_module).graph_module, rules)
    found = {}
    for stream in streams.all():
        for pick in stream:
            if slice_of(pick.positions, pick.dim) is None:
                why = streams.fixed(pick.source) or streams.fixed(pick.own)
                found[pick.node.name] = why or "lies across other selections of these channels"
    return found


class _Pick(NamedTuple):
    """A node that takes positions out of channels, and the channels its result counts as."""

    node: fx.Node
    dim: int
    positions: Tensor
    source: tuple[int, ...]
    own: tuple[int, ...]

    @property
    def copied(self) -> int:
        """How many numbers a gather copies."""
        return int(self.node.meta["val"].numel())


class _Layout(NamedTuple):
    """New positions for the channels of some parameters, and of nodes that pick.

    Attributes:
        orders: Old positions in their new order, by the channels these were.
        picks: Node, dim and positions.
        gained: How many gathers become slices.
    """

    orders: dict[tuple[int, ...], Tensor]
    axes: list[tuple[str, int, Tensor]]
    picks: list[tuple[str, int, Tensor]]
    gained: int


class _Streams:
    """Finds channels of which several nodes pick some."""

    def __init__(self, graph_module: fx.GraphModule, rules: RuleTable) -> None:
        twin = clone(graph_module)
        self.taken = {
            node: taken for node in twin.graph.nodes if (taken := picked_by(node)) is not None
        }
        self.forks = {node: _fork_behind(node, dim) for node, (dim, _) in self.taken.items()}
        twin.recompile()
        self.graph: DependencyGraph = analyze(twin, rules=rules)

    def all(self) -> list[list[_Pick]]:
        """Return the picks, grouped by the channels they pick from."""
        found: dict[tuple[int, ...], list[_Pick]] = defaultdict(list)
        own = {fork: labels for fork, labels, _ in self.graph.ledger.selections}
        for node, (dim, positions) in self.taken.items():
            value, fork = self.graph.values[node.args[0]], self.forks[node]
            inside = positions[positions < value.shape[dim]]
            layer = value.layer(dim % value.ndim)
            if layer is not None and len(varying(layer)) == 1:
                source = self._channels(layer)
                labels = self._channels(own[fork]) if fork in own else ()  # of a single channel
                found[source].append(_Pick(node, dim % value.ndim, inside, source, labels))
        return list(found.values())

    @cached_property
    def _chained(self) -> set[tuple[int, ...]]:
        """Channels that a node picks and others pick from: all would have to move at once."""
        streams = self.all()
        picked = {pick.own for stream in streams for pick in stream}
        return picked & {stream[0].source for stream in streams}

    def _channels(self, labels: Tensor) -> tuple[int, ...]:
        return tuple(self.graph.component[compact(labels).flatten()].tolist())

    def layouts(self) -> Iterator[_Layout]:
        """Yield a better order for every stream that can have one."""
        for stream in self.all():
            if self.fixed(stream[0].source) is None:
                yield self._layout(stream)

    def _layout(self, stream: list[_Pick]) -> _Layout:
        free = (pick for pick in stream if self.fixed(pick.own) is None)
        ranked = sorted(free, key=lambda pick: -pick.copied)
        source = stream[0].source
        sets = [frozenset(pick.positions.tolist()) for pick in ranked]
        order = torch.tensor(side_by_side(len(source), sets))
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        orders, picks, gained, saved = {source: order}, [], 0, 0
        for pick in stream:
            moved = rank[pick.positions]
            if self.fixed(pick.own) is None and slice_of(moved.sort().values, pick.dim) is not None:
                orders[pick.own] = moved.argsort()  # of no channels, no axis is found
                moved = moved.sort().values
            is_slice, was_slice = (
                slice_of(each, pick.dim) is not None for each in (moved, pick.positions)
            )
            gained += is_slice - was_slice
            saved += (is_slice - was_slice) * pick.copied
            picks.append((pick.node.name, pick.dim, moved))
        axes = [(name, dim, orders[own]) for own in orders for name, dim in self._axes[own]]
        return _Layout(orders, axes, picks, gained if saved > 0 else 0)

    @cached_property
    def _axes(self) -> dict[tuple[int, ...], list[tuple[str, int]]]:
        """The dims of parameters that hold each row of channels."""
        found: dict[tuple[int, ...], list[tuple[str, int]]] = defaultdict(list)
        for axis in self.graph.ledger.axes.values():
            if axis.labels.ndim == 1:
                found[self._channels(axis.labels)].append((axis.parameter, axis.dim))
        return found

    @cached_property
    def _places(self) -> dict[int, list[tuple[tuple[int, ...], str]]]:
        """By channel: the rows of channels it stands in, and where; or why it has to stay."""
        found: dict[int, list[tuple[tuple[int, ...], str]]] = defaultdict(list)
        for row, where in (*self._rows_of_axes(), *self._rows_of_values()):
            for channel in set(row):
                found[channel].append((row, where))
        return found

    def _rows_of_axes(self) -> Iterator[tuple[tuple[int, ...], str]]:
        for axis in self.graph.ledger.axes.values():
            if axis.labels.ndim == 1 or axis.labels.shape[1] == 1:
                yield self._channels(axis.labels), f"dim {axis.dim} of `{axis.parameter}`"

    def _rows_of_values(self) -> Iterator[tuple[tuple[int, ...], str]]:
        for node in self.graph.traced.graph.nodes:
            for value in self.graph.values_at(node) if node not in self.taken else ():
                for layer in value.layers:
                    yield self._channels(layer), f"`%{node.name}`"

    @cached_property
    def _held(self) -> dict[int, str]:
        """Channels whose order matters, and why."""
        found: dict[int, str] = {}
        for labels, why in self._ordered():
            found.update(dict.fromkeys(self._channels(labels), why))
        return found

    def _ordered(self) -> Iterator[tuple[Tensor, str]]:
        ledger = self.graph.ledger
        for freeze in ledger.frozen:
            if freeze.message != SINGLE and freeze.node not in self.taken:
                yield (
                    freeze.labels,
                    f"`%{freeze.node.name}` keeps some of the channels where they are",
                )
        yield from ((block.labels, _order(block.node, "blocks")) for block in ledger.blocks)
        yield from ((layer, _order(node, "neighbours")) for node, layer in ledger.neighbours)
        for node, kind in self.graph.kinds.items():
            sources = () if kind in _ORDERLESS else node.all_input_nodes
            for value in (value for source in sources for value in self._values(source)):
                yield from ((layer, _order(node, "neighbours")) for layer in value.layers)

    def _values(self, node: fx.Node) -> list[Value]:
        return self.graph.values_at(node) if node in self.graph.values else []

    def fixed(self, row: tuple[int, ...]) -> str | None:
        """Say what keeps a row of channels from being permuted; `None` if nothing does."""
        if len(set(row)) < len(row) or int(self.graph.component[0]) in row:
            return "some of the channels count as one, or are none"
        if row in self._chained:
            return "they are selected, and others are selected of them"
        for channel in row:
            if channel in self._held:
                return self._held[channel]
            other = next((where for own, where in self._places[channel] if own != row), None)
            if other is not None:
                return f"{other} holds them in another order, with others, or only some"
        return None


_ORDERLESS = frozenset(
    {"contraction", "norm", "element-wise", "pool", "reduction", "movement", "selection", "size",
     "created", "input", "output", "parameter"}
)  # fmt: skip


def _order(node: fx.Node, what: str) -> str:
    return f"`%{node.name}` looks at {what} of them"


def _fork_behind(node: fx.Node, dim: int) -> fx.Node:
    """Let the users of a pick read channels of their own."""
    graph = node.graph
    with graph.inserting_after(node):
        fork = graph.call_function(select, (node, dim, f"{node.name}[in]"))
    fork.meta = dict(node.meta)
    node.replace_all_uses_with(fork, lambda user: user is not fork)
    return fork


def _permutation(graph_module: fx.GraphModule, layouts: list[_Layout]) -> Plan:
    stored = stored_tensors(graph_module)
    names = names_of(stored)
    kept: dict[str, list[Tensor | None]] = {}
    for name, dim, order in (axis for layout in layouts for axis in layout.axes):
        for alias in names[id(stored[name])] if name in stored else ():
            kept.setdefault(alias, [None] * stored[name].ndim)[dim] = order
    sizes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    return Plan({name: tuple(entries) for name, entries in kept.items()}, sizes)


def _take(result: fx.GraphModule, node: fx.Node, dim: int, positions: Tensor) -> None:
    """Let a node pick other positions."""
    earlier, source = node.all_input_nodes[1:], node.args[0]
    index: Any = slice_of(positions, dim)
    if index is None:
        name = node.name + POSITIONS
        result.register_buffer(name, positions.to(device_of(result)), persistent=False)
        with result.graph.inserting_before(node):
            made = result.graph.create_node("get_attr", name)
        node.args = (source, dim, made)
    else:
        node.args = (source, index)
    node.op, node.kwargs = "call_function", {}
    node.target = torch.index_select if index is None else operator.getitem
    for old in earlier:
        if not old.users:
            result.graph.erase_node(old)
        if index is not None and old.target == node.name + POSITIONS:
            delattr(result, str(old.target))


def _follow(before: fx.GraphModule, result: fx.GraphModule, permuted: Plan) -> None:
    """Give the result its shapes and its plan."""
    inputs = [node.meta["val"] for node in before.graph.nodes if node.op == "placeholder"]
    propagate(result, *inputs)
    earlier = getattr(before, "plan", None)
    if earlier is not None:
        later = replace(permuted, examples=earlier.examples, leaves=earlier.leaves)
        vars(result)["plan"] = replace(earlier.then(later), calls=calls_of(result))
