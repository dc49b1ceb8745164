"""Sets of channels that may leave blocks together: each takes as many from every row."""

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 10_000_000  # numbers in a table of rows by channels; beyond it `repair` evens counts out


def level_sets(rows: Tensor, scores: Tensor) -> list[Tensor]:
    """Split the channels of a block into sets, the lowest scores first.

    Rows may share channels, and hold one several times. A table of rotations ties the channels of
    queries and keys of all heads; with each of them leave as many of the values as it has places.

    Args:
        rows: Channels; each row must stay as long as the others, whichever it keeps.
        scores: Higher = keep. Shape: (channels,).

    Returns:
        The sets. Channels that fit in none are left out.
    """
    channels, places = rows.unique(return_inverse=True)
    if len(rows) * len(channels) > LARGEST:
        return []
    counts = torch.zeros(len(rows), len(channels), dtype=torch.long)
    counts.scatter_add_(1, places, torch.ones_like(places))
    order = scores[channels].argsort(stable=True)
    shared = counts.sum(0) > 1
    own = [order[(counts[row] > 0)[order] & ~shared[order]].tolist() for row in range(len(rows))]
    sets: list[list[int]] = []
    for column in order[shared[order]].tolist():
        missing = (counts[:, column].max() - counts[:, column]).tolist()
        if all(len(row) >= count for row, count in zip(own, missing, strict=True)):
            sets.append([column, *_taken(own, missing)])
    sets += [_taken(own, [1] * len(own)) for _ in range(min(map(len, own)))]
    return [channels[torch.tensor(found)] for found in sets]


def _taken(own: list[list[int]], counts: Sequence[int]) -> list[int]:
    """Take the first few out of each list."""
    taken = []
    for row, count in zip(own, counts, strict=True):
        taken += row[:count]
        del row[:count]
    return taken
