"""Group lasso over out-in-channel groups, and the baselines it is compared with."""

from typing import Literal

import torch
from torch import Tensor

from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.regularize.base import GroupRegularizer, Regularizer, Steps, push
from slimgraph.slices import Slices, slices_of

GroupScale = Literal["none", "sqrt"]
Normalize = Literal["none", "mean", "max"]
MAKES = ("out", "bare")
TINY = 1e-24  # squared norms below it count as zero, where any subgradient of length <= 1 will do


class OICSR(GroupRegularizer):
    """Out-in-channel group lasso: `strength * sum_c s_c ||g_c||_2`.

    `g_c` are all weights that make channel c, in every module tied to it, and all that read it.

    Args:
        graph: The groups.
        strength: The paper's lambda_s. Its value there is not public.
        group_scale: `s_c`: 1, or the square root of the number of weights in `g_c`.
        include_bn: Whether scales and shifts of norms belong to `g_c`.
        normalize: Divide by the mean or largest norm in the channel's group, as a constant.
        proximal: Whether `step` follows the task's gradient alone and then shrinks every group,
            `g <- g max(0, 1 - lr strength s_c / ||g||)`; groups become exactly zero then.

    Source: Li et al., OICSR, CVPR 2019, section 3; the options are best readings, since the
    paper's choices are not public.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        strength: float = 1e-4,
        *,
        group_scale: GroupScale = "none",
        include_bn: bool = False,
        normalize: Normalize = "none",
        proximal: bool = False,
    ) -> None:
        """Find the groups' weights."""
        if group_scale not in ("none", "sqrt") or normalize not in ("none", "mean", "max"):
            raise SlimgraphError(
                f"unknown option `{group_scale}` or `{normalize}`",
                hint='group_scale: "none", "sqrt"; normalize: "none", "mean", "max"',
            )
        norms = ("scale", "shift") if include_bn else ()
        super().__init__(graph, strength, slices_of(graph, (*MAKES, "in", *norms)))
        self.normalize, self.proximal = normalize, proximal
        self.scales = torch.ones(len(self.prunable))
        if group_scale == "sqrt":
            self.scales = _sizes(self.slices, len(self.prunable)).sqrt()

    def _weights(self, norms: Tensor) -> Tensor:
        weights = self.strength * self.scales.to(norms)
        if self.normalize == "none":
            return weights
        for group in self.graph.groups:
            own = norms.detach()[group.components]
            middle = own.mean() if self.normalize == "mean" else own.max()
            weights[group.components] /= middle.clamp_min(TINY**0.5)
        return weights

    def penalty(self, squares: Tensor) -> Tensor:
        """Return `sum_c a_c ||g_c||`."""
        norms = squares.clamp_min(TINY).sqrt()  # its gradient is zero at zero
        return (self._weights(norms) * torch.where(squares > TINY, norms, 0.0)).sum()

    def pull(self, squares: Tensor) -> Tensor:
        """Return `strength s_c / ||g_c||`, zero for a group that is zero."""
        norms = squares.clamp_min(TINY).sqrt()
        return torch.where(squares > TINY, self._weights(norms) / norms, 0.0)

    def step(self, optimizer: Steps) -> None:
        """Step on both gradients, or on the task's and then shrink."""
        if not self.proximal:
            super().step(optimizer)
            return
        optimizer.step()
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        with torch.no_grad():
            pull = self.pull(self.squares())
            for each in self.slices:
                tensor = each.tensor
                if id(tensor) in rates:
                    left = (1 - rates[id(tensor)] * pull).clamp_min(0)
                    tensor.mul_(each.spread(torch.where(self.prunable.to(left.device), left, 1.0)))


class GroupLasso(Regularizer):
    """Separated group lasso: `strength * sum ||w||_2` over the slices that make channels.

    Each layer's slices are groups of their own, whatever is tied to them.

    Source: Wen et al., Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016, eq. 2;
    the baseline of OICSR.
    """

    def __init__(self, graph: DependencyGraph, strength: float = 1e-4) -> None:
        """Find the slices."""
        super().__init__(graph, strength)
        slices = slices_of(graph, MAKES)
        self.slices = tuple(s for s in slices if bool(self.prunable[s.channels].any()))

    def __call__(self) -> Tensor:
        """Return the penalty, a scalar with a gradient."""
        found = [each.norms()[self.prunable[each.channels]].sum() for each in self.slices]
        return self.strength * torch.stack(found).sum()

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add `strength w / ||slice||`."""
        for each in self.slices:
            tensor, norms = each.tensor, each.norms()
            if tensor.requires_grad:
                free = self.prunable.to(norms.device)[each.channels.to(norms.device)]
                pull = self.strength / norms.clamp_min(TINY**0.5)
                pull = torch.where(free & (norms > TINY**0.5), pull, 0.0)
                push(tensor, tensor * each.lay(pull))


class L1(Regularizer):
    """`strength * sum |w|` over all weights that make or read a channel that can leave."""

    def __init__(self, graph: DependencyGraph, strength: float = 1e-5) -> None:
        """Find the weights."""
        super().__init__(graph, strength)
        self.slices: dict[str, list[Slices]] = {}
        for each in slices_of(graph, (*MAKES, "in")):
            if bool(self.prunable[each.channels].any()):
                self.slices.setdefault(each.parameter, []).append(each)

    def _covered(self, slices: list[Slices]) -> Tensor:
        """Mark the weights of a parameter that belong to a group, as ones."""
        free = [each.spread(self.prunable.float()) for each in slices]
        left = torch.ones_like(free[0])
        for each in free:
            left = left * (1 - each)
        return 1 - left

    def __call__(self) -> Tensor:
        """Return the penalty, a scalar with a gradient."""
        found = [
            (slices[0].tensor.abs() * self._covered(slices)).sum()
            for slices in self.slices.values()
        ]
        return self.strength * torch.stack(found).sum()

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add `strength sign(w)`."""
        for slices in self.slices.values():
            tensor = slices[0].tensor
            if tensor.requires_grad:
                push(tensor, self.strength * tensor.sign() * self._covered(slices))


def _sizes(slices: tuple[Slices, ...], count: int) -> Tensor:
    """Count the weights of every channel. Shape: (count,)."""
    sizes = torch.zeros(count)
    for each in slices:
        share = each.tensor.numel() / len(each.channels)
        sizes.index_add_(0, each.channels, torch.full((len(each.channels),), share))
    return sizes
