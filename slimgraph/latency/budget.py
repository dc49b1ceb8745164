"""A budget of time, and the choice that meets it when the smaller model is really run."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgraph.compress import compress
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.latency.alternating import Timed, in_turns
from slimgraph.latency.build import feeds, latency_model
from slimgraph.latency.choose import TimedGreedy
from slimgraph.latency.model import LatencyModel
from slimgraph.latency.table import Table
from slimgraph.mask import Mask
from slimgraph.onnx_export import export_onnx
from slimgraph.select import Budget
from slimgraph.select.candidates import Candidates, Limits

ATTEMPTS = 5
CORRECTIONS = 4  # of the prediction, between two measurements of the real model
NEAR = 0.01  # a prediction so near to what operators take needs no correction
UNDER = 0.04  # a model that is faster than asked for by more could be larger
OVER = 0.01  # measurements of one model differ by about that


@dataclass(frozen=True)
class TimeBudget:
    """How long a run of the smaller model may take.

    Attributes:
        amount: A share in (0, 1] of what the dense model takes, or milliseconds.
        absolute: Whether it is milliseconds.
        threads: How many an operator may use.
        batch: Examples per run; `None` as traced.
    """

    amount: float
    absolute: bool = False
    threads: int = 1
    batch: int | None = None

    @classmethod
    def of(cls, given: float | str, threads: int = 1, batch: int | None = None) -> "TimeBudget":
        """Read a share, as a number or its text, or a text such as `12ms`.

        Raises:
            BudgetError: It is neither.
        """
        text = str(given).strip().lower()
        absolute = text.endswith("ms")
        try:
            amount = float(text.removesuffix("ms"))
        except ValueError:
            amount = 0.0
        if not (amount > 0 if absolute else 0 < amount <= 1):
            raise BudgetError(
                f"the budget `latency={given}` is out of range",
                hint="a share in (0, 1] of the dense model's time, or milliseconds such as `12ms`",
            )
        if threads < 1 or (batch is not None and batch < 1):
            raise BudgetError("`threads` and `batch` must be at least 1")
        return cls(amount, absolute, threads, batch)

    def share(self, dense_ms: float) -> float:
        """Return the share of the dense model's time that may remain."""
        return self.amount / dense_ms if self.absolute else self.amount


@dataclass(frozen=True, eq=False)
class InTime:
    """A choice that meets a budget of time.

    Attributes:
        keep: What stays. Shape: (channels,).
        dense: How long the dense model takes.
        slim: How long what stays takes, measured in turns with it.
        attempts: Per attempt, what was predicted and measured, as shares of the dense model's time.
        measured: How many operators were timed for it, beyond those that the table knew.
    """

    keep: Tensor
    dense: Timed
    slim: Timed
    attempts: tuple[dict[str, float], ...]
    measured: int

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the JSON report."""
        return {
            "dense_ms": self.dense.ms, "slim_ms": self.slim.ms,
            "share": self.slim.share_of(self.dense), "attempts": list(self.attempts),
            "operators_measured": self.measured,
        }  # fmt: skip


def choose_in_time(
    graph: DependencyGraph,
    scores: Tensor,
    budget: TimeBudget,
    *,
    limits: Limits | None = None,
    caps: Budget | None = None,
    table: Table | None = None,
    progress: Callable[[str], None] | None = None,
) -> InTime:
    """Choose what stays so that the smaller model, when it is run, meets a budget of time.

    A greedy choice meets the budget by prediction; the model it leaves is exported and timed in
    turns with the dense one; if it misses, the prediction is corrected and the choice made again.

    Args:
        graph: The groups.
        scores: Higher = keep; infinite = always. Shape: (channels,).
        budget: What may remain.
        limits: What every choice heeds.
        caps: A second budget, that has to be met as well.
        table: Times of operators; by default this machine's, kept on disk.
        progress: Called with the name of every step when it starts.

    Raises:
        BudgetError: The budget cannot be met.
        OnnxExportError: The model cannot be exported or run.
    """
    say = progress or (lambda _: None)
    say("profile the dense model")
    model = latency_model(graph, threads=budget.threads, batch=budget.batch, table=table)
    candidates = Candidates(graph, scores, limits or Limits())
    with tempfile.TemporaryDirectory(prefix="slimgraph-") as folder:
        search = _Search(model, candidates, budget, caps, Path(folder), say)
        return search.run()


@dataclass(eq=False)
class _Search:
    """The turns of predicting, choosing and measuring; mutable because the prediction learns."""

    model: LatencyModel
    candidates: Candidates
    budget: TimeBudget
    caps: Budget | None
    folder: Path
    say: Callable[[str], None]
    correction: float = 1.0

    def run(self) -> InTime:
        """Return the slowest choice that meets the budget."""
        dense = self._exported(torch.ones_like(self.candidates.graph.frozen), "dense")
        self.say("time operators")
        attempts: list[dict[str, float]] = []
        best: tuple[Tensor, Timed, Timed] | None = None
        (alone,) = in_turns([dense], self.budget.threads)
        wanted, last = self.budget.share(alone.ms), torch.zeros(0)
        for number in range(1, ATTEMPTS + 1):
            try:
                keep, predicted = self._chosen(wanted)
            except BudgetError:
                if best is None:
                    raise
                break  # less than this cannot be predicted, and more met the budget
            self.say(f"measure, attempt {number}")
            times = in_turns([dense, self._exported(keep, "slim")], self.budget.threads)
            share = times[1].share_of(times[0])
            attempts.append({"aim": wanted / self.correction, "predicted": predicted,
                             "measured": share})  # fmt: skip
            meets = share <= wanted * (1 + OVER)
            if meets and (best is None or share > best[2].share_of(best[1])):
                best = keep, times[0], times[1]
            if (meets and share >= wanted * (1 - UNDER)) or torch.equal(keep, last):
                break
            last = keep
            self.correction = share / predicted
        self.model.table.save()
        if best is None:
            raise BudgetError(
                f"no choice met {wanted:.2f} of the dense model's time in {ATTEMPTS} attempts",
                hint="allow more time, or repeat it when the machine is quiet",
            )
        return InTime(*best, tuple(attempts), self.model.table.measured)

    def _chosen(self, wanted: float) -> tuple[Tensor, float]:
        """Choose by prediction, which is corrected where the choice ends up; return its share."""
        limit = wanted / self.correction * self.model.dense
        for _ in range(CORRECTIONS):
            keep = TimedGreedy(self.model, self.candidates, self.caps).shrink_to(limit)
            predicted = self.model.predict(keep, exact=True)
            if predicted <= limit * (1 + NEAR):
                break
        return keep, predicted / self.model.dense

    def _exported(self, keep: Tensor, name: str) -> tuple[Path, Any]:
        graph = self.candidates.graph
        small = compress(graph, Mask.of_channels(graph, keep))
        path = self.folder / f"{name}.onnx"
        batch = self.budget.batch
        export_onnx(small, path, verify=False, dynamic_batch=batch is not None)
        return path, feeds(small, batch)
