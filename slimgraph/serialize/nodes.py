"""The nodes of an fx graph as JSON, and back."""

import keyword
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from slimgraph.errors import SlimgraphError
from slimgraph.serialize.errors import MalformedError, is_identifier
from slimgraph.serialize.examples import INPUT_LIMIT, decode_example, encode_example
from slimgraph.serialize.foreign import op_of_name, permitted
from slimgraph.serialize.targets import (
    Function,
    check_call,
    find_function,
    function_name,
    methods,
)
from slimgraph.serialize.values import decode_value, encode_value
from slimgraph.shapes import place

_NODE_LIMIT = 2**17


def encode_nodes(graph: fx.Graph) -> list[dict[str, Any]]:
    """Describe every node of a graph, in order.

    Raises:
        SlimgraphError: A node calls or holds what is no data, or an input has no shape.
    """
    _check_plain_calling(graph)
    return [_encode(node) for node in graph.nodes]


def _check_plain_calling(graph: fx.Graph) -> None:
    if type(vars(graph)["_codegen"]) is not fx.graph.CodeGen:
        raise SlimgraphError(
            "a graph that takes or returns nested structures of its own cannot be saved",
            hint="pass it through `slimgraph.trace(model, example_inputs)` first",
        )


def _encode(node: fx.Node) -> dict[str, Any]:
    where = place(node)
    target = node.target if isinstance(node.target, str) else function_name(node.target, where)
    if node.op == "call_method" and target not in methods():
        raise SlimgraphError(f"the method `{target}` cannot be saved", where)
    encoded = {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": [encode_value(value, where) for value in node.args],
        "kwargs": {name: encode_value(value, where) for name, value in node.kwargs.items()},
        "source": str(node.meta.get("source", "")),
    }
    try:
        _check_name(node.name)
        if node.op == "call_function":
            with permitted([op_of_name(target) or ""]):
                check_call(find_function(target), node.args, node.kwargs)
    except MalformedError as error:
        raise SlimgraphError(str(error), where) from error
    if node.op == "placeholder":
        encoded["value"] = _encode_input(node, where)
    return encoded


def _encode_input(node: fx.Node, where: str) -> Any:
    if "val" not in node.meta:
        raise SlimgraphError(
            f"the input `{node.name}` has no shape",
            hint="trace the model with `slimgraph.trace(model, example_inputs)`",
        )
    return encode_example(node.meta["val"], where)


def decode_nodes(described: Any) -> tuple[fx.Graph, list[Any]]:
    """Rebuild a graph.

    Args:
        described: What `encode_nodes` returned, or what a hostile file holds instead.

    Returns:
        The graph, without values in its meta, and one meta tensor or plain value per input.

    Raises:
        MalformedError: No graph is written like this.
    """
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    inputs: list[Any] = []
    if not isinstance(described, list) or len(described) > _NODE_LIMIT:
        raise MalformedError(f"the list of nodes is no list, or longer than {_NODE_LIMIT}")
    last = ""
    for fields in described:
        name = fields.get("name") if isinstance(fields, dict) else None
        try:
            _check_new(name, nodes, last)
            nodes[str(name)] = _decode(graph, fields, nodes)
            last = fields["op"]
            if last == "placeholder":
                inputs.append(decode_example(fields["value"]))
        except MalformedError as error:
            raise MalformedError(f"node `{name}`: {error}") from error
    if last != "output":
        raise MalformedError("the graph has no output")
    _check_total(inputs)
    return graph, inputs


def _check_new(name: Any, nodes: Mapping[str, fx.Node], last: str) -> None:
    _check_name(name)
    if last == "output":
        raise MalformedError("it comes after the output")
    if name in nodes:
        raise MalformedError("two nodes have this name")


def _check_name(name: Any) -> None:
    if not is_identifier(name) or keyword.iskeyword(name) or name in ("self", "torch"):
        raise MalformedError(f"{name!r} may not be the name of a node")


def _decode(graph: fx.Graph, fields: dict[str, Any], nodes: Mapping[str, fx.Node]) -> fx.Node:
    op, target = fields["op"], fields["target"]
    args = tuple(decode_value(value, nodes) for value in fields["args"])
    kwargs = {name: decode_value(value, nodes) for name, value in fields["kwargs"].items()}
    if not isinstance(target, str) or not all(is_keyword_argument(name) for name in kwargs):
        raise MalformedError("its target or the name of an argument is no name")
    if op not in _TARGETS:
        raise MalformedError(f"`{op}` is no kind of node")
    called = _TARGETS[op](target, args, kwargs)
    node = graph.create_node(op, called, args, kwargs, fields["name"])
    node.name = fields["name"]  # torch.fx renames nodes such as `input`, named like builtins
    node.meta["source"] = str(fields.get("source", ""))
    return node


def is_keyword_argument(name: object) -> bool:
    """Tell whether a name may stand before `=` in a call."""
    return is_identifier(name) and not keyword.iskeyword(str(name))


def _input_target(target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Check the parameter of `forward` an input stands for, and its default value."""
    _check_name(target.removeprefix("*").removeprefix("*"))
    if len(args) > 1 or kwargs or _has_node(args):
        raise MalformedError("an input has more than a default value")
    return target


def _has_node(value: Any) -> bool:
    return any(isinstance(leaf, fx.Node) for leaf in tree_leaves(value))


def _function(target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function:
    function = find_function(target)
    check_call(function, args, kwargs)
    return function


def _method(target: str, args: tuple[Any, ...], _: dict[str, Any]) -> str:
    if target not in methods() or not args:
        raise MalformedError(f"the method `{target}` may not be called by a saved model")
    return target


def _output(target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if len(args) != 1 or kwargs:
        raise MalformedError("an output is not one value")
    return target


def _path(target: str, *_: Any) -> str:
    """Leave the check to `check_targets`, which knows the modules."""
    return target


_TARGETS: Mapping[str, Callable[[str, tuple[Any, ...], dict[str, Any]], Any]] = {
    "placeholder": _input_target,
    "call_function": _function,
    "call_method": _method,
    "call_module": _path,
    "get_attr": _path,
    "output": _output,
}


def check_targets(graph: fx.Graph, root: nn.Module) -> None:
    """Check that the modules, parameters and buffers a graph names are there.

    Raises:
        MalformedError: One is not.
    """
    known = {
        "call_module": {name for name, _ in root.named_modules(remove_duplicate=False)} - {""},
        "get_attr": {
            *(name for name, _ in root.named_parameters(remove_duplicate=False)),
            *(name for name, _ in root.named_buffers(remove_duplicate=False)),
        },
    }
    for node in graph.nodes:
        if node.op in known and node.target not in known[node.op]:
            raise MalformedError(f"node `{node.name}`: the model has no `{node.target}`")


def _check_total(inputs: list[Any]) -> None:
    tensors = [value for value in tree_leaves(inputs) if isinstance(value, Tensor)]
    sizes = [tensor.numel() * tensor.itemsize for tensor in tensors]
    if sum(sizes) > INPUT_LIMIT:
        raise MalformedError(f"the inputs need more than {INPUT_LIMIT // 2**30} GiB together")
