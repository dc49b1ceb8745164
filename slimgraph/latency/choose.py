"""Choosing what stays under a budget of time: the least importance for a millisecond goes first."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from slimgraph.errors import BudgetError
from slimgraph.kept import KeptChannels
from slimgraph.latency.model import LatencyModel
from slimgraph.select.budget import Budget, stakes
from slimgraph.select.candidates import Candidates

FINE = 16  # moves, from all channels to none, where time grows evenly
LEAST = 1e-4  # of the dense model's time: less is no saving


@dataclass(eq=False)
class TimedGreedy:
    """Takes away channels, group by group, in numbers that save time.

    It is mutable because it goes on from where it is.

    The numbers come from the model's steps: a group goes down to the next multiple of a period that
    one of its operators has. Of all such moves, the one is made that loses the least of what its
    groups still hold, once per reader as in `slimgraph.select`, for the time that it saves.

    Attributes:
        model: Predicts time.
        candidates: What may leave.
        cap: A second budget; once the time is met, moves are made that save most of that.
    """

    model: LatencyModel
    candidates: Candidates
    cap: Budget | None = None
    _moves: dict[int, "_Move | None"] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Begin with everything."""
        self.rates = torch.zeros(len(self.candidates.graph.groups), dtype=torch.float64)
        self.keep = self.candidates.at(self.rates)
        self.times = self._times(self.keep, range(len(self.model.operators)))
        self._timed = True
        self.stakes = stakes(self.candidates.graph)

    @cached_property
    def touched(self) -> dict[int, list[int]]:
        """By group, the operators whose time depends on it; those that follow others, with them."""
        index = self.candidates.graph.group_index
        found: dict[int, list[int]] = {}
        own: set[int] = set()
        for place, scaling in enumerate(self.model.scalings):
            if scaling is not None:
                own = set(index[scaling.sizing.channels].tolist())
            for group in own:
                found.setdefault(group, []).append(place)
        return found

    @cached_property
    def periods(self) -> dict[int, tuple[int, ...]]:
        """By group, the periods of its operators."""
        return {
            group: tuple(
                {
                    curve.steps.period
                    for place in places
                    if (scaling := self.model.scalings[place]) is not None
                    for curve in scaling.curves
                }
                | {1}
            )
            for group, places in self.touched.items()
        }

    def shrink_to(self, ms: float) -> Tensor:
        """Take away until the predicted time is met.

        Args:
            ms: Milliseconds that may remain.

        Returns:
            What stays. Shape: (channels,).

        Raises:
            BudgetError: It cannot be met.
        """
        while (left := self.model.overhead + sum(self.times.values())) > ms:
            self._step(f"at most {ms:.3g} ms may remain, but {left:.3g} have to")
        if self.cap is not None:
            self._timed = False
            self._moves.clear()
            limit = self.cap.limit(self._cost(self.candidates.everything))
            while (cost := self._cost(self.keep)) > limit:
                self._step(f"at most {limit} {self.cap.unit} may remain, but {cost} have to")
        return self.keep

    def _cost(self, keep: Tensor) -> int:
        assert self.cap is not None
        return self.candidates.cost(keep, self.cap.unit)

    def _step(self, message: str) -> None:
        """Make the cheapest move; if there is none, the budget cannot be met."""
        moves = [self._move(group) for group in self.candidates.open_groups]
        found = [move for move in moves if move is not None]
        if not found:
            raise BudgetError(
                message, hint="allow more, or relax `keep`, `max_removed` or `round_to`"
            )
        self._make(min(found, key=lambda move: move.price))

    def _move(self, group: int) -> "_Move | None":
        """Return the best move of a group, if one saves time."""
        if group not in self._moves:
            found = [self._tried(group, count) for count in self._counts(group)]
            least = LEAST * self.model.dense if self._timed else 0.0
            saving = [move for move in found if move.saving > least]
            self._moves[group] = min(saving, key=lambda move: move.price, default=None)
        return self._moves[group]

    def _counts(self, group: int) -> list[int]:
        """Return the numbers of channels that a group may go down to next."""
        members = self.candidates.graph.groups[group].components
        own, size = int(self.keep[members].sum()), len(members)
        found = set()
        for period in self.periods.get(group, (1,)):
            step = period if period > 1 else max(size // FINE, 1)
            below = (own - 1) // step * step
            found |= {below, below - step}
        return sorted(count for count in found if count > 0)

    def _tried(self, group: int, count: int) -> "_Move":
        members = self.candidates.graph.groups[group].components
        rates = self.rates.clone()
        rates[group] = max(1 - count / len(members), float(rates[group]))
        keep = self.candidates.at(rates)
        if self._timed:
            times = self._times(keep, self.touched.get(group, []))
            saving = sum(self.times[place] - ms for place, ms in times.items())
        else:
            saving = self._cost(self.keep) - self._cost(keep)
        return _Move(group, float(rates[group]), saving, self._loss(keep))

    def _loss(self, keep: Tensor) -> float:
        """Return what is lost: the share of its group that each channel holds, times its stakes."""
        gone = self.keep & ~keep & ~self.candidates.graph.is_head
        known = torch.where(
            self.keep & self.candidates.scores.isfinite(), self.candidates.scores, 0
        )
        index = self.candidates.graph.group_index.clamp(min=0)
        held = torch.bincount(index, known.double())
        return float((known[gone] / held[index[gone]].clamp(min=1e-300) * self.stakes[gone]).sum())

    def _times(self, keep: Tensor, places: Iterable[int]) -> dict[int, float]:
        """Predict some operators by place; those that nothing is known of follow the one before."""
        kept, found, ratio = KeptChannels(self.candidates.graph, keep), {}, 1.0
        for place in places:
            scaling = self.model.scalings[place]
            if scaling is not None:
                ratio = scaling.ratio(kept)
            found[place] = self.model.operators[place].ms * ratio
        return found

    def _make(self, move: "_Move") -> None:
        """Make a move; groups that share an operator with it have to be tried anew."""
        self.rates[move.group] = move.rate
        self.keep = self.candidates.at(self.rates)
        places = set(self.touched.get(move.group, ()))
        self.times |= self._times(self.keep, sorted(places))
        for group, own in self.touched.items():
            if group == move.group or places & set(own):
                self._moves.pop(group, None)


class _Move(NamedTuple):
    """One group going down to a smaller number of channels."""

    group: int
    rate: float
    saving: float
    loss: float

    @property
    def price(self) -> float:
        """What is lost for what is saved."""
        return self.loss / self.saving
