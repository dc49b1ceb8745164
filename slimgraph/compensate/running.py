"""Running models on data: batches of any form, and the values of single nodes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from slimgraph.cloning import clone
from slimgraph.errors import SlimgraphError
from slimgraph.shapes import device_of, tensors_of


def batches(model: nn.Module, data: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the positional inputs of a model from batches of data.

    Args:
        model: Inputs come to its device, floating-point ones in its dtype.
        data: Yields inputs, or (inputs, target) pairs, whose targets are ignored; inputs are a
            tensor, or a tuple or list of several, where the model takes several.

    Raises:
        SlimgraphError: There is no batch.
    """
    device = device_of(model)
    dtype = next((t.dtype for t in tensors_of(model) if t.is_floating_point()), torch.float32)

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    count = 0
    takes = _number_of_inputs(model)
    for batch in data:
        own = batch
        if isinstance(batch, tuple | list) and len(batch) == takes + 1:
            own = batch[0] if takes == 1 else batch[:takes]
        count += 1
        placed_inputs = tree_map(placed, own)
        yield tuple(placed_inputs) if isinstance(own, tuple | list) else (placed_inputs,)
    if not count:
        raise SlimgraphError("the data has no batch", hint="is the loader used up already?")


def _number_of_inputs(model: nn.Module) -> int:
    if not isinstance(model, fx.GraphModule):
        return 1
    return sum(1 for node in model.graph.nodes if node.op == "placeholder")


def prefix(model: fx.GraphModule, name: str) -> fx.GraphModule:
    """Cut a model off behind a node.

    Returns:
        A model that shares all weights and returns the node's first input and its output.

    Raises:
        SlimgraphError: There is no such node.
    """
    cut = clone(model)
    nodes = list(cut.graph.nodes)
    index = next((i for i, node in enumerate(nodes) if node.name == name), None)
    if index is None:
        raise SlimgraphError(f"the model has no node `{name}`", hint="are both models of one kind?")
    for node in reversed(nodes[index + 1 :]):
        if node.op != "placeholder":
            cut.graph.erase_node(node)
    cut.graph.output((nodes[index].all_input_nodes[0], nodes[index]))
    cut.recompile()
    return cut
