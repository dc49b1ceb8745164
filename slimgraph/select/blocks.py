"""Which channels have to be removed together so that every value stays rectangular."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from slimgraph.graph import DependencyGraph, components_of
from slimgraph.labels import compact
from slimgraph.select.levels import level_sets


@dataclass(frozen=True, eq=False)
class Legality:
    """Repairs a choice of channels until a smaller model can realise it.

    Selected channels leave with those they are selected from. Apart from that, repair only ever
    brings channels back, the highest scores first.

    Attributes:
        graph: The groups and blocks.
        scores: One score per channel. Shape: (channels,).
        round_to: Groups keep a multiple of this many channels, or all.
        whole_heads: Whether a block that a channel stands for leaves as a whole, or not at all.
    """

    graph: DependencyGraph
    scores: Tensor
    round_to: int = 1
    whole_heads: bool = False

    @cached_property
    def blocks(self) -> list[tuple[Tensor, Tensor | None]]:
        """Channels of two or more dims that stay rectangular, and the rows they vanish with."""
        found = []
        for block in self.graph.ledger.blocks:
            channels = self.graph.component[block.labels]
            partner = None if block.partner is None else self.graph.component[block.partner]
            if partner is None:
                binds = len(_distinct(channels)) > 1
            else:  # a label that stands for itself asks for nothing
                binds = not block.heads or bool((channels != partner).any())
            if binds:
                found.append((channels, partner))
        return found

    @cached_property
    def never_empty(self) -> list[Tensor]:
        """Sets of channels of which one must stay: every group, weight dim and split piece."""
        sets = [group.components for group in self.graph.groups]
        labels = [axis.labels for axis in self.graph.ledger.axes.values()]
        for node in self.graph.traced.graph.nodes:
            if self.graph.kinds.get(node) == "movement":
                values = self.graph.values_at(node)
                labels += [compact(layer) for v in values for layer in v.layers]
        whole = [own.numpy() for own in sets]
        component, index = self.graph.component.numpy(), self.graph.group_index.numpy()
        seen, marked = set(), np.zeros(len(index), dtype=bool)
        for own in {id(own): own for own in labels}.values():
            flat = own.numpy().ravel()
            channels = component[flat]
            group = whole[index[channels[0]]] if index[channels[0]] >= 0 else channels[:0]
            marked[channels] = True
            holds_group = len(group) and marked[group].all()
            marked[channels] = False
            if holds_group or len(flat) < 2 or not flat.all():
                continue  # a group is among the sets, so what holds all of it is never empty
            if channels.tobytes() not in seen:
                seen.add(channels.tobytes())
                sets.append(torch.from_numpy(channels))
        return sets

    @cached_property
    def atoms(self) -> Tensor:
        """Per channel, the index of the set it leaves with. Shape: (channels,).

        Of a block, the lowest-scored channels of all rows form the first set, and so on; a whole
        head is one set.
        """
        atoms = torch.arange(len(self.scores))
        taken = torch.zeros(len(self.scores), dtype=torch.bool)
        if self.whole_heads:
            pairs = [(tops[:, None].expand_as(rows), rows) for tops, rows in self.graph.heads]
            edges = [(left.flatten(), right.flatten()) for left, right in pairs]
            sets = torch.from_numpy(components_of(edges, len(atoms))).long()
            atoms = torch.full_like(atoms, len(atoms)).scatter_reduce(0, sets, atoms, "amin")[sets]
            for _, rows in self.graph.heads:
                taken[rows] = True
        for rows, first in self._bundles():
            flat = rows.flatten()
            if int(flat.bincount().max()) == 1 and not bool(taken[flat].any()):
                self._level(atoms, rows, first)
                taken[flat] = True
                continue
            for index in first.unique().tolist():
                self._level_shared(atoms, rows[first == index], taken)
        return atoms

    def _level(self, atoms: Tensor, rows: Tensor, first: Tensor) -> None:
        """Let the lowest channel of each row leave with that of the first row it is tied to."""
        ranked = rows.gather(1, self.scores[rows].argsort(dim=1, stable=True))
        atoms[ranked] = atoms[ranked[first]]

    def _level_shared(self, atoms: Tensor, rows: Tensor, taken: Tensor) -> None:
        """Do the same for the rows of one bundle, which may share channels."""
        flat = rows.flatten()
        if bool(taken[flat].any()):
            return  # overlaps blocks of another length; `repair` evens the counts out
        taken[flat] = True
        if int(flat.bincount().max()) == 1:
            self._level(atoms, rows, torch.zeros(len(rows), dtype=torch.long))
            return
        for own in level_sets(rows, self.scores):
            atoms[own] = own.min()

    def _bundles(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Join blocks of one length that have channels in common.

        Yields:
            The different rows of all blocks of one length, and of each the first row in its bundle.
        """
        of_length: dict[int, list[Tensor]] = {}
        for channels, _ in self.blocks:
            of_length.setdefault(channels.shape[-1], []).append(channels.flatten(0, -2))
        for blocks in of_length.values():
            ties = [(rows[:1, :1].expand_as(rows).flatten(), rows.flatten()) for rows in blocks]
            rows = _distinct(torch.cat(blocks))
            bundle = torch.from_numpy(components_of(ties, len(self.scores))).long()[rows[:, 0]]
            first = torch.full((len(self.scores),), len(rows))
            yield rows, first.scatter_reduce(0, bundle, torch.arange(len(rows)), "amin")[bundle]

    def repair(self, keep: Tensor) -> Tensor:
        """Bring channels back until the choice is legal.

        Args:
            keep: Bool tensor, not changed. Shape: (channels,).

        Returns:
            A choice that no `MaskError` refuses. Shape: (channels,).
        """
        keep = self.graph.selected.without_orphans(keep | self.graph.frozen)
        before = -1
        while int(keep.sum()) != before:
            before = int(keep.sum())
            for index in (self._sets.count(keep) == 0).nonzero().flatten().tolist():
                self._revive(keep, self.never_empty[index], 1)
            for index in self._suspects(keep):
                rows, partner = self.blocks[index]
                self._even_out(keep, rows)
                self._match(keep, rows, rows if partner is None else partner)
            if self.round_to > 1:
                for group in self.graph.groups:
                    if not bool(self.graph.is_head[group.components].all()):
                        self._round(keep, group.components)
            keep = self.graph.selected.with_sources(keep)
        return keep

    @cached_property
    def _sets(self) -> "Segments":
        return Segments.of(self.never_empty)

    @cached_property
    def _rows(self) -> "tuple[Segments, Segments, Tensor]":
        """The innermost rows of all blocks, those of their partners, and each row's block."""
        rows = [channels.flatten(0, -2) for channels, _ in self.blocks]
        partners = [
            own if partner is None else partner.flatten(0, -2)
            for own, (_, partner) in zip(rows, self.blocks, strict=True)
        ]
        owner = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(own) for own in rows]))
        return Segments.of_rows(rows), Segments.of_rows(partners), owner

    def _suspects(self, keep: Tensor) -> list[int]:
        """Find the blocks whose rows differ in length, or from their partners, or are nested."""
        if not self.blocks:
            return []
        rows, partners, owner = self._rows
        counts, others = rows.count(keep), partners.count(keep)
        first = torch.zeros(len(self.blocks), dtype=counts.dtype)
        first[owner] = counts  # any row's count will do
        odd = torch.zeros(len(self.blocks), dtype=torch.bool)
        odd[owner[(counts != first[owner]) | ((counts > 0) != (others > 0))]] = True
        return odd.nonzero().flatten().tolist()

    def _revive(self, keep: Tensor, channels: Tensor, count: int) -> None:
        gone = channels[~keep[channels]]
        gone = gone[self.scores[gone].argsort(descending=True)]
        if len(self.graph.selected.selected):  # orphans would bring others back, too
            gone = gone[self.graph.selected.orphans(keep)[gone].argsort(stable=True)]
        keep[gone[:count]] = True

    def _even_out(self, keep: Tensor, channels: Tensor) -> None:
        """Give rows that keep anything equally many positions, from the innermost dim outwards."""
        for depth in range(channels.ndim - 1, 0, -1):
            parents = channels.flatten(0, depth - 1)
            leaves = parents.reshape(*parents.shape[:2], -1)
            alive = keep[leaves].any(2)
            counts = alive.sum(1)
            most = int(counts.max())
            for row in ((counts > 0) & (counts < most)).nonzero().flatten().tolist():
                gone = leaves[row][~alive[row]]
                best = self.scores[gone].amax(1).argsort(descending=True)
                for position in best[: most - int(counts[row])].tolist():
                    self._revive(keep, gone[position], 1)

    def _match(self, keep: Tensor, rows: Tensor, partners: Tensor) -> None:
        """Bring a row back if its partner stays."""
        left, right = keep[rows].any(1), keep[partners].any(1)
        for row in (left != right).nonzero().flatten().tolist():
            self._revive(keep, partners[row] if left[row] else rows[row], 1)

    def _round(self, keep: Tensor, channels: Tensor) -> None:
        count = int(keep[channels].sum())
        wanted = min(-(-count // self.round_to) * self.round_to, len(channels))
        if wanted > count:
            self._revive(keep, channels, wanted - count)


def _distinct(channels: Tensor) -> Tensor:
    """Return the different rows of a block along its last dim."""
    rows = channels.flatten(0, -2)
    return rows if int(rows.flatten().bincount().max()) == 1 else rows.unique(dim=0)


@dataclass(frozen=True, eq=False)
class Segments:
    """Many sets of channels in one vector, to count in all of them at once.

    Attributes:
        channels: The members of all sets, one set after the other.
        owner: Which set each belongs to.
        number: How many sets there are.
    """

    channels: Tensor
    owner: Tensor
    number: int

    @classmethod
    def of(cls, sets: Sequence[Tensor]) -> "Segments":
        """Join sets of channels."""
        lengths = torch.tensor([len(own) for own in sets], dtype=torch.long)
        flat = torch.cat([torch.zeros(0, dtype=torch.long), *sets])
        return cls(flat, torch.arange(len(sets)).repeat_interleave(lengths), len(sets))

    @classmethod
    def of_rows(cls, blocks: Sequence[Tensor]) -> "Segments":
        """Join sets of channels that are the rows of matrices."""
        lengths = torch.tensor([rows.shape[1] for rows in blocks for _ in range(len(rows))])
        flat = torch.cat([rows.flatten() for rows in blocks])
        return cls(flat, torch.arange(len(lengths)).repeat_interleave(lengths), len(lengths))

    def count(self, keep: Tensor) -> Tensor:
        """Count the kept members of each set. Shape: (sets,)."""
        return torch.bincount(self.owner[keep[self.channels]], minlength=self.number)
