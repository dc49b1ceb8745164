"""Network Slimming: an L1 penalty on the scales of norms."""

import torch
from torch import Tensor

from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.regularize.base import Regularizer, push
from slimgraph.slices import slices_of


class NetworkSlimming(Regularizer):
    """`strength * sum |gamma|` over the scales of norms whose channels can leave.

    A norm may stand behind its convolution or before it: with `slimgraph.with_selections` the
    scales of pre-activation nets speak for what their own consumer reads.

    Args:
        graph: The groups.
        strength: The paper's lambda: 1e-4 for VGG, 1e-5 for ResNet-164 and DenseNet-40.
        smooth: Width below which the penalty is quadratic (smooth L1); 0: subgradient, 0 at 0.
        init: Set these scales to it at once; the paper starts at 0.5. `None` leaves them.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming,
    ICCV 2017, eq. 1 and section 4.2.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        strength: float = 1e-4,
        *,
        smooth: float = 0.0,
        init: float | None = None,
    ) -> None:
        """Find the scales."""
        super().__init__(graph, strength)
        self.smooth = smooth
        slices = slices_of(graph, ("scale",))
        self.slices = tuple(s for s in slices if bool(self.prunable[s.channels].any()))
        if not self.slices:
            raise SlimgraphError(
                "no norm scales a channel that can leave", hint="use `regularize.OICSR`"
            )
        if init is not None:
            with torch.no_grad():
                for each in self.slices:
                    free = each.spread(self.prunable.float())
                    each.tensor.copy_(torch.where(free > 0, init, each.tensor))

    def __call__(self) -> Tensor:
        """Return the penalty, a scalar with a gradient."""
        found = [
            (self._sizes(s.tensor) * s.spread(self.prunable.float())).sum() for s in self.slices
        ]
        return self.strength * torch.stack(found).sum()

    def _sizes(self, scales: Tensor) -> Tensor:
        sizes = scales.abs()
        if not self.smooth:
            return sizes
        near = sizes.square() / (2 * self.smooth)
        return torch.where(sizes < self.smooth, near, sizes - self.smooth / 2)

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add `strength sign(gamma)`; within `smooth` of zero, in proportion to gamma."""
        for each in self.slices:
            tensor = each.tensor
            if tensor.requires_grad:
                slope = (tensor / self.smooth).clamp(-1, 1) if self.smooth else tensor.sign()
                push(tensor, self.strength * slope * each.spread(self.prunable.float()))
