"""Scores from gradients: how much a loss would change without a channel, to first order."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx

from slimgraph.calibrate.ranks import Progress, all_reduce, tracked
from slimgraph.calibrate.running import placer
from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.importance.magnitude import MAKES
from slimgraph.slices import Slices, slices_of

Form = Literal["gate", "weight"]
Loss = Callable[[Any, Any], Tensor]


def taylor(
    graph: DependencyGraph,
    data: Iterable[tuple[Any, Any]],
    loss: Loss = torch.nn.functional.cross_entropy,
    *,
    form: Form = "gate",
    progress: Progress = None,
) -> Tensor:
    """Score channels by the first-order change of a loss.

    `gate`: `mean over batches (z dL/dz)^2` for a gate z = 1 behind each op that makes or scales
    the channel, added up over these ops; what a norm reads has its gate behind the norm.
    `weight`: `sum_w (w dL/dw)^2` over all weights that make or scale it.
    The model runs in the mode it is in; its gradients stay what they were.

    Args:
        graph: The groups.
        data: Batches of (inputs, target).
        loss: Of the model's output and the target; a mean over the batch.
        form: Which of the two.
        progress: Called with a line per batch; by default a bar in the terminal.

    Returns:
        Shape: (channels,), in squared units of the loss; float64.

    Raises:
        SlimgraphError: The data is empty or has no targets.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, eq. 7
    and section 3.2.
    """
    slices = [s for s in slices_of(graph, (*MAKES, "scale", "shift")) if s.tensor.requires_grad]
    if form == "gate":
        scaled = {s.node for s in slices if s.role == "scale"}
        slices = [s for s in slices if not s.node.users or not scaled >= s.node.users.keys()]
    weights = list({id(s.tensor): s.tensor for s in slices}.values())
    sums = torch.zeros(len(graph.frozen) + 1, dtype=torch.float64)  # the last counts batches
    place = placer(graph.traced)
    for batch in tracked(data, "gradients", progress):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise SlimgraphError(
                "this criterion needs targets", hint="let `data` yield (inputs, target) pairs"
            )
        inputs, target = place(batch)
        made = graph.traced(*inputs) if isinstance(inputs, tuple | list) else graph.traced(inputs)
        found = torch.autograd.grad(loss(made, target), weights, allow_unused=True)
        gradients = {id(w): g for w, g in zip(weights, found, strict=True) if g is not None}
        change = _gates if form == "gate" else _weights
        sums[:-1] += change(graph, slices, gradients)
        sums[-1] += 1
    all_reduce(sums)
    if not sums[-1]:
        raise SlimgraphError("the data has no batch", hint="is the loader used up already?")
    return sums[:-1] / sums[-1]


def _gates(graph: DependencyGraph, slices: list[Slices], gradients: dict[int, Tensor]) -> Tensor:
    """Square `sum_w w dL/dw` over the weights of one op, which is its gate's gradient."""
    gates: dict[fx.Node, Tensor] = defaultdict(
        lambda: torch.zeros(len(graph.frozen), dtype=torch.float64)
    )
    for each in slices:
        if id(each.tensor) in gradients:
            product = each.sum_of(each.tensor.detach() * gradients[id(each.tensor)])
            gates[each.node].index_add_(0, each.channels, product.double().cpu())
    return sum((gate.square() for gate in gates.values()), torch.zeros(len(graph.frozen)))


def _weights(graph: DependencyGraph, slices: list[Slices], gradients: dict[int, Tensor]) -> Tensor:
    result = torch.zeros(len(graph.frozen), dtype=torch.float64)
    for each in slices:
        if id(each.tensor) in gradients:
            product = (each.tensor.detach() * gradients[id(each.tensor)]).square()
            result.index_add_(0, each.channels, each.sum_of(product).double().cpu())
    return result
