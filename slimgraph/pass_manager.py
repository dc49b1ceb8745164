"""Passes and the contract they keep.

A pass takes a graph module and returns another one; a pipeline runs passes in order and checks what
each of them promises:

    run()
        +-- for each pass
            +-- requires hold for the input
            +-- rewrite()
            +-- the result is well formed, `modified` is plausible, ensures hold for the result
            +-- in debug mode: the input is untouched, `modified` is true, outputs are kept
            +-- observer(name, before, after)

Passes are functional. They work on a `clone`, replace parameters and never write into them.
"""

import itertools
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map

from slimgraph.cloning import clone, fingerprint, first_difference, run_isolated
from slimgraph.errors import (
    FileError,
    PassFailedError,
    PostconditionError,
    PreconditionError,
    SlimgraphError,
    UntruthfulPassError,
)
from slimgraph.parity import compare
from slimgraph.shapes import modules_of

__all__ = ["Invariant", "Observer", "Pass", "PassResult", "Pipeline", "clone", "dump_passes"]

Observer = Callable[[str, GraphModule, GraphModule], None]


@dataclass(frozen=True)
class Invariant:
    """Something that holds for a graph module, or a sentence that says where it does not.

    Attributes:
        name: What holds, such as `no dead nodes`.
        violation: Returns `None` if it holds, else the offending node or parameter in words.
    """

    name: str
    violation: Callable[[GraphModule], str | None]


@dataclass(frozen=True)
class PassResult:
    """What a pass returns.

    Attributes:
        graph_module: A new module if something changed; else the input itself will do.
        modified: Whether graph, parameters or modules differ from the input.
        removed: Number of nodes, modules or parameters that are gone.
    """

    graph_module: GraphModule
    modified: bool
    removed: int = 0


@dataclass(frozen=True)
class Pass(ABC):
    """One rewrite. Subclasses are frozen dataclasses; their fields are the options.

    Attributes:
        name: As the command line and the dumps spell it, such as `fold-batch-norm`.
        requires: What must hold for the input.
        ensures: What then holds for the result.
        edits_graph: Whether the graph of the result is another one than that of the input.
        keeps_outputs: Whether the result computes what the input computed; `False` only where
            slicing is the point.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Invariant, ...]] = ()
    ensures: ClassVar[tuple[Invariant, ...]] = ()
    edits_graph: ClassVar[bool] = True
    keeps_outputs: ClassVar[bool] = True

    @abstractmethod
    def rewrite(self, graph_module: GraphModule) -> PassResult:
        """Return the rewritten module; the input is neither changed nor written into."""

    def rewrite_own(self, graph_module: GraphModule) -> PassResult:
        """Do the same with a module that nobody else holds: it may be the result itself."""
        return self.rewrite(graph_module)


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, each checked against its contract.

    Attributes:
        passes: What to run.
        probe: One value per placeholder, on which debug mode compares outputs.
        observer: Called as `observer(name, before, after)` after every pass.
        debug: Whether to make the costly checks too.
        given: What the caller vouches for before the first pass.

    Raises:
        PreconditionError: A pass requires what neither `given` nor an earlier pass supplies.
    """

    passes: tuple[Pass, ...]
    probe: tuple[Any, ...] | None = None
    observer: Observer | None = None
    debug: bool = False
    given: tuple[Invariant, ...] = ()

    def __post_init__(self) -> None:
        """Check that every requirement has a supplier."""
        supplied = set(self.given)
        for index, step in enumerate(self.passes):
            for needed in step.requires:
                if needed not in supplied:
                    raise PreconditionError(
                        f"pass `{step.name}` requires `{needed.name}`, which nothing ensures",
                        self._where(index),
                        "put a pass that ensures it in front, or list it in `given`",
                    )
            supplied |= set(step.ensures)

    def run(self, graph_module: GraphModule) -> GraphModule:
        """Run all passes and return the last result; the input is not changed.

        Raises:
            PreconditionError: The input of a pass lacks what the pass requires.
            PostconditionError: A result is malformed or lacks what the pass ensures.
            UntruthfulPassError: A pass changed its input or misreported `modified`.
            PassFailedError: A pass raised an exception other than a slimgraph error.
        """
        start = graph_module
        for index, step in enumerate(self.passes):
            before = graph_module
            own = before is not start and self.observer is None and not self.debug
            graph_module = self._step(self._where(index), step, before, own=own)
            if self.observer is not None:
                self.observer(step.name, before, graph_module)
        return graph_module

    def _step(self, where: str, step: Pass, before: GraphModule, *, own: bool) -> GraphModule:
        for needed in step.requires:
            if violation := needed.violation(before):
                raise PreconditionError(
                    f"pass `{step.name}` requires `{needed.name}`: {violation}", where
                )
        recorded = fingerprint(before) if self.debug else None
        try:
            result = step.rewrite_own(before) if own else step.rewrite(before)
        except SlimgraphError:
            raise  # it is meant for the user
        except Exception as error:
            raise PassFailedError(
                f"pass `{step.name}` failed with {type(error).__name__}: {error}", where
            ) from error
        _check_identity(step, None if own else before, result, where)
        _check_result(step, result.graph_module, where)
        if recorded is not None:
            _check_truth(step, before, recorded, result, where)
            if step.keeps_outputs and self.probe is not None and result.modified:
                _check_outputs(step, before, result.graph_module, self.probe, where)
        return result.graph_module

    def _where(self, index: int) -> str:
        earlier = ", ".join(f"`{step.name}`" for step in self.passes[:index])
        return f"pass {index + 1} of {len(self.passes)}" + (earlier and f", after {earlier}")


