"""Two or more models timed in turns, so that what else the machine does meets all alike."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimgraph.runtime import Inputs, arrays_of, open_session, run_session

RUNS = 3  # of a model in each round, of which the quickest counts


@dataclass(frozen=True)
class Timed:
    """How long the runs of one model took.

    Attributes:
        ms: Median over rounds of each round's quickest run, in milliseconds.
        rounds: Each round's quickest run.
    """

    ms: float
    rounds: tuple[float, ...]

    def share_of(self, other: "Timed") -> float:
        """Return the median over rounds of this one's time as a share of another's."""
        return statistics.median(self._shares(other))

    def shares_of(self, other: "Timed") -> tuple[float, float]:
        """Return the quartiles of the same."""
        return _quartiles(self._shares(other))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile, in milliseconds."""
        return _quartiles(self.rounds)

    def _shares(self, other: "Timed") -> list[float]:
        return [own / its for own, its in zip(self.rounds, other.rounds, strict=True)]


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def in_turns(
    models: Sequence[tuple[Path | bytes, Inputs]], threads: int = 1, rounds: int = 15
) -> list[Timed]:
    """Time models in onnxruntime, each a few runs in every round.

    Args:
        models: Files or their contents, each with its inputs.
        threads: How many an operator may use.
        rounds: How often each has its turn; every second round goes backwards.

    Raises:
        OnnxExportError: onnxruntime cannot load or run one.
    """
    jobs = [(open_session(model, threads), arrays_of(inputs)) for model, inputs in models]
    found: list[list[float]] = [[] for _ in jobs]
    for session, inputs in jobs:
        for _ in range(RUNS):
            run_session(session, inputs)
    for number in range(rounds):
        places = range(len(jobs)) if number % 2 else reversed(range(len(jobs)))
        for place in places:
            session, inputs = jobs[place]
            found[place].append(min(_run(session, inputs) for _ in range(RUNS)))
    return [Timed(statistics.median(times), tuple(times)) for times in found]


def _run(session: object, inputs: Inputs) -> float:
    start = time.perf_counter()
    run_session(session, inputs)
    return (time.perf_counter() - start) * 1000
