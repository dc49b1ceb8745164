"""Recompute literal sizes in a graph whose channels are about to shrink."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from slimgraph.kept import KeptChannels
from slimgraph.op_names import canonical
from slimgraph.pass_manager import Pass, PassResult, clone
from slimgraph.rules import POSITIONS, Call, Rule, RuleTable
from slimgraph.shapes import device_of, give, modules_of, names_of, stored_tensors
from slimgraph.structures import holds_tensor


@dataclass(frozen=True)
class ResizeLiterals(Pass):
    """Write the sizes that will be left into views, splits, slices and groups.

    Sizes that the model reads from a tensor stay as they were where they count channels, so
    arithmetic on them (a scale by 1/sqrt(C)) keeps its meaning; batch and space stay symbolic::

        %view = call_method[target=view](args = (%conv, -1, 512))
        %split = call_function[target=torch.split](args = (%x, [3, 5], 1))

    becomes, with half of the channels left::

        %view = call_method[target=view](args = (%conv, -1, 256))
        %split = call_function[target=torch.split](args = (%x, [1, 3], 1))

    Attributes:
        kept: Which channels are left.
        table: The rules that know how to resize a call.
        repack: Let ops that mix neighbouring channels run on what is left, which is not exact.
    """

    kept: KeptChannels
    table: RuleTable
    repack: bool = False
    name: ClassVar[str] = "resize-literals"
    keeps_outputs: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> PassResult:
        """Rebuild the graph node by node."""
        rebuild = _Rebuild(self.kept, self.table, graph_module, repack=self.repack)
        twins = {node.name: node for node in self.kept.graph.traced.graph.nodes}
        for node in graph_module.graph.nodes:
            rebuild.emit(node, twins[node.name])
        stale = rebuild.drop_stale()
        result = clone(graph_module, rebuild.new)
        for name in stale:
            delattr(result, name)
        for name, tensor in rebuild.constants.items():
            result.register_buffer(name, tensor.to(device_of(graph_module)), persistent=False)
        for target, name, value in rebuild.options:
            setattr(result.get_submodule(target), name, value)
        return PassResult(result, rebuild.modified)


_ADDED = ("kept_size", "whole")  # how the names of nodes begin that rules add
_PICKS = ("index_select", "getitem")  # a later one may have looked through them


class _Rebuild:
    """The new graph while it grows; `known` maps old nodes to new ones or to plain sizes."""

    def __init__(
        self, kept: KeptChannels, table: RuleTable, root: fx.GraphModule, *, repack: bool
    ) -> None:
        self.repack = repack
        self.kept = kept
        self.table = table
        self.root = root
        self.new = fx.Graph(tracer_cls=root.graph._tracer_cls)
        for node in root.graph.nodes:  # names that an earlier run gave, and this one would again
            if node.name.startswith(_ADDED) or POSITIONS in node.name:
                self.new._graph_namespace.create_name(node.name, None)  # noqa: SLF001 - the only way
        own = root is kept.graph.traced
        self.modules = kept.modules if own else modules_of(root)
        self.names = names_of(kept.stored if own else stored_tensors(root, self.modules))
        self.options: list[tuple[str, str, Any]] = []  # of modules: target, name, new value
        self.constants: dict[str, Tensor] = {}
        self.known: dict[fx.Node, Any] = {}
        self.modified = False

    def emit(self, node: fx.Node, twin: fx.Node) -> None:
        """Copy a node of the graph; `twin` is the same node where it was analysed."""
        if not _holds_tensor(twin) and node.op in ("call_function", "call_method"):
            found = self._size(node, twin)
            if found is not None:
                self.known[node] = found
                return
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self.known[source])
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        rule, options = self._rule(node, module)
        if rule is None or rule.resize is None:
            self._copied(node, node.op, node.target, args, kwargs)
            return
        call = Call(
            canonical(node.target) if module is None else type(module).__name__.lower(),
            twin, list(args), dict(kwargs), self.kept, self.new, node.target,
            module, self._weight(module), constants=self.constants, repack=self.repack,
        )  # fmt: skip
        self._resize(node, call, rule.resize, options)
        if call.instead is not None:
            self.known[node] = call.instead
            self.modified = True
            return
        op = node.op if call.target is node.target else "call_function"
        self._copied(node, op, call.target, tuple(call.args), call.kwargs)

    def _copied(self, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any) -> None:
        made = self.new.create_node(op, target, None, None, node.name, node.type)
        give(made, args, kwargs)
        if made.name != node.name:
            made.name = node.name
        made.meta.update(node.meta)  # fx looks the node up for every attribute that is set
        made.meta.pop("val", None)
        self.known[node] = made

    def drop_stale(self) -> list[str]:
        """Drop constants that nobody reads any more; return those that an earlier run had made."""
        made = [self.known[node] for node in self.root.graph.nodes if node.users]
        used = {node for node in made if isinstance(node, fx.Node)}
        for node in reversed(self.new.nodes):
            is_new = node.op == "get_attr" and node.target in self.constants
            is_pick = node.op == "get_attr" or canonical(node.target) in _PICKS
            if not node.users and (is_new or (is_pick and node in used)):
                self.new.erase_node(node)
        read = {node.target for node in self.new.nodes if node.op == "get_attr"}
        self.constants = {name: self.constants[name] for name in self.constants if name in read}
        own = {node.name + POSITIONS for node in self.root.graph.nodes} - read
        return sorted(own & vars(self.root)["_non_persistent_buffers_set"])

    def _weight(self, module: nn.Module | None) -> str | None:
        found = self.names.get(id(getattr(module, "weight", None)))
        return found[0] if found else None

    def _resize(
        self,
        node: fx.Node,
        call: Call,
        resize: Callable[[Call], None],
        options: dict[str, Any],
    ) -> None:
        before = (call.target, list(call.args), dict(call.kwargs))
        call.kwargs.update(options)
        resize(call)
        for name, old in options.items():
            value = call.kwargs.pop(name, old)
            if value != old:
                self.options.append((str(node.target), name, value))
                self.modified = True
        self.modified |= before != (call.target, call.args, call.kwargs)

    def _rule(self, node: fx.Node, module: nn.Module | None) -> tuple[Rule | None, dict[str, Any]]:
        if module is not None:
            found = self.table.for_module(module)
            if found is not None:
                return found[0], {name: getattr(module, name) for name in found[1].options}
        elif node.op in ("call_function", "call_method"):
            return self.table.for_function(node.target), {}
        return None, {}

    def _size(self, node: fx.Node, twin: fx.Node) -> Any:
        """Return what replaces a size: the old one where it counts channels that leave."""
        args: tuple[Any, ...]
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self.known[source])
        if _reads_shape(twin):
            return self._shape(node, twin, args)
        nodes = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, fx.Node)]
        if nodes and not isinstance(args[0], tuple):
            return None
        if node.target is not None and canonical(node.target) == "getitem" and nodes:
            whole: Any = args[0]
            return whole[args[1]]  # a tuple of which some entries stay symbolic
        if nodes or node.op != "call_function" or not callable(node.target):
            return None
        self.modified = True
        return node.target(*args, **kwargs)

    def _shape(self, node: fx.Node, twin: fx.Node, args: tuple[Any, ...]) -> Any:
        source = twin.args[0]
        assert isinstance(source, fx.Node)
        old = tuple(source.meta["val"].shape)
        new = self.kept.shape(source)
        if old == new:
            return None
        self.modified = True
        given = [arg for arg in twin.args[1:] if isinstance(arg, int)]
        if given:  # x.size(1)
            dim = given[0] % len(old)
            return old[dim] if old[dim] != new[dim] else None
        return tuple(
            before
            if before != after
            else self.new.create_node("call_method", "size", (args[0], i), name="kept_size")
            for i, (before, after) in enumerate(zip(old, new, strict=True))
        )


def _holds_tensor(node: fx.Node) -> bool:
    return holds_tensor(node.meta["val"])


def _reads_shape(node: fx.Node) -> bool:
    name = canonical(node.target)
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.target is getattr:
        return node.args[1:] == ("shape",)
    return name in ("size", "sym_size")
