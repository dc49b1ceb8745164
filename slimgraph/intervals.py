"""An order in which as many sets of positions as possible lie side by side."""

from collections.abc import Sequence

Blocks = list[list[int]]


def side_by_side(count: int, sets: Sequence[frozenset[int]]) -> list[int]:
    """Order positions so that the sets, the first ones first, become intervals.

    It keeps a row of blocks whose inner order is free. A set fits if it covers neighbouring
    blocks, all but the first and last whole; these are cut in two. A set that does not fit is
    left out, so each one taken stays an interval.

    Args:
        count: Number of positions.
        sets: Subsets of them, the most worthwhile first.

    Returns:
        The positions in their new order.

    Example:
        >>> side_by_side(5, [frozenset({0, 3}), frozenset({3, 4}), frozenset({0, 4})])
        [1, 2, 4, 3, 0]
    """
    row: Blocks = [list(range(count))]
    for each in sets:
        row = _refined(row, each) or row
    return [position for block in row for position in block]


def _refined(row: Blocks, chosen: frozenset[int]) -> Blocks | None:
    """Cut the outer blocks of a set; `None` if it does not fit."""
    touched = [i for i, block in enumerate(row) if not chosen.isdisjoint(block)]
    if not touched:
        return row
    first, last = touched[0], touched[-1]
    if any(not chosen.issuperset(row[i]) for i in range(first + 1, last)):
        return None
    inside = [[p for p in row[i] if p in chosen] for i in (first, last)]
    outside = [[p for p in row[i] if p not in chosen] for i in (first, last)]
    if first == last:
        middle = [outside[0], inside[0]]
    else:
        middle = [outside[0], inside[0], *row[first + 1 : last], inside[1], outside[1]]
    return [block for block in [*row[:first], *middle, *row[last + 1 :]] if block]
