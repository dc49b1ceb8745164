"""Trying a choice out: compress, repair if asked to, measure."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from slimgraph.compress import compress
from slimgraph.graph import DependencyGraph
from slimgraph.mask import Mask

Repair = Callable[[fx.GraphModule, fx.GraphModule], object]


@dataclass(frozen=True, eq=False)
class Trial:
    """How good a model is with some of its channels.

    Every call compresses the model anew, so nothing is left of the one before.

    Attributes:
        graph: The groups; the model keeps its weights.
        evaluate: Higher = better. It gets the smaller model in eval mode, without gradients. Use
            data that is neither for training nor for testing.
        repair: Changes the smaller model, its second argument, so that it does what the first, the
            whole one in eval mode, did. See `slimgraph.compensate`.

    Example:
        >>> import slimgraph as sg
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        >>> graph = sg.analyze(sg.trace(net, torch.ones(1, 2)))
        >>> trial = Trial(graph, lambda model: -float(model(torch.ones(1, 2)).abs()))
        >>> trial(torch.ones(len(graph.frozen), dtype=torch.bool)) <= 0
        True
    """

    graph: DependencyGraph
    evaluate: Callable[[fx.GraphModule], float]
    repair: Repair | None = None

    def __call__(self, keep: Tensor) -> float:
        """Return the quality with these channels. `keep` has shape (channels,)."""
        slim = compress(self.graph, Mask.of_channels(self.graph, keep)).eval()
        traced = self.graph.traced
        modes = [(module, module.training) for module in traced.modules()]
        with torch.no_grad():
            if self.repair is not None:
                traced.eval()
                try:
                    self.repair(traced, slim)
                finally:
                    for module, training in modes:
                        module.training = training
            return float(self.evaluate(slim))
