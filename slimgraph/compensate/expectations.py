"""Expected values of channels, from the statistics of batch norms alone.

Behind a batch norm a channel is taken for a Gaussian whose mean is the norm's shift and whose
deviation is its scale. Point-wise ops are run on a grid of that Gaussian. Two channels that meet
are taken for independent, and pooling for keeping the mean, which is exact for averages and falls
short of the truth for maxima.
"""

from typing import Any

import torch
from torch import Tensor, fx

from slimgraph.connections import Connections
from slimgraph.constants import Constants
from slimgraph.graph import DependencyGraph
from slimgraph.labels import along, compact

_REACH, _POINTS = 8.0, 1601  # of the grid, in deviations: what a Gaussian has beyond is 1e-15
_CARRYING = ("movement", "pool", "selection")


class Expectations(Constants):
    """Runs a model on means and standard deviations of its values; NaN stands for unknown.

    Args:
        graph: The analysed model, in eval mode.

    Source: Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction,
    ICCV 2019, section 4.2.1, for ReLU; here for any point-wise op, by quadrature.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self.deviations: dict[fx.Node, Any] = {}
        self._spreading = False
        grid = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.double)
        density = torch.exp(-grid.square() / 2)
        self._grid, self._shares = grid, density / density.sum()
        connections = Connections(graph, graph.traced)
        nothing = torch.zeros(len(graph.frozen), dtype=torch.bool)
        super().__init__(graph, lambda weight, dim: connections.ends(weight, dim, nothing))

    def _visit(self, node: fx.Node) -> Any:
        """Return the means, and note the deviations."""
        kind, name = self.graph.kinds.get(node), self._name(node)
        if kind == "norm":
            mean, spread = self._normed(node, name)
        elif kind == "element-wise" and any(
            self._spread_of(n) is not None for n in _operands(node)
        ):
            mean, spread = self._point_by_point(node, name)
        else:
            mean = super()._visit(node)
            spread = self._spread_like(node, kind, mean)
            if kind in _CARRYING and isinstance(mean, Tensor) and spread is None:
                mean = None  # it may vary, nobody knows how much
        self.deviations[node] = spread
        return mean

    def _spread_of(self, node: fx.Node) -> Tensor | None:
        found = self.deviations.get(node)
        return found if isinstance(found, Tensor) and self._known(node) is not None else None

    def _varies(self, node: fx.Node) -> bool:
        return self._spread_of(node) is not None

    def _spread_like(self, node: fx.Node, kind: str | None, mean: Any) -> Any:
        """Return the deviations of what moves or pools values; those of constants are zero."""
        if mean is None or kind not in _CARRYING:
            return None
        means, self.values, self._spreading = self.values, self.deviations, True
        try:
            return super()._visit(node)
        finally:
            self.values, self._spreading = means, False

    def _known(self, argument: Any) -> Tensor | None:
        """Return the means, or the deviations while these are moved: a parameter has none."""
        found = super()._known(argument)
        if found is None or not self._spreading or argument.op != "get_attr":
            return found
        return torch.zeros_like(found)

    def _movement(self, node: fx.Node) -> Any:
        """Let what is the same everywhere stay what it is; labels cannot tell it from nothing."""
        found = super()._movement(node)
        first: Any = node.args[0] if node.args else node.kwargs["input"]
        known = self._known(first) if isinstance(first.meta["val"], Tensor) else None
        if known is None:
            return found
        numbers, made = compact(known).flatten(), node.meta["val"]
        if not bool((numbers == numbers[0]).all()):
            return found
        if isinstance(made, Tensor):
            return numbers[0].expand(made.shape)
        return tuple(numbers[0].expand(each.shape) for each in made)

    def _normed(self, node: fx.Node, name: str) -> tuple[Any, Any]:
        """Take the scale and shift of a batch norm with statistics."""
        known = super()._visit(node)
        stored = self._scale_and_shift(node)
        if stored is None or known is None:
            return known, None
        scale, shift = (along(each, 1, tuple(known.shape)) for each in stored)
        varies = compact(known).isnan()
        mean = torch.where(varies, compact(shift), compact(known)).expand(known.shape)
        return mean, torch.where(varies, compact(scale).abs(), 0.0).expand(known.shape)

    def _scale_and_shift(self, node: fx.Node) -> tuple[Tensor, Tensor] | None:
        """Return those of a batch norm that uses its statistics."""
        if node.op != "call_module":
            return None
        module = self.model.get_submodule(str(node.target))
        mean = getattr(module, "running_mean", None)
        if mean is None:
            return None
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        scale = torch.ones_like(mean) if weight is None else weight.detach()
        shift = torch.zeros_like(mean) if bias is None else bias.detach()
        return scale.double().cpu(), shift.double().cpu()

    def _point_by_point(self, node: fx.Node, name: str) -> tuple[Any, Any]:
        """Let one operand run over its distribution, or combine two that are independent."""
        operands = {n: self._small_of(n) for n in _operands(node)}
        if any(found is None for found in operands.values()):
            return None, None
        pairs = {n: found for n, found in operands.items() if found is not None}
        random = [n for n, (_, spread) in pairs.items() if bool((spread != 0).any())]
        shape = node.meta["val"].shape
        if len(random) == 2 and name in ("add", "sub", "mul"):
            (one, s), (two, t) = (pairs[n] for n in random)
            mean = self._applied(node, name, {n: pairs[n][0] for n in pairs})
            square = s.square() + t.square()
            if name == "mul":
                square = (s * two).square() + (t * one).square() + (s * t).square()
            return None if mean is None else mean.expand(shape), square.sqrt().expand(shape)
        if len(random) != 1 or pairs[random[0]][0].shape[0] != 1:
            return None, None
        mean, spread = pairs[random[0]]
        grid = self._grid.reshape(-1, *[1] * (mean.ndim - 1))
        small = {n: pairs[n][0] for n in pairs} | {random[0]: mean + spread * grid}
        made = self._applied(node, name, small)
        if made is None:
            return None, None
        shares = self._shares.reshape(grid.shape)
        mean = (made * shares).sum(0, keepdim=True)
        spread = ((made - mean).square() * shares).sum(0, keepdim=True).sqrt()
        return mean.expand(shape), spread.expand(shape)

    def _small_of(self, node: fx.Node) -> tuple[Tensor, Tensor] | None:
        """Return means and deviations of an operand, with size 1 along dims without channels."""
        mean = self._known(node)
        if mean is None:
            return None
        spread = self._spread_of(node)
        mean = compact(mean)
        return mean, torch.zeros_like(mean) if spread is None else compact(spread).nan_to_num()


def _operands(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)]
