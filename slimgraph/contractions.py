"""Contractions: convolutions and linear layers by one description, however they are spelled."""

from typing import Any

from torch import Tensor, fx, nn

from slimgraph.constant_rules import Settings
from slimgraph.graph import DependencyGraph
from slimgraph.labels import Read
from slimgraph.op_names import canonical

_PLAIN = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
_TRANSPOSED = (
    (3, "stride", 1), (4, "padding", 0), (5, "output_padding", 0), (7, "dilation", 1)
)  # fmt: skip
_RANKS = ("1d", "2d", "3d")
CONVOLUTIONS = frozenset(f"{kind}{rank}" for kind in ("conv", "conv_transpose") for rank in _RANKS)
# Their weights read channels on one side and make them on the other.
CONTRACTIONS = CONVOLUTIONS | {"linear", "matmul", "mm"}


def op_of(graph: DependencyGraph, node: fx.Node) -> str:
    """Name an op as `torch.nn.functional` does; empty if no rule knows it."""
    if node.op != "call_module":
        return canonical(node.target) if node.op.startswith("call") else ""
    module = graph.traced.get_submodule(str(node.target))
    found = graph.rules.for_module(module)
    if found is None:
        return ""
    name = str(found[0].names[0])
    if name not in CONVOLUTIONS:
        return name
    weight = module.weight
    assert isinstance(weight, Tensor), "a convolution has a weight"
    return f"{name[:-2]}{weight.ndim - 2}d"


def by_group(weight: Tensor, read: Read) -> Tensor:
    """Arrange a weight by group, output and input of the group, and kernel position.

    Args:
        weight: Of a convolution or a linear layer.
        read: Where it is used.
    """
    flat = weight.reshape(*weight.shape[:2], -1)
    channel = read.value.ndim - max(weight.ndim - 1, 1)
    if read.dim == 1:
        groups = read.value.shape[channel] // weight.shape[1]
        return flat.reshape(groups, -1, *flat.shape[1:])
    groups = int(read.node.meta["val"].shape[channel]) // weight.shape[1]
    return flat.reshape(groups, -1, *flat.shape[1:]).transpose(1, 2)


def options_of(graph: DependencyGraph, node: fx.Node) -> dict[str, Any]:
    """Return how a convolution slides over its input, as keyword arguments of the function."""
    settings = Settings(node, _module(graph, node))
    names = _TRANSPOSED if "transpose" in op_of(graph, node) else _PLAIN
    return {name: settings.get(position, name, default) for position, name, default in names}


def is_uniform(graph: DependencyGraph, node: fx.Node, kernel: tuple[int, ...]) -> bool:
    """Return whether a contraction makes the same of a constant at every position."""
    if not kernel:
        return True
    options = options_of(graph, node)
    padding = options["padding"]
    single = all(size == 1 for size in kernel)
    if "transpose" in op_of(graph, node):
        return single and _all(options["stride"], 1) and _all(padding, 0)
    if getattr(_module(graph, node), "padding_mode", "zeros") != "zeros":
        return True  # what is added around a constant is the same constant
    return padding == "valid" or _all(padding, 0) or (padding == "same" and single)


def _module(graph: DependencyGraph, node: fx.Node) -> nn.Module | None:
    return graph.traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _all(given: Any, value: int) -> bool:
    return all(x == value for x in (given if isinstance(given, list | tuple) else [given]))
