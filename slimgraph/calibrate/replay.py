"""Running two models side by side, from layer to layer, without beginning anew each time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from slimgraph.calibrate.running import batches, images_in, values_at
from slimgraph.hosted import HostedModule
from slimgraph.structures import leaves

ROOM = 2**30  # bytes of values that may wait for the next layer
Seen = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Reached:
    """How far a model has come with one batch.

    Attributes:
        place: How many nodes have run.
        values: Those of their values that later nodes read.
    """

    place: int
    values: dict[fx.Node, Any]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return sum(t.nbytes for t in leaves(tuple(self.values.values())) if isinstance(t, Tensor))


@dataclass(frozen=True, eq=False)
class Walk:
    """A model that runs node by node, and stops where it is told to.

    Attributes:
        model: Its weights may change between stops, those of nodes that have not run.
    """

    model: fx.GraphModule

    @cached_property
    def nodes(self) -> list[fx.Node]:
        """All nodes, in order."""
        return list(self.model.graph.nodes)

    @cached_property
    def places(self) -> dict[str, int]:
        """The places of nodes by name."""
        return {node.name: place for place, node in enumerate(self.nodes)}

    @cached_property
    def _interpreter(self) -> fx.Interpreter:
        return fx.Interpreter(self.model)

    def begin(self, inputs: tuple[Any, ...]) -> Reached:
        """Return the start of a run."""
        given = [node for node in self.nodes if node.op == "placeholder"]
        return Reached(0, dict(zip(given, inputs, strict=False)))

    def to(self, reached: Reached, name: str) -> Reached:
        """Run up to a node, but not it; values that no later node reads are let go."""
        interpreter, values = self._interpreter, dict(reached.values)
        interpreter.env = values
        place = self.places[name]
        for node in self.nodes[reached.place : place]:
            if node.op != "placeholder":
                values[node] = interpreter.run_node(node)
            for last in interpreter.user_to_last_uses.get(node, ()):
                del values[last]
        return Reached(place, values)

    def holds(self, name: str, other: str | None) -> bool:
        """Tell whether a node's value is still read when another comes next."""
        if other is None:
            return True
        users = self.nodes[self.places[other]].users
        return any(self.places[user.name] >= self.places[name] for user in users)

    def seen(self, reached: Reached, other: str | None) -> Seen:
        """Return the first input and the output of the node that comes next, and another value."""
        interpreter, node = self._interpreter, self.nodes[reached.place]
        more = () if other is None else (reached.values[self.nodes[self.places[other]]],)
        interpreter.env = dict(reached.values)
        return (reached.values[node.all_input_nodes[0]], interpreter.run_node(node), *more)


@dataclass(eq=False)
class SideBySide:
    """Two models on the same batches, stopped at one layer after the other.

    What later layers need of a batch is kept as long as there is room for it, so that each node
    runs once; batches there is no room for begin anew. Data in another order every time is no
    matter: both models always see the same batch. It is mutable because it moves on.

    Attributes:
        models: Graphs with nodes of the same names.
        data: Batches of inputs.
        room: Bytes that may be kept.
    """

    models: tuple[fx.GraphModule, fx.GraphModule]
    data: Iterable[Any]
    room: int = ROOM
    _kept: dict[int, tuple[int, list[Reached]]] = field(default_factory=dict, repr=False)
    _count: int | None = None

    @cached_property
    def _walks(self) -> list[Walk]:
        return [Walk(model) for model in self.models]

    def at(self, name: str, other: str | None = None) -> Iterator[tuple[int, Seen, Seen]]:
        """Stop at a node; nodes have to come in the order of the graph.

        Args:
            name: Of the node.
            other: Name of a node before it whose value is wanted, too.

        Yields:
            The number of images of a batch, and of each model the node's first input, its output
            and the other value.
        """
        hosted = any(isinstance(model, HostedModule) for model in self.models)
        if hosted or not all(walk.holds(name, other) for walk in self._walks):
            first, second = (values_at(model, name, other) for model in self.models)
            for inputs in batches(self.models[0], self.data):
                yield images_in(inputs), first(inputs), second(inputs)
            return
        for index, inputs in self._batches():
            kept = self._kept.pop(index, None)
            images, reached = self._begun(inputs) if kept is None else kept
            reached = [w.to(r, name) for w, r in zip(self._walks, reached, strict=True)]
            one, two = (w.seen(r, other) for w, r in zip(self._walks, reached, strict=True))
            yield images, one, two
            own = sum(each.size for each in reached)
            if own + sum(each.size for _, k in self._kept.values() for each in k) <= self.room:
                self._kept[index] = images, reached

    def _batches(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Number the batches; those that are all kept need no data."""
        if self._count is not None and len(self._kept) == self._count:
            yield from ((index, ()) for index in range(self._count))
            return
        count = 0
        for inputs in batches(self.models[0], self.data):
            yield count, inputs
            count += 1
        self._count = count

    def _begun(self, inputs: tuple[Any, ...]) -> tuple[int, list[Reached]]:
        return images_in(inputs), [walk.begin(inputs) for walk in self._walks]
