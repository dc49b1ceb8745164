"""What the rows of the one-shot experiment come to: means over seeds, best ways, goals."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

Record = dict[str, Any]
OURS, THEIRS, DENSE = "slimgraph", "torch-pruning", "dense"
DEFAULT = ("obs", "reconstruct")  # what `slim(..., data=)` does
GAP = 2 / 3  # how much of what the peer leaves to the dense network has to be closed
HALF = 0.5


class Way(NamedTuple):
    """One way to shrink a network."""

    tool: str
    criterion: str
    repair: str
    share: float

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{self.criterion} + {self.repair}" if self.repair != "none" else self.criterion


@dataclass(frozen=True)
class Cell:
    """What a way came to, over seeds.

    Attributes:
        held_out: Mean accuracy on what the best way is found on.
        accuracy: Mean accuracy on the test images.
        spread: Its standard deviation; 0 of one seed.
        macs: Mean share of the multiply-accumulates that is left.
    """

    held_out: float
    accuracy: float
    spread: float
    macs: float


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        text: What was wanted, and what came out.
        reached: Whether it was.
    """

    text: str
    reached: bool

    def __str__(self) -> str:
        """Say it with its verdict."""
        return f"{'reached' if self.reached else 'MISSED'}: {self.text}"


def cells(rows: Iterable[Record]) -> dict[Way, Cell]:
    """Average rows over seeds; rows that failed or were fine-tuned do not count."""
    found: dict[Way, list[Record]] = {}
    for row in rows:
        if "accuracy" in row and row["tuned"] is None:
            found.setdefault(way_of(row), []).append(row)
    return {way: _cell(own) for way, own in found.items()}


def way_of(row: Record) -> Way:
    """Return the way that a row measured."""
    return Way(row["tool"], row["criterion"], row["repair"], row["share"])


def _cell(rows: list[Record]) -> Cell:
    right = [row["accuracy"] for row in rows]
    return Cell(
        statistics.mean(row["held_out"] for row in rows),
        statistics.mean(right),
        statistics.stdev(right) if len(right) > 1 else 0.0,
        statistics.mean(row["macs"] for row in rows),
    )


def best(found: dict[Way, Cell], tool: str, share: float) -> Way | None:
    """Return the best way of a tool, by the held-out images; ours has to meet its budget."""
    own = [way for way in found if way.tool == tool and way.share == share]
    if tool == OURS:
        own = [way for way in own if found[way].macs <= share + 1e-9]
    return max(own, key=lambda way: found[way].held_out, default=None)


def closed(dense: float, peer: float, own: float) -> float:
    """Return which share of the gap between the peer and the dense network is closed.

    Args:
        dense: Accuracy of the dense network.
        peer: Of the peer's.
        own: Of ours.

    Returns:
        At most 1; 1 as well if there is no gap and we are not behind.
    """
    if peer >= dense:
        return 1.0 if own >= peer else 0.0
    return min((own - peer) / (dense - peer), 1.0)


def share_closed(rows: list[Record], share: float = HALF) -> float | None:
    """Return which share of the gap our best way closes; `None` if a tool has no row."""
    found = cells(rows)
    own, peer, dense = (best(found, OURS, share), best(found, THEIRS, share),
                        best(found, DENSE, 1.0))  # fmt: skip
    if own is None or peer is None or dense is None:
        return None
    return closed(*(found[way].accuracy for way in (dense, peer, own)))


def ahead(rows: list[Record]) -> list[float]:
    """Return by how much our best way is ahead after fine-tuning, once per seed."""
    tuned: dict[str, dict[tuple[int, int], float]] = {OURS: {}, THEIRS: {}}
    for row in rows:
        if row["tuned"] is not None and "accuracy" in row:
            tuned[row["tool"]][row["seed"], row["tuned"]] = row["accuracy"]
    return [own - tuned[THEIRS][k] for k, own in tuned[OURS].items() if k in tuned[THEIRS]]


def goals(networks: dict[str, list[Record]]) -> list[Goal]:
    """Say of each goal whether it is reached.

    Where every way of the peer fails there is nothing to compare; it is said, and no goal.

    Args:
        networks: Rows by the name of the network; none if it was not measured.
    """
    found = []
    compared = {name: rows for name, rows in networks.items() if not fails(rows, THEIRS)}
    for name, rows in networks.items():
        crashed = sum(row["tool"] == OURS and row.get("refused") is False for row in rows)
        if crashed:
            found.append(Goal(f"{name}: {crashed} rows of ours crashed", reached=False))
        if name not in compared:
            done = not fails(rows, OURS)
            found.append(Goal(f"{name}: it shrinks; every way of the peer fails", done))
            continue
        share = share_closed(rows)
        got = "not measured on both sides" if share is None else f"{share:.0%}"
        text = f"{name}: at half the work, two thirds of the peer's gap are closed: {got}"
        found.append(Goal(text, share is not None and share >= GAP))
    return found + _tuned(compared)


def fails(rows: list[Record], tool: str) -> bool:
    """Tell whether a tool was tried, and every way of it failed."""
    own = [row for row in rows if row["tool"] == tool]
    return bool(own) and all("failed" in row for row in own)


def _tuned(networks: dict[str, list[Record]]) -> list[Goal]:
    found, means = [], []
    for name, rows in networks.items():
        text = f"{name}: after the same fine-tuning not behind by more than its deviation"
        leads = ahead(rows)
        if not leads:
            found.append(Goal(f"{text}: not measured", reached=False))
            continue
        mean = statistics.mean(leads)
        spread = statistics.stdev(leads) if len(leads) > 1 else 0.0
        means.append(mean)
        found.append(Goal(f"{text}: {mean:+.2%} ± {spread:.2%}", mean >= -spread))
    lead = statistics.mean(means) if means else 0.0
    text = f"after the same fine-tuning ahead on the mean of {len(means)} networks: {lead:+.2%}"
    return [*found, Goal(text, lead > 0)]
