"""The fork: where one consumer of a shared value may read fewer of its channels than others do.

It computes nothing. `slimgraph.with_selections` puts it into a traced graph, the analysis gives its
result channels of its own, and `compress` turns it into a slice, a gather, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def select(x: Tensor, dim: int, name: str) -> Tensor:  # noqa: ARG001 - the analysis reads them
    """Return a value of which the consumer may select channels.

    Args:
        x: The shared value.
        dim: The dim of its channels.
        name: Of the group that the consumer's channels form, such as `block1.bn1[in]`.
    """
    return x


@dataclass(frozen=True, eq=False)
class SelectedChannels:
    """Pairs of channels: the first is selected from the second, and stays only if that does.

    Attributes:
        selected: The channels of consumers. Shape: (pairs,).
        source: The channels of the shared values. Shape: (pairs,).
    """

    selected: Tensor
    source: Tensor

    @classmethod
    def of(cls, pairs: Sequence[tuple[Tensor, Tensor]], component: Tensor) -> "SelectedChannels":
        """Translate pairs of labels into pairs of channels."""
        none = torch.zeros(0, dtype=torch.long)
        left, right = (torch.cat([none, *(pair[i] for pair in pairs)]) for i in (0, 1))
        return cls(component[left], component[right])

    def with_sources(self, marked: Tensor) -> Tensor:
        """Mark also the channels that marked ones are selected from.

        Args:
            marked: Bool tensor, not changed. Shape: (channels,).
        """
        marked, before = marked.clone(), -1
        while int(marked.sum()) != before:
            before = int(marked.sum())
            marked[self.source[marked[self.selected]]] = True
        return marked

    def without_orphans(self, keep: Tensor) -> Tensor:
        """Let channels leave with those they are selected from.

        Args:
            keep: Bool tensor, not changed. Shape: (channels,).
        """
        keep, before = keep.clone(), -1
        while int(keep.sum()) != before:
            before = int(keep.sum())
            keep[self.selected[~keep[self.source]]] = False
        return keep

    def orphans(self, keep: Tensor) -> Tensor:
        """Mark the channels that could not stay, since those they are selected from leave."""
        found = keep.new_zeros(keep.shape)
        found[self.selected[~keep[self.source]]] = True
        return found

    def summed(self, numbers: Tensor, keep: Tensor) -> Tensor:
        """Add to each channel's number those of what is selected from it and still stays."""
        held = numbers[self.selected].where(keep[self.selected], 0)
        return numbers.index_add(0, self.source, held)
