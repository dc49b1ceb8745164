"""What all ways of choosing share: scores in, a mask and a trace of the decisions out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from slimgraph.display import Rows, Shown
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.mask import Mask
from slimgraph.select.candidates import Candidates, Limits

Measure = Callable[[Tensor], float]


@dataclass(frozen=True)
class Trace:
    """How a choice came about; JSON data.

    Attributes:
        strategy: Its name.
        options: Its settings.
        decisions: One entry per decision, in order; what is in them is the strategy's.
        groups: Per group that can shrink, how many channels are left of how many.
    """

    strategy: str
    options: dict[str, Any]
    decisions: tuple[dict[str, Any], ...]
    groups: dict[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "strategy": self.strategy,
            "options": self.options,
            "decisions": list(self.decisions),
            "groups": {name: list(counts) for name, counts in self.groups.items()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Choice(Shown):
    """What a strategy returns.

    Attributes:
        keep: Bool tensor, True = keep. Shape: (channels,).
        mask: The same by group, for `compress`.
        trace: How it came about.
    """

    keep: Tensor
    mask: Mask
    trace: Trace

    def __repr__(self) -> str:
        """Say it in one line."""
        kept = sum(left for left, _ in self.trace.groups.values())
        total = sum(size for _, size in self.trace.groups.values())
        return f"Choice({self.trace.strategy}: keeps {kept} of {total} channels)"

    def to_rows(self) -> Rows:
        """List what is left of each group."""
        rows = [(name, str(left), str(size)) for name, (left, size) in self.trace.groups.items()]
        return Rows(repr(self), ("group", "kept", "of"), rows)


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """A way of choosing channels; its fields are its options.

    Attributes:
        limits: What stays in any case.
    """

    name: ClassVar[str]
    measures: ClassVar[bool] = False
    limits: Limits = field(default=Limits())

    def choose(
        self, graph: DependencyGraph, scores: Tensor, measure: Measure | None = None
    ) -> Choice:
        """Choose which channels stay.

        Args:
            graph: The groups.
            scores: Higher = keep; infinite = always. Shape: (channels,).
            measure: How good the model is with some of its channels, higher = better; needed
                where `measures` is true. See `slimgraph.Trial`.

        Returns:
            The mask, and a trace of the decisions.

        Raises:
            BudgetError: The budget cannot be met, or there is no `measure`.
        """
        if self.measures and measure is None:
            raise BudgetError(
                f"the strategy `{self.name}` tries models out, but nothing measures them",
                hint="give `measure=slimgraph.Trial(graph, evaluate)`",
            )
        candidates = Candidates(graph, scores, self.limits)
        return self.chosen(candidates, *self._choose(candidates, measure))

    def chosen(
        self, candidates: Candidates, keep: Tensor, decisions: Sequence[dict[str, Any]]
    ) -> Choice:
        """Put a choice and its trace together. `keep` has shape (channels,)."""
        graph = candidates.graph
        groups = {
            group.name: (int(keep[group.components].sum()), group.size)
            for group in graph.groups
            if group.prunable
        }
        trace = Trace(self.name, self._options(), tuple(decisions), groups)
        return Choice(keep, Mask.of_channels(graph, keep), trace)

    @abstractmethod
    def _choose(
        self, candidates: Candidates, measure: Measure | None
    ) -> tuple[Tensor, Sequence[dict[str, Any]]]:
        """Return the choice, shape (channels,), and the decisions."""

    def _options(self) -> dict[str, Any]:
        options = asdict(self)
        limits: dict[str, Any] = options.pop("limits")
        return {**options, **limits, "keep": list(limits["keep"])}
