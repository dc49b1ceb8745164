"""A trained network, the images it is repaired and judged with, and our ways to shrink it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

import slimgraph as sg
from slimgraph.calibrate.ranks import silent
from slimgraph.compensate.in_turn import Ranking
from slimgraph.errors import BudgetError
from slimgraph.graph import DependencyGraph
from slimgraph.importance import CRITERIA, DATA_CRITERIA
from tools.experiments.training import Batches, has_norms

OWN = (*CRITERIA, *DATA_CRITERIA)
REPAIRS = ("none", "recalibrate", "shift_means", "project", "reconstruct", "prune_in_turn")
AIMS = 6
IN_TURN = ("lasso", "obs", "cap")  # what `prune_in_turn` itself can choose by


@dataclass(frozen=True, eq=False)
class Subject:
    """One trained network.

    Attributes:
        model: The network, in eval mode; it never changes.
        images: For scores and repair. Their labels are only for Taylor scores.
        held_out: What the best of many ways is found on.
        test: What is reported.
        selections: Whether readers of a value may each lose other channels of it.
        seed: For random scores.
        head: The layer whose outputs are the answers; no peer may thin it out.
    """

    model: nn.Module
    images: Batches
    held_out: Batches
    test: Batches
    selections: bool = False
    seed: int = 0
    head: str = "classifier"
    _scores: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def example(self) -> Tensor:
        """One image."""
        return self.images[0][0][:1]

    @property
    def unlabelled(self) -> list[Tensor]:
        """Give the images as a loader would that knows no labels."""
        return [images for images, _ in self.images]

    @cached_property
    def graph(self) -> DependencyGraph:
        """The groups of channels."""
        traced = sg.trace(self.model, self.example)
        return sg.analyze(sg.with_selections(traced) if self.selections else traced)

    @cached_property
    def coupled(self) -> tuple[str, ...]:
        """Name the layers that have to lose the same channels as others, for a shortcut."""
        graph = sg.analyze(sg.trace(self.model, self.example))
        found: list[str] = []
        for group in graph.groups:
            layers = [name for name in group.modules if self._mixes(name)]
            found += layers if len(layers) > 1 else []
        return tuple(found)

    def _mixes(self, name: str) -> bool:
        """Tell whether a module makes channels of its own: depth-wise layers do not."""
        module = self.model.get_submodule(name)
        return isinstance(module, nn.Linear) or getattr(module, "groups", 0) == 1

    @cached_property
    def macs(self) -> int:
        """What the network costs."""
        return macs(self.model, self.example)

    def scores(self, criterion: str) -> Tensor:
        """Return scores, each kind measured once."""
        if criterion not in self._scores:
            data = self.images if criterion == "taylor" else self.unlabelled
            self._scores[criterion] = sg.score(
                self.graph,
                criterion,
                seed=self.seed,
                data=data if criterion in DATA_CRITERIA else None,
                progress=silent,
            )
        return self._scores[criterion]

    def repairs(self, criterion: str) -> tuple[str, ...]:
        """Return the repairs that make sense of it: norms need to be there to be recalibrated."""
        idle = {"recalibrate": not has_norms(self.model), "prune_in_turn": criterion not in IN_TURN}
        return tuple(repair for repair in REPAIRS if not idle.get(repair, False))


@torch.no_grad()
def macs(model: nn.Module, example: Tensor) -> int:
    """Count the multiply-accumulates of convolutions and products, whoever made the model.

    Args:
        model: In eval mode.
        example: One image.
    """
    with FlopCounterMode(display=False) as counter:
        model.eval()(example)
    return int(counter.get_total_flops()) // 2  # a multiplication and an addition


def shrunk(subject: Subject, criterion: str, repair: str, share: float) -> nn.Module:
    """Shrink a network to a share of its work, and repair it.

    All repairs of weights end with statistics of norms taken anew, as `slim(..., data=)` does.

    Args:
        subject: The network.
        criterion: One of `OWN`.
        repair: One of `REPAIRS`.
        share: Of the multiply-accumulates, at most.

    Raises:
        SlimgraphError: The criterion says nothing of this network.
    """
    graph, data = subject.graph, subject.unlabelled
    if repair == "prune_in_turn":
        small = _in_turn(subject, criterion, share)
    else:
        small = sg.compress(graph, _mask(subject, criterion, share))
        _REPAIRS[repair](graph.traced, small, data)
    if repair not in ("none", "shift_means"):
        sg.compensate.recalibrate(small, data, progress=silent)
    return small


def _mask(subject: Subject, criterion: str, share: float) -> sg.Mask:
    keep = sg.select(subject.graph, subject.scores(criterion), sg.Budget.of(macs=share))
    return sg.Mask.of_channels(subject.graph, keep)


def _in_turn(subject: Subject, criterion: str, share: float) -> fx.GraphModule:
    """Let `prune_in_turn` choose, by counts that aim lower until the result meets the budget.

    Channels of one group may cost differently: those a shortcut without weights goes on filling
    up, for one. As many others may then cost more.
    """
    by, aim = cast("Ranking", criterion), share
    for _ in range(AIMS):
        counts = _mask(subject, criterion, aim)
        small = sg.compensate.prune_in_turn(
            subject.graph, counts, subject.unlabelled, by=by, progress=silent
        ).model
        left = macs(small, subject.example) / subject.macs
        if left <= share:
            return small
        aim *= 0.99 * share / left
    raise BudgetError(f"prune_in_turn does not come below {share} of the work in {AIMS} tries")


def _nothing(_dense: fx.GraphModule, _slim: fx.GraphModule, _data: list[Tensor]) -> None:
    """Leave it as it is: `recalibrate` comes at the end."""


_REPAIRS: dict[str, Callable[[fx.GraphModule, fx.GraphModule, list[Tensor]], object]] = {
    "none": _nothing,
    "recalibrate": _nothing,
    "shift_means": lambda d, s, x: sg.compensate.shift_means(d, s, x, progress=silent),
    "project": lambda d, s, x: sg.compensate.project(d, s, x, progress=silent),
    "reconstruct": lambda d, s, x: sg.compensate.reconstruct(d, s, x, progress=silent),
}
