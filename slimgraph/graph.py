"""The dependency graph: groups of channels that can only leave together, and why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from slimgraph.errors import UnknownGroupError
from slimgraph.groups import Explanation, Group, Member, Reason, module_of, unique_names
from slimgraph.labels import (
    MAKING,
    NOT_STORED,
    Axis,
    Freeze,
    Ledger,
    Value,
    compact,
    where_in_memory,
)
from slimgraph.rules import RuleTable
from slimgraph.selection import SelectedChannels
from slimgraph.shapes import stored_tensors


def components_of(pairs: list[tuple[Tensor, Tensor]], count: int) -> np.ndarray[Any, Any]:
    """Number the connected components of an undirected graph given by its edges."""
    left = torch.cat([torch.zeros(0, dtype=torch.long), *(pair[0] for pair in pairs)]).numpy()
    right = torch.cat([torch.zeros(0, dtype=torch.long), *(pair[1] for pair in pairs)]).numpy()
    ones = np.ones(len(left), dtype=np.int8)
    edges = coo_matrix((ones, (left, right)), shape=(count, count))
    found: np.ndarray[Any, Any] = connected_components(edges, directed=False)[1]
    return found


@dataclass(frozen=True, eq=False, repr=False)
class DependencyGraph:
    """Which channels of a traced model can only leave together.

    Attributes:
        traced: The model that was analysed.
        ledger: What the rules wrote down.
        values: The labels of every node's value.
        kinds: The kind of op of every node.
        rules: How channels flow through ops; they also resize what is compressed.
    """

    traced: fx.GraphModule
    ledger: Ledger
    values: dict[fx.Node, Any]
    kinds: dict[fx.Node, str]
    rules: RuleTable
    _cache: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def component(self) -> Tensor:
        """Per label, the channel it belongs to; 0 is what cannot leave. Shape: (labels,)."""
        found = components_of([(edge.left, edge.right) for edge in self.ledger.edges], self.size)
        return torch.from_numpy(found.astype(np.int64))

    @property
    def stored(self) -> dict[str, Tensor]:
        """Every parameter and buffer that the model holds now, by name."""
        return stored_tensors(self.traced)

    @property
    def size(self) -> int:
        """Number of labels."""
        return self.ledger.size

    @cached_property
    def frozen(self) -> Tensor:
        """Per channel, whether it has to stay. Shape: (channels,)."""
        frozen = torch.zeros(int(self.component.max()) + 1, dtype=torch.bool)
        frozen[self.component[0]] = True
        for freeze in self.ledger.frozen:
            frozen[self.component[freeze.labels]] = True
        return self.selected.with_sources(frozen)

    @cached_property
    def freezes(self) -> tuple[Freeze, ...]:
        """What keeps channels from leaving, and why."""
        message = "is selected here, where it cannot leave"
        found = list(self.ledger.frozen)
        for node, labels, source in self.ledger.selections:
            needed = source[self.frozen[self.component[labels]] & (source != 0)]
            found += [Freeze(needed, node, message)] if len(needed) else []
        return tuple(found)

    @cached_property
    def selected(self) -> SelectedChannels:
        """Channels that only one consumer reads, and those they are selected from."""
        pairs = [(each.labels, each.source) for each in self.ledger.selections]
        return SelectedChannels.of(pairs, self.component)

    @cached_property
    def group_index(self) -> Tensor:
        """Per channel, the position of its group in `groups`; -1 for none."""
        count, opened = len(self.frozen), [axis.labels.flatten() for axis in self.ledger.opened]
        own = self.component[torch.cat([torch.zeros(0, dtype=torch.long), *opened])]
        owners = np.repeat(np.arange(len(opened)), [len(labels) for labels in opened]) + count
        found = components_of([(own, torch.from_numpy(owners))], count + len(opened))[:count]
        absent = np.ones(count, dtype=bool)
        absent[own.numpy()] = False
        absent[int(self.component[0])] = True
        found[absent] = -1
        rank = np.full(found.max(initial=-1) + 2, -1)  # its last entry stands for no group
        groups = _distinct(found[self.component[1:].numpy()])
        rank[groups[groups >= 0]] = np.arange((groups >= 0).sum())
        return torch.from_numpy(rank[found])

    @cached_property
    def heads(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Channels that stand for blocks of others, shape (blocks,), and these, (blocks, size)."""
        found = []
        for block in self.ledger.blocks:
            if block.heads and block.partner is not None:
                heads, rows = self.component[block.partner.flatten()], self.component[block.labels]
                more = (rows != heads[:, None]).any(1)  # than that channel itself
                found.append((heads[more], rows[more]))
        return tuple(pair for pair in found if len(pair[0]))

    @cached_property
    def is_head(self) -> Tensor:
        """Per channel, whether it stands for a block of others. Shape: (channels,)."""
        found = torch.zeros(len(self.frozen), dtype=torch.bool)
        for heads, _ in self.heads:
            found[heads] = True
        return found

    def settled(self, keep: Tensor) -> Tensor:
        """Let blocks leave with the channels that stand for them, and the other way round.

        Selected channels leave with those they are selected from.

        Args:
            keep: Bool tensor, not changed. Shape: (channels,).
        """
        keep, before = keep.clone(), -1
        while int(keep.sum()) != before:
            before = int(keep.sum())
            used = ~self.is_head
            for heads, rows in self.heads:
                keep[rows[~keep[heads]]] = False
                used[heads[keep[rows].any(1)]] = True
            keep = self.selected.without_orphans(keep & used)
        return keep

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order in which the model makes them."""
        order = torch.from_numpy(_distinct(self.component.numpy()))
        order = order[self.group_index[order] >= 0]
        order = order[torch.argsort(self.group_index[order], stable=True)]
        sizes = torch.bincount(self.group_index[order]).tolist() if len(order) else []
        members = self._axes_of_groups(self.ledger.axes.values())
        opened = self._axes_of_groups(self.ledger.opened)
        reasons = self._reasons()
        names = unique_names(opened)
        return tuple(
            Group(
                names[i],
                size,
                tuple(Member(a.parameter, a.dim) for a in members[i] if a.role not in NOT_STORED),
                tuple(dict.fromkeys(
                    module_of(a.parameter) for a in members[i] if a.role in ("out", "bare")
                )),
                self.frozen[components],
                reasons[i],
                components,
            )
            for i, (size, components) in enumerate(zip(sizes, order.split(sizes), strict=True))
        )  # fmt: skip

    def groups_of(self, labels: Tensor) -> list[int]:
        """Return the positions in `groups` of the groups that labels belong to."""
        return self._groups_of_each([compact(labels)])[0]

    @cached_property
    def _group_of_label(self) -> Tensor:
        return self.group_index[self.component]

    def _groups_of_each(self, labels: Sequence[Tensor]) -> list[list[int]]:
        """Do the same for many label tensors at once."""
        places = [where_in_memory(each) for each in labels]
        distinct = dict(zip(places, labels, strict=True))
        found: list[list[int]] = [[] for _ in distinct]
        if not found:
            return []
        flat = [each.flatten() for each in distinct.values()]
        owners = np.repeat(np.arange(len(flat)), [len(each) for each in flat])
        index = self._group_of_label[torch.cat(flat)].numpy()
        count = int(self.group_index.max()) + 1
        keys = (owners * count + index)[index >= 0]
        keys = keys[np.diff(keys, prepend=-1) != 0]  # most of them repeat the one before
        for key in np.unique(keys).tolist():
            found[key // count].append(key % count)
        of_place = dict(zip(distinct, found, strict=True))
        return [of_place[place] for place in places]

    @cached_property
    def _groups_of_axes(self) -> dict[int, list[int]]:
        """Groups by the identity of the labels of each axis."""
        labels = [axis.labels for axis in (*self.ledger.axes.values(), *self.ledger.opened)]
        return dict(zip(map(id, labels), self._groups_of_each(labels), strict=True))

    def _axes_of_groups(self, axes: Iterable[Axis]) -> list[list[Axis]]:
        found: list[list[Axis]] = [[] for _ in range(int(self.group_index.max()) + 1)]
        for axis in axes:
            for index in self._groups_of_axes[id(axis.labels)]:
                found[index].append(axis)
        return found

    def _reasons(self) -> list[tuple[Reason, ...]]:
        found: list[dict[Reason, None]] = [{} for _ in range(int(self.group_index.max()) + 1)]
        each = self._groups_of_each([freeze.labels for freeze in self.freezes])
        for freeze, indices in zip(self.freezes, each, strict=True):
            source = freeze.node.meta.get("source", "")
            for index in indices:
                found[index][Reason(freeze.node.name, source, freeze.message)] = None
        return [tuple(reasons) for reasons in found]

    @cached_property
    def _by_name(self) -> dict[str, tuple[Group, Axis | None]]:
        """Groups by their own names and by modules; of modules also the output axis."""
        found: dict[str, tuple[Group, Axis | None]] = {}
        for axis in self.ledger.axes.values():
            indices = self._groups_of_axes[id(axis.labels)]
            if indices and axis.role in MAKING:
                name = module_of(axis.parameter)
                found.setdefault(name, (self.groups[indices[0]], axis))
        for group in self.groups:
            found.setdefault(group.name, (group, None))
        return found

    def names(self) -> tuple[str, ...]:
        """Return every name a mask may use: groups, and modules that make channels."""
        return tuple(self._by_name)

    def group_of(self, name: str) -> Group:
        """Find the group of a module's output channels, or the group of that name.

        Raises:
            UnknownGroupError: Nothing of that name makes channels; names the nearest that does.
        """
        return self.find(name)[0]

    def find(self, name: str) -> tuple[Group, Axis | None]:
        """Find a group by its name or by a module, of which also the axis that makes channels.

        Raises:
            UnknownGroupError: As for `group_of`.
        """
        if name in self._by_name:
            return self._by_name[name]
        near = get_close_matches(name, self._by_name, n=1, cutoff=0.3)
        raise UnknownGroupError(
            f"no group or module `{name}` makes channels",
            hint=f"did you mean `{near[0]}`?" if near else "see `graph.groups` for the names",
        )

    def group_name(self, module: str) -> str | None:
        """Return the name of the group of a module's output channels, if it has one."""
        return self._by_name[module][0].name if module in self._by_name else None

    def components(self, name: str, length: int | None = None) -> Tensor:
        """Return the channels a mask entry of that name speaks of, in its order.

        Args:
            name: Of a group or a module. Of both, it is the group, whose size may be another one.
            length: Of the mask entry: then a module of that name and length is meant, too.
        """
        group, axis = self.find(name)
        if group.name == name and group.size == length:
            return group.components
        own = group.components if axis is None else self.component[axis.labels.flatten()]
        return group.components if group.name == name and len(own) != length else own

    def explain(
        self, left: str, right: str | None = None, *, channel: int | None = None
    ) -> Explanation:
        """Say what ties two modules' channels together, or what keeps one's from leaving.

        Args:
            left: A group or module name.
            right: Another one; without it, the reasons why `left` is frozen.
            channel: The position of one channel of `left`: why this one is.

        Returns:
            The chain of nodes with the model's file and line, and what would free the channels;
            print it.

        Raises:
            GroupError: There is no such name or channel.
        """
        from slimgraph.explanations import explain

        return explain(self, left, right, channel)

    @cached_property
    def _starts(self) -> np.ndarray[Any, Any]:
        return np.array([int(axis.labels.flatten()[0]) for axis in self.ledger.opened])

    def owner(self, label: int) -> str:
        """Name the module whose channel a label stands for."""
        index = int(np.searchsorted(self._starts, label, side="right")) - 1
        return module_of(self.ledger.opened[index].parameter)

    def couplings(self) -> list[tuple[fx.Node, set[int], set[str]]]:
        """List the nodes that tie channels of different modules: node, groups, modules."""
        found: dict[fx.Node, tuple[set[int], set[str]]] = {}
        for edge in self.ledger.edges:
            labels = torch.cat([edge.left, edge.right])
            owners = np.searchsorted(self._starts, labels.numpy(), side="right") - 1
            modules = {module_of(self.ledger.opened[i].parameter) for i in np.unique(owners)}
            if len(modules) > 1:
                groups, names = found.setdefault(edge.node, (set(), set()))
                groups.update(self.groups_of(edge.left))
                names.update(modules)
        return [(node, *sets) for node, sets in found.items()]

    def to_networkx(self) -> "nx.MultiGraph[str]":
        """Return modules as nodes (with their `group`), couplings as edges (with their `node`)."""
        result: nx.MultiGraph[str] = nx.MultiGraph()
        for group in self.groups:
            for module in group.modules:
                result.add_node(module, group=group.name, size=group.size)
        for node, _, modules in self.couplings():
            first, *rest = sorted(modules)
            for other in rest:
                result.add_edge(first, other, node=node.name, source=node.meta.get("source", ""))
        return result

    def values_at(self, node: fx.Node) -> list[Value]:
        """Return the values of a node; several if it makes a tuple."""
        value = self.values[node]
        items = value if isinstance(value, tuple | list) else (value,)
        return [item for item in items if isinstance(item, Value)]

    def to_dict(
        self,
        keep: Tensor | None = None,
        scores: Tensor | None = None,
        settings: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the report as JSON data; see `slimgraph.report.build.build`."""
        from slimgraph.report.build import build

        return build(self, keep, scores, settings)

    def render(self, format: str = "text") -> str:  # noqa: A002 - the name users type
        """Render the report as "text", "html", "dot" or "json"."""
        from slimgraph.report import render

        return render(self.to_dict(), format)

    def __rich__(self) -> Any:
        """Show a table in the terminal."""
        from slimgraph.report import table

        return table(self.to_dict())

    def _repr_html_(self) -> str:
        """Show a summary in notebooks."""
        from slimgraph.report import html_summary

        return html_summary(self.to_dict())

    def __repr__(self) -> str:
        """Say it in one line."""
        prunable = sum(group.prunable for group in self.groups)
        channels = sum(group.size for group in self.groups)
        return (
            f"DependencyGraph({len(self.groups)} groups, {prunable} prunable, {channels} channels)"
        )


def _distinct(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the different numbers, -1 or above, in the order in which they come first."""
    first = np.full(numbers.max(initial=-1) + 2, len(numbers))
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # the last one written stays
    found = np.argsort(first)
    found = found[first[found] < len(numbers)]
    return np.where(found == len(first) - 1, -1, found)
