"""Give consumers what they got of channels that have left but were constants."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from slimgraph.effects import Effect
from slimgraph.pass_manager import Pass, PassResult, clone
from slimgraph.shapes import attribute, place, tensors_of
from slimgraph.shifts import shift_all


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Add the effect of constants to biases, or behind the consumers by carriers.

    `y = conv(x)`, of whose input a channel left that was always 2, becomes the same call with
    another bias. If the convolution pads with zeros, the sum over its window is another one at the
    borders. Then one channel of ones is convolved by a kernel that holds what the constants add up
    to, and

    %conv = call_module[target=conv](args = (%x,))

    becomes

    %conv = call_module[target=conv](args = (%x,))
    %size = call_method[target=size](args = (%x, 2))
    %size_1 = call_method[target=size](args = (%x, 3))
    %new_ones = call_method[target=new_ones](args = (%x, (1, 1, %size, %size_1)))
    %carrier_conv = get_attr[target=carrier_conv]
    %conv2d = call_function[target=conv2d](args = (%new_ones, %carrier_conv, None), kwargs = {...})
    %add = call_function[target=operator.add](args = (%conv, %conv2d))

    The carrier has a kernel of its own, rather than being one more input of the consumer, so that
    the consumer keeps its sizes, whatever its groups and however often it is called.

    Attributes:
        effects: What each consumer gets; outputs and inputs that left are already gone.
    """

    effects: tuple[Effect, ...]
    name: ClassVar[str] = "fold-constants"
    keeps_outputs: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> PassResult:
        """Apply one effect after the other."""
        if not self.effects:
            return PassResult(graph_module, modified=False)
        result = clone(graph_module)
        nodes = {node.name: node for node in result.graph.nodes}
        for effect in self.effects:
            _APPLY[effect.form](result, nodes[effect.node.name], effect)
        result.recompile()
        return PassResult(result, modified=True)

    def recorded(self, slim: fx.GraphModule) -> dict[str, Any]:
        """Return what a plan says of it: what biases got, and where there are nodes of its own.

        Args:
            slim: A result of the pass.
        """
        held = dict(slim.named_parameters(remove_duplicate=False))
        biases = {effect.bias: effect.tensor for effect in self.effects if effect.bias}
        return {
            "shifts": {name: total.to(held[name].dtype) for name, total in biases.items()},
            "carriers": tuple(place(effect.node) for effect in self.effects if not effect.bias),
        }

    def added(self, before: fx.GraphModule, slim: fx.GraphModule) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters that the model did not have, each with the weight beside it.

        Args:
            before: The model before.
            slim: A result of the pass.
        """
        known = {name for name, _ in before.named_parameters(remove_duplicate=False)}
        held = dict(slim.named_parameters())
        nodes = {node.name: node for node in slim.graph.nodes}
        found: list[tuple[Tensor, Tensor]] = []
        for effect in self.effects:
            name = effect.bias or f"carrier_{effect.node.name}"
            if name in held and name not in known:
                found.append((held[name], _weight_of(slim, nodes[effect.node.name])))
        return found


def _shift_bias(root: fx.GraphModule, _: fx.Node, effect: Effect) -> None:
    shift_all(root, {effect.bias: effect.tensor})


def _add_parameter(root: fx.GraphModule, node: fx.Node, effect: Effect) -> None:
    after = list(node.users)
    with root.graph.inserting_after(node):
        stored = _stored(root, node, effect.tensor)
    _add_behind(root.graph, node, stored, after)


def _add_carrier(root: fx.GraphModule, node: fx.Node, effect: Effect) -> None:
    graph, after = root.graph, list(node.users)
    source: Any = node.args[0] if node.args else node.kwargs["input"]
    ndim = effect.tensor.ndim
    leading = effect.node.meta["val"].ndim - ndim + 2  # 1 without a batch dim
    with graph.inserting_before(node):
        sizes = [graph.call_method("size", (source, d)) for d in range(leading, leading + ndim - 2)]
        ones = graph.call_method("new_ones", (source, (*[1] * leading, *sizes)))
        kernel = _stored(root, node, effect.tensor)
        options = dict(effect.options)
        kind = "conv_transpose" if "output_padding" in options else "conv"
        function = getattr(F, f"{kind}{ndim - 2}d")
        made = graph.call_function(function, (ones, kernel, None), options)
    _add_behind(graph, node, made, after)


def _add_number(root: fx.GraphModule, node: fx.Node, effect: Effect) -> None:
    graph, after = root.graph, list(node.users)
    source: Any = node.args[0] if node.args else node.kwargs["input"]
    number: Any = float(effect.tensor)
    with graph.inserting_before(node):
        for dim in effect.dims:
            size = graph.call_method("size", (source, dim))
            number = graph.call_function(operator.mul, (size, number))
    _add_behind(graph, node, number, after)


def _add_behind(graph: fx.Graph, node: fx.Node, addend: Any, users: list[fx.Node]) -> None:
    at = addend if isinstance(addend, fx.Node) and addend.op == "get_attr" else node
    with graph.inserting_after(at):
        total = graph.call_function(operator.add, (node, addend))
    for user in users:
        user.replace_input_with(node, total)


def _stored(root: fx.GraphModule, node: fx.Node, tensor: Tensor) -> fx.Node:
    """Store a tensor as a parameter of the model, which trains on with the others."""
    name = f"carrier_{node.name}"
    while hasattr(root, name):
        name += "_"
    like = _weight_of(root, node)
    made = nn.Parameter(tensor.to(like.device, like.dtype), requires_grad=like.requires_grad)
    root.register_parameter(name, made)
    return root.graph.get_attr(name)


def _weight_of(root: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the weight with which a contraction reads its input; it may be an argument."""
    if node.op == "call_module":
        weight = root.get_submodule(str(node.target)).weight
        assert isinstance(weight, Tensor), "contractions have a weight"
        return weight
    held = (attribute(root, str(n.target)) for n in node.all_input_nodes if n.op == "get_attr")
    weights = (tensor for tensor in held if isinstance(tensor, Tensor) and tensor.ndim > 1)
    every = (*weights, *(t for t in tensors_of(root) if t.is_floating_point()))
    return next(iter(every), torch.zeros(()))


_APPLY: dict[str, Callable[[fx.GraphModule, fx.Node, Effect], None]] = {
    "bias": _shift_bias,
    "addend": _add_parameter,
    "carrier": _add_carrier,
    "sum": _add_number,
}
