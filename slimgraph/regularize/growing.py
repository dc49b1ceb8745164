"""Quadratic penalties whose strength differs by channel: growing ones, and DepGraph's pull."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.importance.magnitude import norm
from slimgraph.regularize.base import GroupRegularizer, Steps
from slimgraph.regularize.lasso import MAKES
from slimgraph.slices import slices_of


class GroupPull(GroupRegularizer):
    """DepGraph's sparse learning: `w.grad += strength 2^(alpha (I_max - I_c) / (I_max - I_min)) w`.

    `I_c = ||g_c||` over all weights that make or read channel c and the scales of its norms;
    largest and smallest are those of its group. Weak channels are pulled harder.

    Args:
        graph: The groups.
        strength: Weight of the penalty.
        alpha: How much harder, as a power of two.

    Source: Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, section 3.3.
    """

    def __init__(
        self, graph: DependencyGraph, strength: float = 1e-4, *, alpha: float = 4.0
    ) -> None:
        """Find the groups' weights."""
        super().__init__(graph, strength, slices_of(graph, (*MAKES, "in", "scale")))
        self.alpha = alpha

    def penalty(self, squares: Tensor) -> Tensor:
        """Return `sum_c a_c ||g_c||^2 / 2` for constant `a_c`."""
        return (self.pull(squares.detach()) * squares).sum() / 2

    def pull(self, squares: Tensor) -> Tensor:
        """Return `a_c`."""
        norms, result = squares.sqrt(), torch.zeros_like(squares)
        for group in self.graph.groups:
            own = group.components[~group.frozen]
            if len(own):
                low, high = norms[own].aminmax()
                weakness = (high - norms[own]) / (high - low).clamp_min(
                    torch.finfo(norms.dtype).tiny
                )
                result[own] = self.strength * 2 ** (self.alpha * weakness)
        return result


class GrowingRegularizer(GroupRegularizer):
    """GReg-1: an L2 penalty on the channels that are to leave, which grows as training goes on.

    Every `every` steps the factor grows by `strength`, up to `ceiling`; then the channels are as
    good as zero and can leave. `state_dict` holds the factor and the step.

    Args:
        graph: The groups.
        leaving: Bool tensor, True = is to leave. Shape: (channels,).
        strength: What the factor grows by; the paper's delta-lambda.
        every: Steps between two growths; the paper's K.
        ceiling: Largest factor.

    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021, section 3.1.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        leaving: Tensor,
        strength: float = 1e-4,
        *,
        every: int = 10,
        ceiling: float = 1.0,
    ) -> None:
        """Find the weights that make channels."""
        super().__init__(graph, strength, slices_of(graph, MAKES))
        if leaving.shape != self.prunable.shape:
            raise SlimgraphError(
                f"`leaving` has shape {tuple(leaving.shape)}, but there are "
                f"{len(self.prunable)} channels",
                hint="take `~keep` of `slimgraph.select`",
            )
        self.leaving = leaving & self.prunable
        self.every, self.ceiling = every, ceiling
        self.factor, self.steps = 0.0, 0

    @property
    def is_done(self) -> bool:
        """Whether the factor has reached its ceiling."""
        return self.factor >= self.ceiling

    def penalty(self, squares: Tensor) -> Tensor:
        """Return `factor sum_c ||g_c||^2 / 2` over the channels that are to leave."""
        return (self.pull(squares) * squares).sum() / 2

    def pull(self, squares: Tensor) -> Tensor:
        """Return the factor for the channels that are to leave."""
        return self.factor * self.leaving.to(squares)

    def step(self, optimizer: Steps) -> None:
        """Step on both gradients, and let the factor grow."""
        super().step(optimizer)
        self.steps += 1
        if self.steps % self.every == 0:
            self.factor = min(self.factor + self.strength, self.ceiling)

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, the number of steps, and what is to leave."""
        return {"factor": self.factor, "steps": self.steps, "leaving": self.leaving}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.factor, self.steps = float(state["factor"]), int(state["steps"])
        self.leaving = state["leaving"].clone()


class SeparatingRegularizer(GrowingRegularizer):
    """GReg-2: the penalty grows on all channels until their magnitudes separate, then on some.

    At `pick_at` the channels that are to leave are chosen by what is left of them.

    Args:
        graph: The groups.
        choose: Called once with the L1 norm of what makes each channel, shape (channels,);
            returns what stays, such as `lambda s: slimgraph.select(graph, s, budget)`.
        strength: What the factor grows by.
        every: Steps between two growths.
        ceiling: Largest factor.
        pick_at: The factor at which channels are chosen.

    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021, section 3.2.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        choose: Callable[[Tensor], Tensor],
        strength: float = 1e-4,
        *,
        every: int = 10,
        ceiling: float = 1.0,
        pick_at: float = 0.01,
    ) -> None:
        """Let all channels be pulled at first."""
        everything = torch.ones(len(graph.frozen), dtype=torch.bool)
        super().__init__(graph, everything, strength, every=every, ceiling=ceiling)
        self.choose, self.pick_at, self.picked = choose, pick_at, False

    def step(self, optimizer: Steps) -> None:
        """Step on both gradients, let the factor grow, and choose when it is time."""
        super().step(optimizer)
        if not self.picked and self.factor >= self.pick_at:
            keep = self.choose(norm(self.graph, 1))
            self.leaving, self.picked = self.leaving & ~keep, True

    def state_dict(self) -> dict[str, Any]:
        """Return what changes while it runs."""
        return super().state_dict() | {"picked": self.picked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().load_state_dict(state)
        self.picked = bool(state["picked"])
