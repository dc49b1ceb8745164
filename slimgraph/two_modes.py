"""Tracing a module in both modes: what differs in numbers only follows the mode in the graph."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn import functional as F

from slimgraph.modes import Flag, Modes, TrainingMode

# A module is traced a second time only if that is not much work.
_NODES = 200
_NUMBER = (bool, int, float)
_DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)


class TwoModes(Modes):
    """The modes of a model while a tracer traces it.

    Args:
        tracer: The tracer.
    """

    def __init__(self, tracer: Any) -> None:
        super().__init__()
        self.tracer = tracer
        self.records_nothing = False  # in this mode a call did not; the first node says enough

    def raise_flags(self, modules: Mapping[str, nn.Module]) -> None:
        """Let every module have a flag; the caller puts back what it had."""
        first = {id(modules[name]): name for name in reversed(list(modules))}
        for name in first.values():
            if not isinstance(modules[name], torch.jit.ScriptModule):
                vars(modules[name])["training"] = Flag(name, self)

    def trace(self, module: nn.Module, path: str, call: Callable[[], Any], arguments: Any) -> Any:
        """Trace a call of a module; if it asks for its mode, in both.

        Args:
            module: The module.
            path: Its name.
            call: Calls it.
            arguments: What it is called with, by position and by name.
        """
        before = self.tracer.mark()
        self.asked.discard(path)
        result = call()
        if path not in self.asked or path in self.trains:
            return result
        recorded = self._since(before)
        given = (*arguments[0], *arguments[1].values())
        trained, different = None, None
        if len(recorded) <= _NODES and _is_plain(given):
            trained, different = self._in_train_mode(module, path, call, (recorded, result))
        if path and different is None and _passes(module, result, given) and trained is not result:
            return self.tracer.create_proxy("call_module", path, *arguments)
        if different is None:
            self.unfollowed.add(path)
            return result
        made: dict[_Dropped, Any] = {}
        for node, merged in different.arguments.items():
            with self.tracer.graph.inserting_before(node):
                node.args, node.kwargs = self._follow(path, merged, made)
        if not different.changes_result:
            return result
        return self.tracer.proxy(self._follow(path, different.result, made))

    def node(self, owner: str, *values: Any) -> fx.Node:
        """Record a call that tells the mode of a module, or returns one of two values by it.

        Args:
            owner: Name of the module.
            *values: The values in train and in eval mode.
        """
        module, name = self.tracer.root.get_submodule(owner), "training_mode"
        while not isinstance(getattr(module, name, TrainingMode()), TrainingMode):
            name += "_"  # the model has something else of that name
        path = f"{owner}.{name}" if owner else name
        if name not in module._modules:
            module._modules[name] = TrainingMode()
            self.tracer.run.add(path, module._modules[name])
        made: fx.Node = self.tracer.create_proxy("call_module", path, values, {}).node
        return made

    def _since(self, mark: tuple[fx.Node | None, Any]) -> list[fx.Node]:
        nodes = list(self.tracer.graph.nodes)
        return nodes if mark[0] is None else nodes[nodes.index(mark[0]) + 1 :]

    def _in_train_mode(
        self, module: nn.Module, path: str, call: Callable[[], Any], recorded: Any
    ) -> "tuple[Any, _Difference | None]":
        """Trace a call in train mode, compare with what was recorded in eval mode, and forget it.

        Returns:
            What the call returned; in what the modes differ, `None` if it is too much.
        """
        evaluated, returned = recorded
        before = self.tracer.mark()
        self.trains.add(path)
        outer, self.records_nothing = self.records_nothing, not evaluated
        try:
            with _unchanged(module), torch.random.fork_rng(devices=[]):
                result = call()
                return result, _merged(evaluated, returned, self._since(before), result)
        except (Exception, RecordedError):  # in train mode it may look at data
            return None, None
        finally:
            self.records_nothing = outer
            self.trains.discard(path)
            self.tracer.roll_back(before)

    def _follow(self, owner: str, merged: Any, made: "dict[_Dropped, Any]") -> Any:
        """Let numbers follow a mode, and dropouts that only one mode calls."""

        def choose(arg: Any) -> Any:
            if isinstance(arg, _Dropped):
                return dropped(arg)
            if not isinstance(arg, _Differing):
                return arg
            plain = arg.training is True and arg.evaluating is False
            return self.node(owner, *(() if plain else (arg.training, arg.evaluating)))

        def dropped(call: _Dropped) -> fx.Node:
            if call not in made:
                source = choose(call.source)
                options = {**call.options, "training": self.node(owner)}
                made[call] = self.tracer.create_proxy(
                    "call_function", call.function, (source,), options
                ).node
            found: fx.Node = made[call]
            return found

        return map_aggregate(merged, choose)


class RecordedError(BaseException):
    """A call recorded a node where it must not; no `except Exception` of the model's holds it."""


@dataclass(frozen=True)
class _Differing:
    evaluating: Any
    training: Any


@dataclass(frozen=True, eq=False)
class _Dropped:
    """A dropout that is called in train mode only: eval mode passes what it reads."""

    function: Callable[..., Any]
    source: Any  # a node of eval mode, or another dropout
    options: dict[str, Any]

    @property
    def passed(self) -> fx.Node:
        """What stands for it in eval mode."""
        passed: fx.Node = self.source
        return self.source.passed if isinstance(self.source, _Dropped) else passed


