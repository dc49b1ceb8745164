"""Where two models differ: what a layer makes, and what it should make."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimgraph.calibrate.layers import Layer, layers_of
from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.ranks import all_reduce
from slimgraph.calibrate.replay import Seen, SideBySide
from slimgraph.calibrate.sampling import Sampling
from slimgraph.errors import SlimgraphError
from slimgraph.op_names import canonical
from slimgraph.plan import Plan


@torch.no_grad()
def errors_of(
    dense: fx.GraphModule,
    slim: fx.GraphModule,
    layer: Layer,
    data: Iterable[Any],
    sampling: Sampling,
    runs: SideBySide | None = None,
) -> tuple[Moments, float]:
    """Return the moments of a layer's inputs and errors, and the energy of what is wanted.

    Args:
        dense: The model before.
        slim: The compressed model, or one of the same sizes with other weights.
        layer: Of the latter.
        data: Batches of inputs.
        sampling: How.
        runs: Of both models, for one layer after the other; begins anew without.
    """
    groups, outputs, columns = layer.matrix().shape
    found = Moments(groups, columns, outputs, layer.weight.device)
    wanted = torch.zeros((), dtype=torch.float64, device=layer.weight.device)
    chance = torch.Generator().manual_seed(sampling.seed)
    compare = _Comparison.of(dense, slim, layer)
    runs = runs or SideBySide((slim, dense), data, room=0)
    for images, small, large in runs.at(layer.name, compare.shortcut):
        x, made, target = compare(small, large)
        places = layer.draw(made, sampling.points, images, chance)
        rows, errors = layer.rows(x, target - made, places)
        found.add(rows, errors)
        wanted += layer.rows(x, target, places)[1].double().square().sum()
    found.all_reduce()
    all_reduce(wanted)
    return found, max(float(wanted), 1e-30)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Compares what both models have at a layer.

    Attributes:
        shortcut: Name of the node whose value is added to the layer's, if its loss is to be made
            up for.
        kept: The outputs that the layer keeps; `None` for all.
        channel: Their dim.
        scale: What the norm between the layer and a sum multiplies outputs by; `None` without a
            shortcut whose loss is to be made up for.
    """

    shortcut: str | None
    kept: Tensor | None
    channel: int
    scale: Tensor | None

    @classmethod
    def of(cls, dense: fx.GraphModule, slim: fx.GraphModule, layer: Layer) -> "_Comparison":
        """Prepare both models."""
        shortcut, scale = _shortcut(slim, layer)
        return cls(shortcut, _kept(dense, slim, layer), 1 if layer.stride else -1, scale)

    def __call__(self, small: Seen, large: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return the layer's input, what it makes of it, and what it should make.

        Args:
            small: What the compressed model has there: input, output and shortcut.
            large: The same of the model before.
        """
        x, made, *own = small
        _, target, *other = large[:1] + tuple(self._left(value) for value in large[1:])
        if self.scale is None or own[0].shape != made.shape:
            return x, made, target
        shape = [-1 if dim == self.channel % made.ndim else 1 for dim in range(made.ndim)]
        return x, made, target + (other[0] - own[0]) * self.scale.to(made).reshape(shape)

    def _left(self, value: Tensor) -> Tensor:
        """Return what is left of an output of the layer before, or of what is added to it."""
        if self.kept is None or value.shape[self.channel] <= int(self.kept.max()):
            return value
        return value.index_select(self.channel, self.kept.to(value.device))


def _kept(dense: fx.GraphModule, slim: fx.GraphModule, layer: Layer) -> Tensor | None:
    """Return which outputs a layer has kept; `None` for all.

    Raises:
        SlimgraphError: The plan does not lead from the one model to the other.
    """
    before = next((each for each in layers_of(dense) if each.name == layer.name), None)
    if before is not None and len(before.weight) == len(layer.weight):
        return None
    plan: Plan | None = vars(slim).get("plan")
    if before is None or plan is None or plan.sizes[layer.key][0] != len(before.weight):
        raise SlimgraphError(
            f"the plan does not say what `{layer.key}` has kept of the model before",
            hint="give the model that was traced, not one that was compressed already",
        )
    return plan.kept[layer.key][0]


def _shortcut(model: fx.GraphModule, layer: Layer) -> tuple[str | None, Tensor | None]:
    """Find what a layer's output is added to, if all of that is computed before the layer.

    Returns:
        Name of the node, and the inverse of what a batch norm on the way multiplies by, zero
        where that is hardly anything.
    """
    nodes = list(model.graph.nodes)
    index = next(i for i, node in enumerate(nodes) if node.name == layer.name)
    last, scale = nodes[index], torch.ones(layer.weight.shape[0], dtype=torch.double)
    while len(last.users) == 1:
        (user,) = last.users
        gain = _gain(model, user)
        if gain is not None:
            last, scale = user, scale * gain
            continue
        others = [_passed(model, node) for node in user.all_input_nodes if node is not last]
        added = canonical(user.target) == "add" and not user.kwargs and len(others) == 1
        if not added or others[0] not in nodes[:index]:
            break
        large = scale.abs() > 1e-3 * scale.abs().max()
        return others[0].name, torch.where(large, 1 / scale, 0.0)
    return None, None


def _gain(model: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """Return what a batch norm, or a module that does nothing, multiplies its input by."""
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Identity):
        return torch.ones((), dtype=torch.double)
    if not isinstance(module, _BatchNorm) or module.running_var is None or module.training:
        return None
    gain = (module.running_var.double() + module.eps).rsqrt().cpu()
    return gain if module.weight is None else gain * module.weight.detach().double().cpu()


def _passed(model: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Look through calls that pass their input on."""
    while node.op == "call_module" and isinstance(
        model.get_submodule(str(node.target)), nn.Identity
    ):
        (node,) = node.all_input_nodes
    return node
