"""Running models on data: batches of any form, and the values of single nodes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from slimgraph.cloning import clone
from slimgraph.errors import SlimgraphError
from slimgraph.hosted import HostedModule
from slimgraph.shapes import device_of, tensors_of

Watch = Callable[[Tensor, Tensor], None]


def placer(model: nn.Module) -> Callable[[Any], Any]:
    """Return what brings nested tensors to a model's device, floating-point ones to its dtype."""
    device = device_of(model)
    dtype = next((t.dtype for t in tensors_of(model) if t.is_floating_point()), torch.float32)

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    return lambda nested: tree_map(placed, nested)


def batches(model: nn.Module, data: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the positional inputs of a model from batches of data.

    Args:
        model: Inputs come to its device, floating-point ones in its dtype.
        data: Yields inputs, or (inputs, target) pairs, whose targets are ignored; inputs are a
            tensor, or a tuple or list of several, where the model takes several. A list of images
            is one input of a detector: give `(images,)`, or `(images, targets)`.

    Raises:
        SlimgraphError: There is no batch.
    """
    place, takes, count = placer(model), _number_of_inputs(model), 0
    for batch in data:
        count += 1
        own = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        yield place(own[:takes] if len(own) == takes + 1 else own)
    if not count:
        raise SlimgraphError("the data has no batch", hint="is the loader used up already?")


def check_repeatable(data: Iterable[Any]) -> None:
    """Refuse data that is to be gone through several times, but cannot be.

    Raises:
        SlimgraphError: It is an iterator.
    """
    if iter(data) is data:
        raise SlimgraphError(
            "the data is an iterator, which can be gone through only once",
            hint="give a list of batches, or a `DataLoader`",
        )


def _number_of_inputs(model: nn.Module) -> int:
    if not isinstance(model, fx.GraphModule) or isinstance(model, HostedModule):
        return 1  # the graph of one that keeps its own forward has other inputs than the model
    return sum(1 for node in model.graph.nodes if node.op == "placeholder")


def watched(model: fx.GraphModule, watch: Mapping[str, Watch]) -> fx.GraphModule:
    """Make a model of the same weights that shows what some nodes read and make as it runs.

    Args:
        model: It is not changed.
        watch: By the name of a node, what is called with its first input and its output.

    Raises:
        SlimgraphError: There is no such node.
    """
    result = clone(model)
    result.add_submodule("watch", _Watcher(dict(watch)))
    named = {node.name: node for node in result.graph.nodes}
    for name in watch:
        node = _named(named, name)
        users = tuple(node.users)
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        with result.graph.inserting_after(node):
            passed = result.graph.call_module("watch", (source, node, name))
        passed.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, passed)
    result.recompile()
    return result


class _Watcher(nn.Module):
    """Passes a node's output on and shows it, with the node's first input."""

    def __init__(self, watch: dict[str, Watch]) -> None:
        super().__init__()
        self.watch = watch

    def forward(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        self.watch[name](x, y)
        return y


def _named(nodes: Mapping[str, fx.Node], name: str) -> fx.Node:
    if name not in nodes:
        raise SlimgraphError(f"the model has no node `{name}`", hint="are both models of one kind?")
    return nodes[name]


def images_in(inputs: tuple[Any, ...]) -> int:
    """Count the images of a batch: of a tensor, or of a list of images."""
    first = inputs[0]
    return first.shape[0] if isinstance(first, Tensor) else len(first)


def values_at(
    model: fx.GraphModule, name: str, other: str | None = None
) -> Callable[[tuple[Any, ...]], tuple[Tensor, ...]]:
    """Return what computes a node's first input and its output, and another node's value.

    Args:
        model: Runs no further than it must; one that keeps its own forward runs to its end.
        name: Of the node.
        other: Of a node before it.
    """
    if not isinstance(model, HostedModule):
        cut = prefix(model, name, other)
        return lambda inputs: cut(*inputs)
    found: dict[str, tuple[Tensor, ...]] = {}

    def see(key: str) -> Watch:
        return lambda x, y: found.update({key: (x, y) if key == name else (y,)})

    names = [name] if other is None else [name, other]
    seeing = watched(model, {key: see(key) for key in names})

    def run(inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        seeing(*inputs)
        return tuple(value for key in names for value in found[key])

    return run


def prefix(model: fx.GraphModule, name: str, other: str | None = None) -> fx.GraphModule:
    """Cut a model off behind a node.

    Args:
        model: It is not changed.
        name: Of the node.
        other: Name of a node before it whose value is wanted, too.

    Returns:
        A model that shares all weights and returns the node's first input and its output, and the
        other node's value.

    Raises:
        SlimgraphError: There is no such node.
    """
    cut = clone(model)
    nodes = {node.name: node for node in cut.graph.nodes}
    last = _named(nodes, name)
    more = () if other is None else (_named(nodes, other),)
    for node in reversed(list(nodes.values())):
        if node is last:
            break
        if node.op != "placeholder":
            cut.graph.erase_node(node)
    cut.graph.output((last.all_input_nodes[0], last, *more))
    cut.recompile()
    return cut
