"""Let consumers of a shared value select channels of it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

from torch import Tensor, fx

from slimgraph.analysis import analyze
from slimgraph.errors import UnknownGroupError
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Value, compact, varying
from slimgraph.ops import DEFAULT_TABLE
from slimgraph.ops.elementwise import IDENTITY
from slimgraph.ops.overwriting import overwrites
from slimgraph.pass_manager import Pass, PassResult, clone
from slimgraph.rules import RuleTable
from slimgraph.selection import select


@dataclass(frozen=True)
class SelectChannels(Pass):
    """Put a fork in front of chains that read channels which others read too.

    In a pre-activation ResNet or a DenseNet a block starts with a norm of its own on a value that
    many blocks read, so to spare this block a channel, all of them had to lose it::

        %stream = call_function[target=operator.add](args = (%x, %body))
        %bn1 = call_module[target=bn1](args = (%stream,))

    becomes

        %stream = call_function[target=operator.add](args = (%x, %body))
        %bn1_in = call_function[target=slimgraph.selection.select](args = (%stream, 1, bn1[in]))
        %bn1 = call_module[target=bn1](args = (%bn1_in,))

    A fork returns its input. The analysis gives its result a group of its own, `bn1[in]`, and
    `compress` turns it into a slice or a gather, or drops it if nothing is left out.

    Attributes:
        at: Modules whose input becomes a selection. `None` takes every chain of point-wise ops
            that leads to convolutions or linear layers alone and starts with an activation or a
            batch norm, where others read the same channels.
        rules: How channels flow through ops.
    """

    at: tuple[str, ...] | None = None
    rules: RuleTable = DEFAULT_TABLE
    name: ClassVar[str] = "select-channels"

    def rewrite(self, graph_module: fx.GraphModule) -> PassResult:
        """Insert the forks."""
        chains = _Chains(analyze(graph_module, rules=self.rules))
        found = list(chains.worthwhile() if self.at is None else chains.named(self.at))
        if not found:
            return PassResult(graph_module, modified=False)
        result = clone(graph_module)
        twins = {node.name: node for node in result.graph.nodes}
        for start in found:
            insert_fork(twins[start.source.name], twins[start.node.name], start.dim, start.name)
        result.recompile()
        return PassResult(result, modified=True)


def with_selections(traced: fx.GraphModule, at: Sequence[str] | None = None) -> fx.GraphModule:
    """Let consumers of shared values lose channels that other consumers keep.

    Args:
        traced: From `slimgraph.trace`; it is not changed.
        at: Modules whose input becomes a selection; by default those in front of which it can
            pay, see `slimgraph.passes.select_channels.SelectChannels`.

    Returns:
        A traced model that computes the same, with one more group per selection, named after
        its consumer: `layer1.0.bn1[in]`.

    Raises:
        UnknownGroupError: `at` names a module that reads no channels.
    """
    return SelectChannels(None if at is None else tuple(at)).rewrite(traced).graph_module


def insert_fork(source: fx.Node, consumer: fx.Node, dim: int, name: str) -> fx.Node:
    """Let a consumer read a value through a fork."""
    graph = consumer.graph
    with graph.inserting_before(consumer):
        fork = graph.create_node(
            "call_function", select, (source, dim, name), name=name.replace("[in]", "_in")
        )
    fork.meta = {"val": source.meta["val"], "source": consumer.meta.get("source", "")}
    consumer.replace_input_with(source, fork)
    return fork


class _Start(NamedTuple):
    """The first op of a chain, what it reads, and the dim of the channels."""

    node: fx.Node
    source: fx.Node
    dim: int
    name: str


@dataclass(frozen=True, eq=False)
class _Chains:
    """Finds chains of ops that read channels of a value."""

    graph: DependencyGraph
    _ends: dict[fx.Node, frozenset[fx.Node] | None] = field(default_factory=dict)
    _starts: set[fx.Node] = field(default_factory=set)

    def worthwhile(self) -> Iterator[_Start]:
        """Yield the chains that could do without channels which others need."""
        for node in self.graph.traced.graph.nodes:
            source = self._starts_from(node)
            ends = None if source is None else self._reached(node)
            if source is None or ends is None:
                continue
            dim = self._dim(source)
            if dim is not None and self._is_shared(source, ends) and not self._inside(source):
                self._starts.add(node)
                yield _Start(node, source, dim, f"{self._module(node)}[in]")

    def _inside(self, source: fx.Node) -> bool:
        """Return whether a value belongs to a chain that has a fork already."""
        step: fx.Node | None = source
        while step is not None and self.graph.kinds[step] in _PASSING:
            if step in self._starts:
                return True
            step = self._only_input(step)
        return step is not None and step.target is select

    def named(self, at: Sequence[str]) -> Iterator[_Start]:
        """Yield the calls of modules."""
        for name in at:
            calls = [n for n in self.graph.traced.graph.nodes if _calls(n, name)]
            found = [
                (node, source)
                for node in calls
                if (source := self._only_input(node)) is not None and self._copies(node)
            ]
            dims = [self._dim(source) for _, source in found]
            if not found or None in dims:
                raise UnknownGroupError(
                    f"`{name}` reads no channels that it could select",
                    hint="name a module that is called on one value, whose channels can be told, "
                    "and does not overwrite it",
                )
            for (node, source), dim in zip(found, dims, strict=True):
                if dim is not None and source.target is not select:
                    yield _Start(node, source, dim, f"{name}[in]")

    def _dim(self, source: fx.Node) -> int | None:
        """Return the one dim of a value that carries channels."""
        value = self.graph.values[source]
        if not isinstance(value, Value) or len(value.layers) != 1:
            return None
        dims = varying(value.layers[0])
        return dims[0] if len(dims) == 1 else None

    def _only_input(self, node: fx.Node) -> fx.Node | None:
        """Return the one computed value a call reads."""
        tensors = [
            n for n in node.all_input_nodes
            if isinstance(n.meta["val"], Tensor) and n.op != "get_attr"
        ]  # fmt: skip
        return tensors[0] if len(tensors) == 1 else None

    def _starts_from(self, node: fx.Node) -> fx.Node | None:
        """Return what a node reads if a fork could stand in front of it."""
        if self.graph.kinds[node] not in ("norm", "element-wise") or node in self._mixing:
            return None
        source = self._only_input(node)
        if source is None or source.target is select or not self._copies(node):
            return None
        return source

    def _copies(self, node: fx.Node) -> bool:
        """Return whether a node makes a new value; its input could be a copy as well, then."""
        if self.graph.kinds[node] not in _COPYING or overwrites(node, self.graph.traced):
            return False
        if node.op != "call_module":
            return self.graph.rules.for_function(node.target) is not IDENTITY
        found = self.graph.rules.for_module(self.graph.traced.get_submodule(str(node.target)))
        return found is not None and found[0] is not IDENTITY

    @cached_property
    def _mixing(self) -> set[fx.Node]:
        """Norms over channels, whose result depends on which there are."""
        return {read.node for read in self.graph.ledger.reads if read.weight is None}

    @cached_property
    def _weighted(self) -> set[fx.Node]:
        return {read.node for read in self.graph.ledger.reads if read.weight is not None}

    def _reached(self, node: fx.Node) -> frozenset[fx.Node] | None:
        """Return the contractions a chain ends in; `None` if it goes anywhere else."""
        if node not in self._ends:
            self._ends[node] = self._follow(node)
        return self._ends[node]

    def _follow(self, node: fx.Node) -> frozenset[fx.Node] | None:
        found: set[fx.Node] = set()
        for user in node.users:
            kind = self.graph.kinds[user]
            if kind == "size":
                continue
            if self._only_input(user) is None:
                return None
            if user in self._weighted:
                found.add(user)
                continue
            ends = self._reached(user) if kind in _PASSING and user not in self._mixing else None
            if ends is None:
                return None
            found |= ends
        return frozenset(found) or None

    def _is_shared(self, source: fx.Node, ends: frozenset[fx.Node]) -> bool:
        """Return whether others than a chain need the channels that it reads."""
        channels = self._channels(self.graph.values[source])
        frozen = bool(self.graph.frozen[list(channels)].any())
        return frozen or any(self._readers[channel] - ends for channel in channels)

    @cached_property
    def _readers(self) -> dict[int, set[fx.Node]]:
        """The nodes at which each channel ends."""
        found: dict[int, set[fx.Node]] = defaultdict(set)
        for read in self.graph.ledger.reads:
            for channel in self._channels(read.value):
                found[channel].add(read.node)
        return found

    def _channels(self, value: Value) -> set[int]:
        found = {
            c for x in value.layers for c in self.graph.component[compact(x)].unique().tolist()
        }
        return found - {int(self.graph.component[0])}

    def _module(self, node: fx.Node) -> str:
        """Name the first module of a chain, or its first node if there is none."""
        step = node
        while step.op != "call_module":
            users = [user for user in step.users if self.graph.kinds[user] != "size"]
            if step in self._weighted or not users:
                return node.name
            step = users[0]
        return str(step.target)


_COPYING = ("contraction", "norm", "element-wise", "pool", "reduction")
_PASSING = ("norm", "element-wise", "pool", "reduction", "movement")


def _calls(node: fx.Node, name: str) -> bool:
    return node.op == "call_module" and node.target == name
