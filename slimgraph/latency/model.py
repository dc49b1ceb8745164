"""How long a model takes under any mask, predicted from the times of its operators.

The dense model is profiled as a whole; each kernel's time is then scaled by what its operator alone
takes at other sizes. So what a cache or a fusion does to it counts, and the table only has to know
how time changes with size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import onnx
import torch
from torch import Tensor

from slimgraph.errors import OnnxExportError
from slimgraph.graph import DependencyGraph
from slimgraph.kept import KeptChannels
from slimgraph.latency.curves import HIGH, Curve, Steps
from slimgraph.latency.operators import Operator, PlainModel
from slimgraph.latency.sizing import Sizing
from slimgraph.latency.table import Table, spelled


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts the latency of what a mask leaves.

    Attributes:
        graph: The groups.
        plain: The dense model's file.
        operators: What onnxruntime runs of it.
        overhead: What a run takes beside its operators, in milliseconds.
        table: Times of operators.
        batch: Examples per run; `None` as traced.
    """

    graph: DependencyGraph
    plain: PlainModel
    operators: tuple[Operator, ...]
    overhead: float
    table: Table
    batch: int | None = None
    _curves: dict[str, Curve] = field(default_factory=dict, repr=False)
    _steps: dict[str, Steps] = field(default_factory=dict, repr=False)

    @cached_property
    def dense(self) -> float:
        """What the dense model takes, in milliseconds."""
        return self.overhead + sum(operator.ms for operator in self.operators)

    @cached_property
    def constants(self) -> Mapping[str, onnx.TensorProto]:
        """Weights and constants of the dense model."""
        return self.plain.constants

    @cached_property
    def whole(self) -> KeptChannels:
        """The mask that keeps everything."""
        return KeptChannels(self.graph, torch.ones(len(self.graph.frozen), dtype=torch.bool))

    @cached_property
    def scalings(self) -> tuple["Scaling | None", ...]:
        """How each operator's time scales; `None` for those that do as the one before."""
        return tuple(Scaling.of(self, operator) for operator in self.operators)

    def ms(self, sizing: Sizing, **counts: int) -> float:
        """Measure an operator, or look it up.

        Args:
            sizing: Of the operator.
            counts: Numbers of channels, by variable.
        """
        return self.table.ms(sizing.spec(counts), self.constants)

    def curve(self, sizing: Sizing, variable: str) -> Curve:
        """Return the curve of an operator along one variable; operators that are alike share it."""
        full = sizing.full[variable]
        key = f"{variable} {spelled(sizing.spec({}))}"
        if key not in self._curves:
            self._curves[key] = Curve(
                full, lambda n: self.ms(sizing, **{variable: n}), self.steps(sizing, variable)
            )
        return self._curves[key]

    def steps(self, sizing: Sizing, variable: str) -> Steps:
        """Return how time grows in steps, learned once for operators of a kind."""
        key = f"{variable} {sizing.kind}"
        if key not in self._steps:
            others = {name: min(count, HIGH) for name, count in sizing.full.items()}
            self._steps[key] = Steps.learned(lambda n: self.ms(sizing, **(others | {variable: n})))
        return self._steps[key]

    def times(self, keep: Tensor) -> list[float]:
        """Predict each operator's time in milliseconds.

        Args:
            keep: Bool tensor. Shape: (channels,).
        """
        kept, ratio, found = KeptChannels(self.graph, keep), 1.0, []
        for operator, scaling in zip(self.operators, self.scalings, strict=True):
            if scaling is not None:
                ratio = scaling.ratio(kept)
            found.append(operator.ms * ratio)
        return found

    def predict(self, keep: Tensor, *, exact: bool = False) -> float:
        """Predict how long a run takes, in milliseconds.

        Args:
            keep: Bool tensor. Shape: (channels,).
            exact: Whether every operator is measured at just these sizes, which corrects its curves
                there; else they are made of what is known.
        """
        if exact:
            self.correct(keep)
        return self.overhead + sum(self.times(keep))

    def correct(self, keep: Tensor) -> None:
        """Measure every operator at the sizes that a mask leaves, and scale its curves to it."""
        kept = KeptChannels(self.graph, keep)
        for scaling in self.scalings:
            if scaling is not None:
                scaling.correct(kept, self)


@dataclass(eq=False)
class Scaling:
    """How the time of one operator changes with what it reads and what it writes.

    It is mutable because measurements correct it.

    Attributes:
        sizing: Of the operator.
        curves: Its time by the number of channels that it reads, and by that which it writes; a
            single one where both move together; none: it takes time in proportion to its work.
        factor: By how much the product of the curves was off where it was last measured.
    """

    sizing: Sizing
    curves: tuple[Curve, ...] = ()
    factor: float = 1.0

    @classmethod
    def of(cls, model: LatencyModel, operator: Operator) -> "Scaling | None":
        """Find the curves of an operator; `None` if nothing is known of it."""
        if not operator.nodes:
            return None
        sizing = Sizing(model.whole, operator, model.batch)
        try:
            curves = tuple(model.curve(sizing, variable) for variable in sizing.full)
        except OnnxExportError:  # it does not stand alone
            curves = ()
        return cls(sizing, curves)

    def ratio(self, kept: KeptChannels) -> float:
        """Return the time under a mask as a multiple of that of the dense model."""
        if not self.curves:
            return self.sizing.work(kept) / max(self.sizing.work(self.sizing.whole), 1)
        return self.factor * self._product(self.sizing.counts(kept))

    def _product(self, counts: Mapping[str, int]) -> float:
        return prod(
            curve.at(counts[variable]) / curve.at(curve.full)
            for variable, curve in zip(counts, self.curves, strict=True)
        )

    def correct(self, kept: KeptChannels, model: LatencyModel) -> None:
        """Measure it under a mask, and let the curves agree with that."""
        counts = self.sizing.counts(kept)
        if self.curves:
            found = model.ms(self.sizing, **counts) / model.ms(self.sizing)
            self.factor = found / self._product(counts)
