"""Running a loaded graph on shapes alone, under limits that no honest model meets.

A file may say anything: that a tensor has a billion elements, that a number is doubled a thousand
times, that a tensor is split into a million pieces. Each would fail later and worse.
"""

import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slimgraph.serialize.errors import MalformedError, reason
from slimgraph.shapes import MetaRunner, device_of

_LEAF_LIMIT = 2**16  # values that one node may take or return
_SIZE_LIMIT = 2**35  # bytes of one tensor
_NUMBER_BITS = 64
_POWER_LIMIT = 64
_OP_LIMIT = 1_000_000  # tensor ops in the whole graph; a recurrent net takes some per time step


def fill_values(graph_module: fx.GraphModule, inputs: list[Any]) -> None:
    """Fill `node.meta["val"]` of every node of a graph from an untrusted file.

    Args:
        graph_module: The rebuilt model; only the nodes' meta changes.
        inputs: One meta tensor or plain value per placeholder.

    Raises:
        MalformedError: The graph does not run on its inputs, or passes a limit.
    """
    remaining = iter(inputs)
    run = MetaRunner(graph_module, device_of(graph_module))
    counts: dict[fx.Node, int] = {}
    with _Watch():  # type: ignore[no-untyped-call]
        for node in graph_module.graph.nodes:
            try:
                if node.op == "placeholder":
                    node.meta["val"] = next(remaining)
                else:
                    _check_taken(node, counts)
                    _check_module(node, run)
                    node.meta["val"] = run(node)
                counts[node] = _check_returned(node.meta["val"])
            except Exception as error:  # a hostile file can make anything fail
                raise MalformedError(f"node `{node.name}`: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Find the limit that was passed, which torch may have wrapped in errors of its own."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, MalformedError):
        inner = inner.__cause__ or inner.__context__
    return str(inner) if inner is not None else reason(error)


def _check_module(node: fx.Node, run: MetaRunner) -> None:
    """Call a module in full; the runner takes short cuts past those that torch.nn itself made."""
    if node.op != "call_module":
        return
    args, kwargs = map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
    with torch.no_grad(), suppress(NotImplementedError):  # no meta kernel: the runner knows more
        run.leaf(str(node.target))(*args, **kwargs)


def _check_taken(node: fx.Node, counts: Mapping[fx.Node, int]) -> None:
    """Bound what goes into a node before anything is built from it."""
    leaves = tree_leaves((node.args, node.kwargs))
    taken = sum(counts[leaf] if isinstance(leaf, fx.Node) else 1 for leaf in leaves)
    if taken > _LEAF_LIMIT:
        raise MalformedError(f"it takes {taken} values, more than {_LEAF_LIMIT}")
    if node.op == "call_function" and node.target in _BOUNDS:
        args = [leaf.meta["val"] if isinstance(leaf, fx.Node) else leaf for leaf in node.args]
        kwargs = [v.meta["val"] if isinstance(v, fx.Node) else v for v in node.kwargs.values()]
        _BOUNDS[node.target](*args, *kwargs)


def _check_returned(value: Any) -> int:
    leaves = tree_leaves(value)
    if len(leaves) > _LEAF_LIMIT:
        raise MalformedError(f"it returns {len(leaves)} values, more than {_LEAF_LIMIT}")
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            _check_size(leaf)
        elif isinstance(leaf, int) and leaf.bit_length() > _NUMBER_BITS:
            raise MalformedError(f"it returns a number of {leaf.bit_length()} bits")
        elif isinstance(leaf, str) and len(leaf) > _LEAF_LIMIT:
            raise MalformedError(f"it returns a text of {len(leaf)} characters")
    return max(len(leaves), 1)


def _check_size(tensor: Tensor) -> None:
    size = tensor.numel() * tensor.element_size()
    if size > _SIZE_LIMIT:
        raise MalformedError(
            f"a tensor of shape {tuple(tensor.shape)} needs {size / 2**30:.0f} GiB"
        )


def _bound_power(base: Any = 0, exponent: Any = 0, *_: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) > _POWER_LIMIT:
        raise MalformedError(f"a number is raised to the power {exponent}")


def _bound_shift(_: Any = 0, distance: Any = 0) -> None:
    if isinstance(distance, int) and distance > _POWER_LIMIT:
        raise MalformedError(f"a number is shifted by {distance} bits")


def _bound_product(left: Any = 0, right: Any = 0) -> None:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, list | tuple | str) and isinstance(times, int):
            length = len(sequence) * times
            if length > _LEAF_LIMIT:
                raise MalformedError(f"a sequence is repeated to {length} values")


_BOUNDS: Mapping[Any, Callable[..., None]] = {
    operator.pow: _bound_power,
    operator.ipow: _bound_power,
    pow: _bound_power,
    round: lambda *args: _bound_power(10, *args[1:]),  # round(5, -n) computes 10 ** n
    operator.lshift: _bound_shift,
    operator.ilshift: _bound_shift,
    operator.mul: _bound_product,
    operator.imul: _bound_product,
}


def _pieces(tensor: Tensor, size: int = 1, dim: int = 0) -> int:
    return -(-tensor.shape[dim] // max(size, 1))


_SPLITS: Mapping[str, Callable[..., int]] = {
    "split": _pieces,
    "split_copy": _pieces,
    "unsafe_split": _pieces,
    "unbind": lambda tensor, dim=0: _pieces(tensor, 1, dim),
    "unbind_copy": lambda tensor, dim=0: _pieces(tensor, 1, dim),
}


class _Watch(TorchDispatchMode):
    """Makes every new tensor a meta tensor, counts ops, and bounds what one op returns."""

    ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        if self.ops > _OP_LIMIT:
            raise MalformedError(f"the graph takes more than {_OP_LIMIT} tensor ops")
        kwargs = dict(kwargs or {})
        schema = func._schema
        if any(argument.name == "device" for argument in schema.arguments):
            kwargs["device"] = torch.device("meta")
        count = _SPLITS.get(schema.name.removeprefix("aten::"))
        if count is not None and schema.overload_name in ("Tensor", "int"):
            pieces = count(*args, **kwargs)
            if pieces > _LEAF_LIMIT:
                raise MalformedError(f"a tensor is split into {pieces} pieces")
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                _check_size(leaf)
        return result
