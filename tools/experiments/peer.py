"""The same by Torch-Pruning, as its README says."""

import copy
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.calibrate.ranks import silent
from tools.experiments.subject import Subject, macs

# Its importances; what loses channels is every layer, the same share of each (local) or ranked over
# all (global). Inner: only layers that no shortcut couples to others, which the caller has to name
# where the tool cannot follow a shortcut.
SCOPES = ("local", "global", "inner local", "inner global")
KINDS: dict[str, Callable[[Any], Any]] = {
    "l2": lambda tp: tp.importance.GroupMagnitudeImportance(p=2),
    "bn_scale": lambda tp: tp.importance.BNScaleImportance(),
    "taylor": lambda tp: tp.importance.GroupTaylorImportance(),
    "lamp": lambda tp: tp.importance.LAMPImportance(),
}
PEERS = tuple(f"{kind}, {scope}" for kind in KINDS for scope in SCOPES)
HALVINGS = 9
FAR = 0.1  # a network that costs so much more or less is not the one asked for


@dataclass(frozen=True, eq=False)
class Peer:
    """Torch-Pruning at work on one network.

    Attributes:
        subject: The network.
    """

    subject: Subject
    _ratios: dict[tuple[str, float], float] = field(default_factory=dict, repr=False)

    def shrunk(self, criterion: str, repair: str, share: float) -> nn.Module:
        """Shrink the network to about a share of its work.

        The tool takes a share of channels, not of work: of those tried while the interval of
        shares is halved, the one that comes nearest is taken, be it above.

        Args:
            criterion: One of `PEERS`.
            repair: `none` or `recalibrate`.
            share: Of the multiply-accumulates.

        Raises:
            RuntimeError: It could not do it.
        """
        if (criterion, share) not in self._ratios:
            self._ratios[criterion, share] = self._ratio(criterion, share)
        small = self.pruned(criterion, self._ratios[criterion, share])
        if repair == "recalibrate":
            sg.compensate.recalibrate(small, self.subject.unlabelled, progress=silent)
        return small

    def _ratio(self, criterion: str, share: float) -> float:
        """Find which share of channels costs that share of the work."""
        low, high = 0.0, 1.0
        off: dict[float, float] = {}
        failed: Exception | None = None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            try:
                small = self.pruned(criterion, middle)
                left = macs(small, self.subject.example) / self.subject.macs
            except Exception as error:
                failed, left = error, 0.0  # it may have taken too much
            else:
                off[middle] = abs(left - share)
            low, high = (middle, high) if left > share else (low, middle)
        best = min(off, key=lambda ratio: off[ratio], default=None)
        if best is None or off[best] > FAR:
            reason = "" if failed is None else f"; {type(failed).__name__}: {failed}"
            raise RuntimeError(f"it does not come within {FAR} of {share}{reason}") from failed
        return best

    def pruned(self, criterion: str, ratio: float) -> nn.Module:
        """Prune a copy of the network; its classes stay.

        Args:
            criterion: One of `PEERS`.
            ratio: The share of channels that leaves.
        """
        tp: Any = importlib.import_module("torch_pruning")
        kind, _, scope = criterion.partition(", ")
        model = copy.deepcopy(self.subject.model)
        kept = [self.subject.head, *(self.subject.coupled if scope.startswith("inner") else ())]
        if kind == "taylor":
            for name, parameter in model.named_parameters():
                parameter.grad = self._gradients[name].clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                model,
                self.subject.example,
                importance=KINDS[kind](tp),
                global_pruning=scope.endswith("global"),
                pruning_ratio=ratio,
                ignored_layers=[model.get_submodule(name) for name in kept],
            )
            pruner.step()
        model.zero_grad()
        return model.eval()

    @cached_property
    def _gradients(self) -> dict[str, Tensor]:
        """Sum up the gradients of the loss over all images, in eval mode."""
        model = copy.deepcopy(self.subject.model)
        for images, labels in self.subject.images:
            F.cross_entropy(model(images), labels).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