@dataclass(frozen=True)
class _Difference:
    """What is different in train mode: arguments by node, and what a call returns."""

    arguments: dict[fx.Node, Any]
    result: Any
    changes_result: bool


class _OtherwiseError(Exception):
    """Two recordings differ in more than numbers."""


def _merged(
    evaluated: list[fx.Node], result: Any, trained: list[fx.Node], other: Any
) -> _Difference | None:
    """Put what is recorded in eval and in train mode together."""
    one, two = ([n for n in nodes if not _is_aside(n)] for nodes in (evaluated, trained))
    alone = len(two) > len(one)
    twins = [node for node in two if not (alone and _drops(node))]
    if len(one) != len(twins):
        return None
    merge = _Merge(dict(zip(twins, one, strict=True)))
    try:
        arguments = dict(merge.nodes(two))
        before = merge.found
        merged = merge(result, other)
    except _OtherwiseError:
        return None
    changes = merge.found > before
    if changes and not isinstance(merged, _Dropped):
        return None
    return _Difference(arguments, merged, changes)


def _drops(node: fx.Node) -> bool:
    """Return whether a call drops something, and passes it on in eval mode."""
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
    return node.op == "call_function" and node.target in _DROPOUTS and training is True


def _is_aside(node: fx.Node) -> bool:
    """Return whether a node only reads a tensor of the model, or counts the batches of a norm."""
    names = [str(source.target) for source in node.all_input_nodes]
    counts = bool(names) and all(name.endswith("num_batches_tracked") for name in names)
    return node.op == "get_attr" or (counts and not node.users)


@dataclass
class _Merge:
    """Merges values of two modes; mutable, it counts what differs.

    Attributes:
        evaluated: The node of eval mode for each of train mode; dropouts have none.
    """

    evaluated: dict[fx.Node, fx.Node]
    dropped: dict[fx.Node, _Dropped] = field(default_factory=dict)
    found: int = 0

    def nodes(self, trained: list[fx.Node]) -> Iterator[tuple[fx.Node, Any]]:
        """Yield the nodes with other arguments, and these."""
        for twin in trained:
            node = self.evaluated.get(twin)
            if node is None:
                self._drop(twin)
                continue
            before = self.found
            if (node.op, node.target) != (twin.op, twin.target):
                raise _OtherwiseError
            arguments = self((node.args, node.kwargs), (twin.args, twin.kwargs))
            if self.found > before:
                yield node, arguments

    def _drop(self, node: fx.Node) -> None:
        """Note a dropout with what it reads in eval mode."""
        assert callable(node.target), "it is a function"
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
        source = given.pop("input")
        own = self.dropped.get(source, self.evaluated.get(source, source))
        self.dropped[node] = _Dropped(node.target, own, given)

    def __call__(self, one: Any, other: Any) -> Any:
        """Merge two values."""
        if isinstance(one, fx.Proxy) and isinstance(other, fx.Proxy):
            one, other = one.node, other.node
        if isinstance(one, fx.Node):
            return self._node(one, other)
        if isinstance(one, list | tuple | dict | slice):
            return self._container(one, other)
        if one is other or (
            not isinstance(one, Tensor) and type(one) is type(other) and one == other
        ):
            return one
        if not isinstance(one, _NUMBER) or not isinstance(other, _NUMBER):
            raise _OtherwiseError
        self.found += 1
        return _Differing(one, other)

    def _node(self, one: fx.Node, other: Any) -> Any:
        if other in self.dropped:
            self.found += 1
            if self.dropped[other].passed is one:
                return self.dropped[other]
        elif self.evaluated.get(other, other) is one:
            return one
        raise _OtherwiseError

    def _container(self, one: Any, other: Any) -> Any:
        if isinstance(one, slice) and isinstance(other, slice):
            parts = [(each.start, each.stop, each.step) for each in (one, other)]
            return slice(*self(*parts))
        if type(one) is not type(other) or len(one) != len(other):
            raise _OtherwiseError
        if isinstance(one, dict):
            if one.keys() != other.keys():
                raise _OtherwiseError
            return {key: self(value, other[key]) for key, value in one.items()}
        parts = list(starmap(self, zip(one, other, strict=True)))
        return parts if isinstance(one, list) else tuple(parts)


def _passes(module: nn.Module, result: Any, given: tuple[Any, ...]) -> bool:
    """Return whether a module without state returned what it was given."""
    state = (*module._parameters, *module._buffers, *module._modules)
    return not state and any(result is value for value in given)


def _is_plain(values: Any) -> bool:
    """Return whether calling something with these values twice is no more than calling it once."""
    if isinstance(values, tuple):
        return all(_is_plain(value) for value in values)
    return isinstance(values, (fx.Proxy, Tensor, str, type(None), torch.dtype, *_NUMBER))


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Take back what happens to the attributes of a module and all inside it."""
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    held = [(vars(part), vars(part).copy()) for part in parts]
    inside = [v for store, _ in held for v in store.values() if type(v) in (list, dict, set)]
    copies = [(value, value.copy()) for value in inside]
    try:
        yield
    finally:
        for value, copy in (*copies, *held):
            value.clear()
            value.extend(copy) if isinstance(value, list) else value.update(copy)
