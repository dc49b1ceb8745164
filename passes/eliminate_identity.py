"""Remove nodes that return their input as it is."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from slimgraph.cloning import has_hooks
from slimgraph.modes import follows_mode, present
from slimgraph.op_names import canonical
from slimgraph.pass_manager import Invariant, Pass, PassResult, clone

_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_DROPOUT_FUNCTIONS = {
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
}


def _is_identity(node: Node, root: GraphModule) -> bool:
    """Return whether a node returns its first argument itself, or a view of its very shape."""
    if not isinstance(_input(node), Node):
        return False
    if node.op == "call_module":
        return _is_identity_module(root.get_submodule(str(node.target)), _input(node))
    if node.op not in ("call_function", "call_method"):
        return False
    name = canonical(node.target)
    if name in _DROPOUT_FUNCTIONS:
        training = present(_argument(node, 2, "training", "train"), root)
        return training is False or _argument(node, 1, "p") == 0
    if name in ("view", "reshape"):
        return _is_shape_of(_argument(node, 1, "shape", "size"), _input(node))
    if name == "flatten":
        start, end = _argument(node, 1, "start_dim"), _argument(node, 2, "end_dim")
        return _flattens_one(0 if start is None else start, -1 if end is None else end, node)
    if name == "permute":
        dims = _argument(node, 1, "dims")
        dims = dims if isinstance(dims, list | tuple) else node.args[1:]
        return tuple(dims) == tuple(range(len(dims))) and len(dims) > 0
    return False


def _is_identity_module(module: nn.Module, source: Node) -> bool:
    if has_hooks(module):
        return False
    if type(module) in _DROPOUTS:
        return not module.training or getattr(module, "p", None) == 0
    if isinstance(module, nn.Flatten):
        return _same_dim(module.start_dim, module.end_dim, source)
    return type(module) is nn.Identity


def _flattens_one(start: Any, end: Any, node: Node) -> bool:
    return isinstance(start, int) and isinstance(end, int) and _same_dim(start, end, _input(node))


def _same_dim(start: int, end: int, source: Node) -> bool:
    """Return whether two dims are one; that needs the rank, which no batch size changes."""
    value = source.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim == 0:
        return False
    return bool(start % value.ndim == end % value.ndim)


def _is_shape_of(argument: Any, source: Node) -> bool:
    """Return whether an argument is the node `source.shape` or `source.size()`."""
    if not isinstance(argument, Node) or argument.args[:1] != (source,):
        return False
    if argument.op == "call_method":
        return argument.target == "size" and len(argument.args) == 1 and not argument.kwargs
    return argument.target is getattr and argument.args[1:] == ("shape",)


def _input(node: Node) -> Any:
    return _argument(node, 0, "input", "self")


def _argument(node: Node, position: int, *names: str) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), None)


def _left(graph_module: GraphModule) -> str | None:
    nodes = graph_module.graph.nodes
    for node in nodes:
        if _is_identity(node, graph_module):
            return f"`{node}` returns its input"
        if _is_settled(node, graph_module):
            return f"`{node}` tells a mode that is settled"
    return None


def _is_settled(node: Node, root: GraphModule) -> bool:
    return follows_mode(node, root) and not root.get_submodule(str(node.target)).training


def _settle(node: Node, root: GraphModule) -> None:
    """Replace a node that tells eval mode by what it tells."""
    value = present(node, root)
    for user in list(node.users):
        user.args, user.kwargs = map_arg(
            (user.args, user.kwargs), lambda arg: value if arg is node else arg
        )
    node.graph.erase_node(node)


@dataclass(frozen=True)
class EliminateIdentity(Pass):
    """Use a value itself where a node merely passes it on.

    1. `nn.Identity`, and dropout that is off: not in training, or with probability 0.
    2. `view` and `reshape` of a value to its own `shape` or `size()`.
    3. Numbers that follow the mode of a module that is not in training.
    4. `flatten` of a single dim, and `permute` in the order that is there already.

    Each is an identity for every batch size, and an alias of its input, so in-place operations
    behind it mean the same as before. A copy such as `contiguous` or `clone` stays::

        %conv : [num_users=1] = call_module[target=conv](args = (%x,), kwargs = {})
        %dropout : [num_users=1] = call_module[target=dropout](args = (%conv,), kwargs = {})
        return dropout

    becomes, in eval mode::

        %conv : [num_users=1] = call_module[target=conv](args = (%x,), kwargs = {})
        return conv
    """

    name: ClassVar[str] = "eliminate-identity"
    ensures: ClassVar[tuple[Invariant, ...]] = (Invariant("no identities", _left),)

    def rewrite(self, graph_module: GraphModule) -> PassResult:
        """Remove every such node."""
        if _left(graph_module) is None:
            return PassResult(graph_module, modified=False)
        result = clone(graph_module)
        removed = 0
        for node in list(result.graph.nodes):
            if _is_settled(node, result):
                _settle(node, result)
            elif _is_identity(node, result):
                node.replace_all_uses_with(_input(node))
                result.graph.erase_node(node)
                removed += 1
        result.recompile()
        return PassResult(result, modified=True, removed=removed)