def _check_identity(step: Pass, before: GraphModule | None, result: PassResult, where: str) -> None:
    """Check that a changed module is another object than the input."""
    if not isinstance(result, PassResult):
        got = type(result).__name__
        raise PassFailedError(f"pass `{step.name}` returned `{got}`, not a `PassResult`", where)
    if result.modified and result.graph_module is before:
        raise UntruthfulPassError(
            f"pass `{step.name}` reports a change but returns its own input",
            where,
            "passes are functional: change a `clone` and return that",
        )


def _check_result(step: Pass, after: GraphModule, where: str) -> None:
    """Check form and promises of the result, not of the input."""
    try:
        if step.edits_graph and not _is_sound(after):
            after.graph.lint()  # which looks at everything, and says what is wrong
    except (RuntimeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise PostconditionError(
            f"pass `{step.name}` left a malformed graph: {first_line}", where
        ) from error
    for promised in step.ensures:
        if violation := promised.violation(after):
            raise PostconditionError(
                f"pass `{step.name}` does not ensure `{promised.name}`: {violation}", where
            )


def _is_sound(graph_module: GraphModule) -> bool:
    """Return whether a graph is plainly what `Graph.lint` asks for, which takes longer to tell."""
    graph, modules = graph_module.graph, modules_of(graph_module)
    made: set[Node] = set()
    for node in graph.nodes:
        if node.graph is not graph or not made.issuperset(node.all_input_nodes):
            return False
        if node.op == "call_module":
            there = node.target in modules
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            there = getattr(modules.get(owner), name, None) is not None
        else:
            there = callable(node.target) if node.op == "call_function" else True
        if not there:
            return False
        made.add(node)
    return len({node.name for node in made}) == len(made)


def _check_truth(
    step: Pass, before: GraphModule, recorded: dict[str, Any], result: PassResult, where: str
) -> None:
    """Check that the input is what it was, and that `modified` and the code tell the truth."""
    if touched := first_difference(recorded, fingerprint(before)):
        raise UntruthfulPassError(f"pass `{step.name}` changed its input: {touched}", where)
    after = result.graph_module
    changed = first_difference(recorded, fingerprint(after))
    if result.modified and not changed:
        raise UntruthfulPassError(
            f"pass `{step.name}` reports a change, but nothing differs from its input", where
        )
    if changed and not result.modified:
        raise UntruthfulPassError(f"pass `{step.name}` reports no change, but: {changed}", where)
    if after.graph.python_code("self").src != after.code:
        raise UntruthfulPassError(
            f"pass `{step.name}` returns code that is older than its graph",
            where,
            "call `recompile()` after the last change to the graph",
        )


def _check_outputs(
    step: Pass, before: GraphModule, after: GraphModule, probe: tuple[Any, ...], where: str
) -> None:
    reference = run_isolated(before, probe)
    try:
        candidate = run_isolated(after, probe)
    except Exception as error:
        raise PostconditionError(
            f"pass `{step.name}` returns a module that fails on the probe with "
            f"{type(error).__name__}: {error}",
            where,
        ) from error
    for result in compare(reference, candidate):
        if not result.ok:
            raise PostconditionError(f"pass `{step.name}` changes outputs: {result}", where)


def dump_passes(directory: str | Path) -> Observer:
    """Make an observer that writes the graph before and after each pass.

    Args:
        directory: Gets `01-name.before.txt`, `01-name.after.txt`, `02-...`; created if missing.

    Raises:
        FileError: The folder cannot be created, or later a file cannot be written.
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot create the folder `{folder}`: {error.strerror}") from error
    numbers = itertools.count(1)

    def write(name: str, before: GraphModule, after: GraphModule) -> None:
        stem = f"{next(numbers):02}-{name}"
        _write_text(folder / f"{stem}.before.txt", "\n".join(_lines(before)) + "\n")
        _write_text(folder / f"{stem}.after.txt", "\n".join(_lines(after)) + "\n")

    return write


def _lines(graph_module: GraphModule) -> Iterator[str]:
    """Yield the graph in fx's own print format, modules and shapes behind each line."""
    yield "graph():"
    for node in graph_module.graph.nodes:
        notes = []
        if node.op == "call_module":
            notes.append(repr(graph_module.get_submodule(str(node.target))).partition("\n")[0])
        if node.op != "output" and "val" in node.meta:
            notes.append(_shape(node))
        yield f"    {node.format_node()}" + ("  # " + " -> ".join(notes) if notes else "")


def _shape(node: Node) -> str:
    def show(leaf: Any) -> str:
        if not isinstance(leaf, Tensor):
            return str(leaf)
        return f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"

    return str(tree_map(show, node.meta["val"])).replace("'", "")


def _write_text(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except OSError as error:
        raise FileError(f"cannot write `{path}`: {error.strerror}") from error
