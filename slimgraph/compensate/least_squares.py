"""Least-squares reconstruction: each layer's weights, so that it makes what it made before."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from slimgraph.calibrate.layers import Layer, layers_of
from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.ranks import Progress, tracked
from slimgraph.calibrate.replay import SideBySide
from slimgraph.calibrate.running import check_repeatable
from slimgraph.calibrate.sampling import Sampling
from slimgraph.compensate.differences import errors_of
from slimgraph.compensate.pairs import add_shift, takes_shift


@dataclass(frozen=True)
class Repaired:
    """What became of one layer.

    Attributes:
        layer: Qualified name of its weight.
        before: Mean squared error of its output before, as a share of the output's mean square.
        after: The same after.
    """

    layer: str
    before: float
    after: float


@torch.no_grad()
def reconstruct(
    dense: fx.GraphModule,
    slim: fx.GraphModule,
    data: Iterable[Any],
    *,
    points: int = 10,
    ridge: float | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> list[Repaired]:
    """Change the weights of a compressed model so that its layers make what they made before.

    Layer by layer in the order of the graph: the inputs come from the compressed model as it is
    by then, the wanted outputs from the dense one, so that errors do not add up. What changes is
    as little as the errors ask for: a layer without any keeps its weights bit by bit. A layer
    without a bias gets none; the mean of a batch norm behind it changes instead. The last layer of
    a branch also makes up for what the shortcut that it is added to has lost.

    Args:
        dense: The traced model before; nothing in it changes.
        slim: From `compress`, with its plan. Its weights and biases change.
        data: Batches of inputs, or of (inputs, target), without labels; gone through once, or, as
            far as what layers read does not fit into a gigabyte, once per layer: so a list or a
            loader, not an iterator.
        points: Positions per image that are looked at; for linear layers on sequences, too.
        ridge: Weight of the change, relative to the inputs' mean square; by default more for
            fewer rows, see `Moments.ridge`.
        seed: For the positions.
        progress: Called with a line per layer; by default a bar in the terminal.

    Returns:
        One entry per layer that changed.

    Raises:
        SlimgraphError: The data is empty or can be gone through only once.

    Source: He, Zhang, Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017,
    section 3.2 (asymmetric reconstruction, and the target of a residual branch); here as a ridge
    regression on the change.
    """
    check_repeatable(data)
    found: list[Repaired] = []
    sampling = Sampling(points, seed)
    runs = SideBySide((slim, dense), data)
    for layer in tracked(list(layers_of(slim)), "reconstruct layers", progress):
        errors, wanted = errors_of(dense, slim, layer, data, sampling, runs)
        repaired = refit(slim, layer, errors, wanted, ridge)
        found += [] if repaired is None else [repaired]
    return found


def refit(
    model: fx.GraphModule, layer: Layer, errors: Moments, wanted: float, ridge: float | None
) -> Repaired | None:
    """Change a layer's weights as its errors ask for.

    Args:
        model: It changes.
        layer: One of its layers.
        errors: Moments of its inputs and errors.
        wanted: Energy of what it should make.
        ridge: See `Moments.solve`.

    Returns:
        `None` if there are no errors.
    """
    before = float(errors.energy.sum())
    if before == 0:
        return None
    intercept = takes_shift(model, layer, new=False)
    change, shift = errors.solve(ridge, intercept=intercept)
    layer.weight.add_(change.reshape(layer.weight.shape).to(layer.weight))
    if intercept:
        add_shift(model, layer, shift.flatten())
    return Repaired(layer.key, before / wanted, errors.left(change, shift) / wanted)
