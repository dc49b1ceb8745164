"""Layers before and after: what a compressed layer has lost of its inputs, and where shifts go."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimgraph.calibrate.layers import Layer, layers_of
from slimgraph.errors import SlimgraphError
from slimgraph.plan import Plan
from slimgraph.slicing import Kept, slice_tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """One layer of a model that lost inputs, and what `compress` made of it.

    Attributes:
        dense: The layer before.
        slim: The layer after.
        entries: What the plan keeps of the weight.
        columns: Which columns of its matrix are kept. Shape: (groups, columns).
    """

    dense: Layer
    slim: Layer
    entries: Kept
    columns: Tensor

    def set_matrix(self, matrix: Tensor) -> None:
        """Set the compressed weight.

        Args:
            matrix: Of the layer before; lost columns are ignored. Shape: as `Layer.matrix`.
        """
        whole = matrix.flatten(0, 1).reshape(self.dense.weight.shape)
        self.slim.weight.copy_(slice_tensor(whole, self.entries))

    def outputs(self, values: Tensor) -> Tensor:
        """Keep one number per output of those that the compressed layer still has."""
        return slice_tensor(values, self.entries[:1])


def pairs_of(dense: fx.GraphModule, slim: fx.GraphModule) -> Iterator[Pair]:
    """List the layers that lost inputs, in the order of the graph.

    Args:
        dense: The model before.
        slim: What `compress` made of it, with its plan.

    Raises:
        SlimgraphError: The plan is of another model, or channels left as constants.
    """
    plan: Plan | None = vars(slim).get("plan")
    hint = "give the model that was traced, and what `compress` made of it, at once or in steps"
    if plan is None:
        raise SlimgraphError("the compressed model has no plan", hint=hint)
    if plan.carriers or plan.shifts:
        raise SlimgraphError(
            "channels of this model left as constants, which layers still get",
            hint='compress it with `constants="zero"`, or repair it by `reconstruct`',
        )
    before = {layer.name: layer for layer in layers_of(dense)}
    for layer in layers_of(slim):
        entries = plan.kept.get(layer.key, (None, None))
        old = before.get(layer.name)
        if old is None or tuple(old.weight.shape) != plan.sizes[layer.key]:
            raise SlimgraphError(f"the plan of `{layer.key}` is of another model", hint=hint)
        columns = _columns(old, entries)
        if bool((~columns & columns.any(1, keepdim=True)).any()):  # not with all that read them
            yield Pair(old, layer, entries, columns)


def _columns(layer: Layer, entries: Kept) -> Tensor:
    """Mark the columns that any output keeps."""
    weight = layer.weight
    index = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape)
    kept = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    kept[slice_tensor(index, entries).flatten()] = True
    return kept.reshape(layer.matrix().shape).any(1)


@torch.no_grad()
def add_shift(model: fx.GraphModule, layer: Layer, shift: Tensor) -> None:
    """Let a layer's output be more by so much.

    It goes into the bias; without one, into the mean of the batch norm that alone reads the
    output; without that, too, into a new bias, which the plan then gives to instances of the
    model's class as well.

    Args:
        model: The compressed model; it changes.
        layer: One of its layers, which `takes_shift`.
        shift: One number per output. Shape: (outputs,).
    """
    if layer.bias is not None:
        layer.bias.add_(shift.to(layer.bias))
        return
    node = next(node for node in model.graph.nodes if node.name == layer.name)
    norm = _norm_behind(model, node)
    if norm is not None:
        assert norm.running_mean is not None, "it has statistics"
        norm.running_mean.sub_(shift.to(norm.running_mean))
        return
    made = shift.to(layer.weight.device, layer.weight.dtype)
    owner, name = model.get_submodule(str(node.target)), f"{node.target}.bias"
    owner.register_parameter("bias", nn.Parameter(made, layer.weight.requires_grad))
    plan: Plan = vars(model)["plan"]
    shifts = {**plan.shifts, name: torch.zeros_like(made, device="cpu")}
    vars(model)["plan"] = replace(plan, shifts=shifts)


def takes_shift(model: fx.GraphModule, layer: Layer, *, new: bool) -> bool:
    """Return whether there is a place for a shift.

    Args:
        model: The compressed model.
        layer: One of its layers.
        new: Whether a new bias is one.
    """
    node = next(node for node in model.graph.nodes if node.name == layer.name)
    known = layer.bias is not None or _norm_behind(model, node) is not None
    return known or (new and node.op == "call_module")


def _norm_behind(model: fx.GraphModule, node: fx.Node) -> _BatchNorm | None:
    """Find the batch norm with statistics that alone reads a value, and reads nothing else."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    target = users[0].target
    norm = model.get_submodule(str(target))
    calls = sum(1 for n in model.graph.nodes if n.op == "call_module" and n.target == target)
    fits = isinstance(norm, _BatchNorm) and norm.running_mean is not None and calls == 1
    return norm if isinstance(norm, _BatchNorm) and fits else None
