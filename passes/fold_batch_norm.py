"""Fold batch normalisation into the convolution or linear layer in front of it."""

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from slimgraph.cloning import has_hooks
from slimgraph.modes import present
from slimgraph.op_names import canonical
from slimgraph.pass_manager import Invariant, Pass, PassResult, clone
from slimgraph.plan import like, put
from slimgraph.shapes import stored_tensors

# Rank of the value whose dim 1 the contraction writes and the norm reads.
_RANKS = {
    "linear": 2,
    "conv1d": 3,
    "conv2d": 4,
    "conv3d": 5,
    "conv_transpose1d": 3,
    "conv_transpose2d": 4,
    "conv_transpose3d": 5,
}
# Exact types: a subclass may compute something else.
_CONTRACTIONS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}
# The only rank a norm accepts, where there is only one.
_NORMS: dict[type[nn.Module], int | None] = {
    nn.BatchNorm1d: None,
    nn.BatchNorm2d: 4,
    nn.BatchNorm3d: 5,
    nn.SyncBatchNorm: None,
}
_ORDERS = {
    "batch_norm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "aten": ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}


@dataclass(frozen=True)
class _Norm:
    """A batch norm with fixed statistics: `(x - mean) / sqrt(var + eps) * weight + bias`."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    rank: int | None


@dataclass(frozen=True)
class _Contraction:
    """A convolution or linear layer by the names of its parameters."""

    kind: str
    weight: str
    bias: str | None
    groups: int


@dataclass(frozen=True)
class _Match:
    """A norm and what it reads: a contraction, or the sum of two."""

    node: Node
    parts: tuple[tuple[Node, _Contraction], ...]
    norm_node: Node
    norm: _Norm


class _Matcher:
    """Finds what can be folded in one graph module."""

    def __init__(self, root: GraphModule) -> None:
        self.root = root
        self.stored = stored_tensors(root)
        self.uses = Counter(_used_tensors(root))

    def matches(self) -> Iterator[_Match]:
        """Yield every foldable pair; the caller may fold it before asking for the next one."""
        for norm_node in list(self.root.graph.nodes):
            norm = self._norm(norm_node)
            node = _argument(norm_node, 0, "input") if norm else None
            if norm is None or not isinstance(node, Node) or len(node.users) != 1:
                continue
            nodes = _summands(node)
            found = [self._contraction(part) for part in nodes]
            parts = [
                (part, contraction)
                for part, contraction in zip(nodes, found, strict=True)
                if contraction and _rank(part, norm) == _RANKS[contraction.kind]
                if len(nodes) == 1 or self._outputs(contraction) == len(norm.mean)
            ]
            if len(parts) == len(nodes):
                yield _Match(node, tuple(parts), norm_node, norm)

    def _outputs(self, contraction: _Contraction) -> int:
        """Count output channels; one that is spread over all of them would differ."""
        shape = self.stored[contraction.weight].shape
        is_transposed = "transpose" in contraction.kind
        return shape[1] * contraction.groups if is_transposed else shape[0]

    def tensor(self, argument: Any) -> Tensor | None:
        """Return the parameter or buffer an argument reads."""
        if isinstance(argument, Node) and argument.op == "get_attr":
            return self.stored.get(str(argument.target))
        return None

    def put(self, name: str, tensor: Tensor) -> None:
        """Replace a parameter that has one user; so has its successor."""
        put(self.root, name, tensor)
        self.stored[name] = tensor
        self.uses[id(tensor)] = 1

    def _norm(self, node: Node) -> _Norm | None:
        if node.op == "call_module":
            return _norm_of_module(self.root.get_submodule(str(node.target)))
        order = _argument_order(node)
        if order is None:
            return None
        given = dict(zip(order, node.args[1:], strict=False)) | node.kwargs
        mean, var = self.tensor(given.get("running_mean")), self.tensor(given.get("running_var"))
        weight, bias = self.tensor(given.get("weight")), self.tensor(given.get("bias"))
        computed = (given.get("weight"), weight), (given.get("bias"), bias)
        if any(argument is not None and tensor is None for argument, tensor in computed):
            return None
        eps = given.get("eps", 1e-5)
        if mean is None or var is None or not isinstance(eps, float):
            return None
        if present(given.get("training", False), self.root) is not False:
            return None
        return _Norm(mean, var, weight, bias, eps, None)

    def _contraction(self, node: Node) -> _Contraction | None:
        found = self._called(node) if node.op == "call_module" else self._function(node)
        if found is None or self.uses[id(self.stored[found.weight])] != 1:
            return None
        if found.bias is not None and self.uses[id(self.stored[found.bias])] != 1:
            return None
        return found if self.stored[found.weight].is_floating_point() else None

    def _called(self, node: Node) -> _Contraction | None:
        module = self.root.get_submodule(str(node.target))
        kind = _CONTRACTIONS.get(type(module))
        weight, bias = f"{node.target}.weight", f"{node.target}.bias"
        # Reparametrised modules keep their weight as a plain attribute.
        if kind is None or weight not in self.stored or "bias" in vars(module):
            return None
        if has_hooks(module):
            return None
        groups = getattr(module, "groups", 1)
        return _Contraction(kind, weight, bias if bias in self.stored else None, groups)

    def _function(self, node: Node) -> _Contraction | None:
        kind = canonical(node.target)
        if node.op != "call_function" or kind not in _RANKS:
            return None
        weight, bias = _argument(node, 1, "weight"), _argument(node, 2, "bias")
        groups = _argument(node, 6, "groups", 1)
        if self.tensor(weight) is None or not isinstance(groups, int):
            return None
        if bias is not None and self.tensor(bias) is None:
            return None
        return _Contraction(
            kind, str(weight.target), None if bias is None else str(bias.target), groups
        )


def _foldable(graph_module: GraphModule) -> str | None:
    for match in _Matcher(graph_module).matches():
        return f"`{match.norm_node}` can be folded into `{match.node}`"
    return None


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Scale the weights in front of a batch norm and drop the norm.

    Computed in float64 and rounded once. Folded are norms with fixed statistics behind a
    convolution, transposed convolution or linear layer, called as modules or as functions, whose
    value and parameters have no other user::

        %conv : [num_users=1] = call_module[target=conv](args = (%x,), kwargs = {})
        %bn : [num_users=1] = call_module[target=bn](args = (%conv,), kwargs = {})
        return bn

    becomes::

        %conv : [num_users=1] = call_module[target=conv](args = (%x,), kwargs = {})
        return conv

    The convolution gains a bias. Of a sum of two, as `FoldConstants` makes it, both are scaled. A
    norm in training mode stays. `EliminateDeadNodes` removes the norm's module.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, CVPR 2018, eq. 14.
    """

    name: ClassVar[str] = "fold-batch-norm"
    ensures: ClassVar[tuple[Invariant, ...]] = (Invariant("batch norms folded", _foldable),)

    def rewrite(self, graph_module: GraphModule) -> PassResult:
        """Fold every pair there is."""
        if _foldable(graph_module) is None:
            return PassResult(graph_module, modified=False)
        result = clone(graph_module)
        matcher = _Matcher(result)
        removed = 0
        for match in matcher.matches():
            _fold(matcher, match)
            removed += 1
        result.recompile()
        return PassResult(result, modified=True, removed=removed)


def _summands(node: Node) -> tuple[Node, ...]:
    """Return the two values that a node adds up, if nothing else reads them, or itself."""
    if node.op == "call_function" and node.target is operator.add:
        nodes = tuple(arg for arg in node.args if isinstance(arg, Node) and len(arg.users) == 1)
        if len(set(nodes)) == 2:
            return nodes
    return (node,)


def _fold(matcher: _Matcher, match: _Match) -> None:
    norm = match.norm
    for node, contraction in match.parts:
        _fold_into(matcher, node, contraction, norm)
        norm = replace(norm, mean=torch.zeros_like(norm.mean), bias=None)  # the shift is there
    match.norm_node.replace_all_uses_with(match.node)
    match.norm_node.graph.erase_node(match.norm_node)


def _fold_into(matcher: _Matcher, node: Node, contraction: _Contraction, norm: _Norm) -> None:
    weight = matcher.stored[contraction.weight]
    bias = None if contraction.bias is None else matcher.stored[contraction.bias]
    new_weight, new_bias = _folded(contraction, weight, bias, norm)
    matcher.put(contraction.weight, like(weight, new_weight))
    if contraction.bias is not None:
        matcher.put(contraction.bias, like(weight if bias is None else bias, new_bias))
    elif not bool(new_bias.any()):
        return
    elif node.op == "call_module":
        matcher.put(f"{node.target}.bias", like(weight, new_bias))
    else:
        name = _free_name(matcher.root, contraction.weight)
        matcher.put(name, like(weight, new_bias))
        _give_bias(node, name)


@torch.no_grad()
def _folded(
    contraction: _Contraction, weight: Tensor, bias: Tensor | None, norm: _Norm
) -> tuple[Tensor, Tensor]:
    factor = (norm.var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.mean.double() if bias is None else bias.double() - norm.mean.double()
    shift = shift * factor
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if "transpose" in contraction.kind:  # (in, out / groups, ...)
        grouped = weight.double().unflatten(0, (contraction.groups, -1))
        shape = (contraction.groups, 1, -1) + (1,) * (weight.ndim - 2)
        scaled = (grouped * factor.reshape(shape)).flatten(0, 1)
    else:
        scaled = weight.double() * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def _norm_of_module(module: Any) -> _Norm | None:
    if type(module) not in _NORMS or module.training or has_hooks(module):
        return None
    mean, var = module.running_mean, module.running_var
    if mean is None or var is None:
        return None
    return _Norm(mean, var, module.weight, module.bias, module.eps, _NORMS[type(module)])


def _argument_order(node: Node) -> tuple[str, ...] | None:
    """Return the parameter names behind `input` of a functional batch norm."""
    if node.op != "call_function":
        return None
    if node.target is torch.batch_norm or canonical(node.target) == "aten.batch_norm":
        return _ORDERS["aten"]
    return _ORDERS.get(canonical(node.target))


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _rank(node: Node, norm: _Norm) -> int | None:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else norm.rank


def _used_tensors(root: GraphModule) -> Iterator[int]:
    """Yield the identity of every tensor once per use in the graph."""
    stored = stored_tensors(root)
    for node in root.graph.nodes:
        if node.op == "call_module":
            module = root.get_submodule(str(node.target))
            yield from (id(tensor) for tensor in module.parameters())
            yield from (id(tensor) for tensor in module.buffers())
        elif node.op == "get_attr" and str(node.target) in stored:
            yield from [id(stored[str(node.target)])] * len(node.users)


def _free_name(root: GraphModule, weight: str) -> str:
    """Return a name for a bias beside a weight: `conv.bias`, or one not yet taken."""
    owner, _, _ = weight.rpartition(".")
    module = root.get_submodule(owner)
    names = ("bias" if index == 0 else f"folded_bias_{index}" for index in count())
    name = next(name for name in names if getattr(module, name, None) is None)
    return f"{owner}.{name}" if owner else name


def _give_bias(node: Node, name: str) -> None:
    with node.graph.inserting_before(node):
        bias = node.graph.get_attr(name)
    bias.meta["source"] = node.meta.get("source", "")
    if len(node.args) > 2:
        node.update_arg(2, bias)
    else:
        node.update_kwarg("bias", bias)
