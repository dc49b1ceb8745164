"""Which channels have to be removed together so that every value stays rectangular."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from slimgraph.graph import DependencyGraph
from slimgraph.labels import compact


@dataclass(frozen=True, eq=False)
class Legality:
    """Repairs a choice of channels until a smaller model can realise it.

    Repair only ever brings channels back, the highest scores first.

    Attributes:
        graph: The groups and blocks.
        scores: One score per channel. Shape: (channels,).
        round_to: Groups keep a multiple of this many channels, or all.
    """

    graph: DependencyGraph
    scores: Tensor
    round_to: int = 1

    @cached_property
    def blocks(self) -> list[tuple[Tensor, Tensor | None]]:
        """Channels of two or more dims that stay rectangular, and the rows they vanish with."""
        found = []
        for block in self.graph.ledger.blocks:
            channels = self.graph.component[block.labels]
            partner = None if block.partner is None else self.graph.component[block.partner]
            if partner is not None or len(channels.flatten(0, -2).unique(dim=0)) > 1:
                found.append((channels, partner))
        return found

    @cached_property
    def never_empty(self) -> list[Tensor]:
        """Sets of channels of which one must stay: every group, weight dim and split piece."""
        sets = [group.components for group in self.graph.groups]
        labels = [axis.labels.flatten() for axis in self.graph.ledger.axes.values()]
        for node in self.graph.traced.graph.nodes:
            if self.graph.kinds.get(node) == "movement":
                values = self.graph.values_at(node)
                labels += [compact(layer).flatten() for v in values for layer in v.layers]
        seen = {tuple(own.tolist()) for own in sets}
        for own in labels:
            if 0 not in own and len(own) > 1:
                key = tuple(self.graph.component[own].unique().tolist())
                if key not in seen:
                    seen.add(key)
                    sets.append(torch.tensor(key))
        return sets

    @cached_property
    def atoms(self) -> Tensor:
        """Per channel, the index of the set it leaves with. Shape: (channels,).

        Of a block, the lowest-scored channels of all rows form the first set, and so on.
        """
        atoms = torch.arange(len(self.scores))
        taken = torch.zeros(len(self.scores), dtype=torch.bool)
        for channels, _ in self.blocks:
            rows = channels.flatten(0, -2).unique(dim=0)
            flat = rows.flatten()
            if bool(taken[flat].any()) or len(flat.unique()) != len(flat):
                continue  # overlaps another block; `repair` evens the counts out
            taken[flat] = True
            ranked = rows.gather(1, self.scores[rows].argsort(dim=1, stable=True))
            atoms[ranked] = atoms[ranked[:1]].expand_as(ranked).clone()
        return atoms

    def repair(self, keep: Tensor) -> Tensor:
        """Bring channels back until the choice is legal.

        Args:
            keep: Bool tensor, not changed. Shape: (channels,).

        Returns:
            A superset that no `MaskError` refuses. Shape: (channels,).
        """
        keep = keep | self.graph.frozen
        before = -1
        while int(keep.sum()) != before:
            before = int(keep.sum())
            for channels in self.never_empty:
                if not bool(keep[channels].any()):
                    self._revive(keep, channels, 1)
            for rows, partner in self.blocks:
                self._even_out(keep, rows)
                self._match(keep, rows, rows if partner is None else partner)
            for group in self.graph.groups:
                self._round(keep, group.components)
        return keep

    def _revive(self, keep: Tensor, channels: Tensor, count: int) -> None:
        gone = channels[~keep[channels]]
        keep[gone[self.scores[gone].argsort(descending=True)[:count]]] = True

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
