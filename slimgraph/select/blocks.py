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
    def blocks(self) -> list[Tensor]:
        """Rows of channels that must keep equal counts. Each of shape (rows, channels)."""
        found = []
        for block in self.graph.ledger.blocks:
            channels = self.graph.component[block.labels].flatten(0, -2)
            rows = channels.unique(dim=0)
            if len(rows) > 1 or block.partner is not None:
                found.append(rows)
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
        for rows in self.blocks:
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
        while True:
            before = int(keep.sum())
            for channels in self.never_empty:
                if not bool(keep[channels].any()):
                    self._revive(keep, channels, 1)
            for rows in self.blocks:
                self._even_out(keep, rows)
            if self.round_to > 1:
                for group in self.graph.groups:
                    self._round(keep, group.components)
            if int(keep.sum()) == before:
                return keep

    def _revive(self, keep: Tensor, channels: Tensor, count: int) -> None:
        gone = channels[~keep[channels]]
        keep[gone[self.scores[gone].argsort(descending=True)[:count]]] = True

    def _even_out(self, keep: Tensor, rows: Tensor) -> None:
        counts = keep[rows].sum(1)
        most = int(counts.max())
        for row, count in zip(rows, counts.tolist(), strict=True):
            if count < most:
                self._revive(keep, row, most - count)

    def _round(self, keep: Tensor, channels: Tensor) -> None:
        count = int(keep[channels].sum())
        wanted = min(-(-count // self.round_to) * self.round_to, len(channels))
        if wanted > count:
            self._revive(keep, channels, wanted - count)
