"""Time against a number of channels: steps that repeat, and a curve over them.

Kernels work on blocks of channels, so time grows in steps, and numbers that fill no vector can be
slower than larger ones. Both repeat with a period, which is learned from measurements at every
number of a short range; the rest of a curve is then measured at multiples of it, where it bends.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

PERIODS = (1, 4, 8, 16)
LOW, HIGH = 32, 64  # the range that periods are learned on, the first without, the last included
EVEN = 0.02  # times that lie so close to a line do not step
CLOSE = 0.01  # of periods that fit so much alike, the largest
BENT = 0.02  # a curve that is off by less between two numbers is straight there
Measure = Callable[[int], float]


@dataclass(frozen=True)
class Steps:
    """How time goes on within a period.

    Attributes:
        period: In channels; 1: it grows evenly.
        factors: By the remainder of the number of channels: its time as a multiple of what the
            next multiple of the period takes.
    """

    period: int = 1
    factors: tuple[float, ...] = (1.0,)

    def above(self, count: int) -> int:
        """Return the next multiple of the period."""
        return -(-count // self.period) * self.period

    @classmethod
    def learned(cls, measure: Measure) -> "Steps":
        """Learn steps from measurements at every number of a range.

        Args:
            measure: Milliseconds at a number of channels.

        Returns:
            A line if one fits; else the largest of the periods that fit best.
        """
        counts = np.arange(LOW + 1, HIGH + 1)
        times = np.array([measure(int(count)) for count in counts])
        line, *stairs = ((_error(times, counts, s), s) for s in _fitted(times))
        least = min(error for error, _ in stairs)
        if line[0] <= max(EVEN, least):
            return line[1]
        return next(steps for error, steps in reversed(stairs) if error <= least + CLOSE)


def _fitted(times: np.ndarray) -> list[Steps]:
    """Return the best steps of each period."""
    found = [Steps()]
    for period in PERIODS[1:]:
        relative = (times.reshape(-1, period).T / times[period - 1 :: period]).T
        factors = np.median(relative, axis=0)  # of remainders 1, 2, ..., 0
        found.append(Steps(period, tuple(float(f) for f in np.roll(factors, 1))))
    return found


def _error(times: np.ndarray, counts: np.ndarray, steps: Steps) -> float:
    """Return the mean relative error of a fit."""
    if steps.period == 1:
        slope, start = np.polyfit(counts, times, 1)
        fit = start + slope * counts
    else:
        whole = times[steps.period - 1 :: steps.period]
        fit = np.repeat(whole, steps.period)
        fit = fit * np.array([steps.factors[count % steps.period] for count in counts])
    return float(np.mean(np.abs(fit / times - 1)))


@dataclass(eq=False)
class Curve:
    """Time against a number of channels, measured where it bends and is asked for.

    It is mutable because it remembers what was measured.

    Attributes:
        full: The number in the dense model.
        measure: Milliseconds at a number of channels.
        steps: What repeats.
    """

    full: int
    measure: Measure
    steps: Steps = field(default_factory=Steps)
    _times: dict[int, float] = field(default_factory=dict, repr=False)
    _straight: set[tuple[int, int]] = field(default_factory=set, repr=False)

    def at(self, count: int) -> float:
        """Return milliseconds at a number of channels, from 1 to `full`."""
        if count >= self.full:
            return self._known(self.full)
        factor = self.steps.factors[count % self.steps.period]
        return factor * self._between(min(self.steps.above(count), self._top))

    @property
    def _top(self) -> int:
        return self.steps.above(self.full)

    def _known(self, count: int) -> float:
        if count not in self._times:
            self._times[count] = self.measure(count)
        return self._times[count]

    def _between(self, count: int) -> float:
        """Return the time at a multiple of the period: measured, or between two that were."""
        low, high = self.steps.period, self._top
        while True:
            if count in (low, high):
                return self._known(count)
            if (low, high) in self._straight:
                share = (count - low) / (high - low)
                return self._known(low) * (1 - share) + self._known(high) * share
            middle = (low + high) // 2 // self.steps.period * self.steps.period
            if middle in (low, high):
                return self._known(count)
            even = (self._known(low) + self._known(high)) / 2
            if abs(self._known(middle) - even) <= BENT * self._known(self._top):
                self._straight |= {(low, high)}
            elif count <= middle:
                high = middle
            else:
                low = middle
