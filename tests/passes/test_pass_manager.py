from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from slimgraph.cloning import compiled
from slimgraph.errors import (
    FileError,
    MaskError,
    PassFailedError,
    PostconditionError,
    PreconditionError,
    UntruthfulPassError,
)
from slimgraph.pass_manager import Invariant, Pass, PassResult, Pipeline, clone, dump_passes
from slimgraph.tracing import trace

X = torch.rand(2, 3)


def no_relu(graph_module: GraphModule) -> str | None:
    node = next((node for node in graph_module.graph.nodes if node.target == "relu"), None)
    return node and f"`{node}` is one"


NO_RELU = Invariant("no relu", no_relu)
NEVER = Invariant("never", lambda _: "it never holds")


@pytest.fixture
def net() -> GraphModule:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).relu()

    return trace(Net(), X)


@dataclass(frozen=True)
class Nothing(Pass):
    """Does nothing."""

    name: ClassVar[str] = "nothing"

    def rewrite(self, graph_module: GraphModule) -> PassResult:
        return PassResult(graph_module, modified=False)


@dataclass(frozen=True)
class Change(Pass):
    """Applies a function to a clone, or to the input itself, and reports what it is told to."""

    action: Callable[[GraphModule], object] = lambda _: None
    modified: bool = True
    honest: bool = True
    name: ClassVar[str] = "change"

    def rewrite(self, graph_module: GraphModule) -> PassResult:
        result = clone(graph_module) if self.honest else graph_module
        self.action(result)
        return PassResult(result, self.modified)


def drop_relu(graph_module: GraphModule) -> None:
    relu = next(node for node in graph_module.graph.nodes if node.target == "relu")
    relu.replace_all_uses_with(relu.args[0])
    graph_module.graph.erase_node(relu)
    graph_module.recompile()


def positive(graph_module: GraphModule) -> None:
    """Take absolute values twice: the graph changes, what it computes does not."""
    relu = next(node for node in graph_module.graph.nodes if node.target == "relu")
    with graph_module.graph.inserting_after(relu):
        twice = graph_module.graph.call_method("relu", (relu,))
    relu.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)
    graph_module.recompile()


def run(net: GraphModule, *passes: Pass, debug: bool = True) -> GraphModule:
    return Pipeline((Nothing(), *passes), probe=(X,), debug=debug).run(net)


def test_a_truthful_pass_runs(net: GraphModule) -> None:
    result = run(net, Change(positive))
    assert result is not net
    assert len(result.graph.nodes) == len(net.graph.nodes) + 1
    assert run(net, Nothing()) is net


def test_the_next_pass_gets_the_result(net: GraphModule) -> None:
    assert len(run(net, Change(positive), Change(positive)).graph.nodes) == 6


# One lying pass per promise ---------------------------------------------------------------------


@pytest.mark.parametrize("debug", [True, False])
def test_a_change_without_a_new_module_is_a_lie(net: GraphModule, debug: bool) -> None:
    with pytest.raises(UntruthfulPassError, match="returns its own input"):
        run(net, Change(honest=False), debug=debug)


@pytest.mark.parametrize("debug", [True, False])
def test_a_malformed_graph_is_seen(net: GraphModule, debug: bool) -> None:
    def rename(graph_module: GraphModule) -> None:
        next(node for node in graph_module.graph.nodes if node.op == "call_module").target = "gone"

    with pytest.raises(PostconditionError, match=r"malformed graph: .*gone"):
        run(net, Change(rename), debug=debug)


def _reads_a_missing_tensor(graph: Graph) -> None:
    with graph.inserting_before(graph.find_nodes(op="output")[0]):
        graph.get_attr("gone")


def _reads_before_it_makes(graph: Graph) -> None:
    graph.find_nodes(op="placeholder")[0].prev.append(graph.find_nodes(op="output")[0].prev)


def _names_two_nodes_alike(graph: Graph) -> None:
    output = graph.find_nodes(op="output")[0]
    output.name = output.prev.name


def _reads_a_node_of_another_graph(graph: Graph) -> None:
    graph.find_nodes(op="output")[0].args = (Graph().placeholder("x"),)


def _calls_no_function(graph: Graph) -> None:
    with graph.inserting_before(graph.find_nodes(op="output")[0]):
        graph.call_function(torch.relu, (graph.find_nodes(op="placeholder")[0],)).target = 3


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr")
@pytest.mark.parametrize(
    "spoil",
    [
        _reads_a_missing_tensor,
        _reads_before_it_makes,
        _names_two_nodes_alike,
        _reads_a_node_of_another_graph,
        _calls_no_function,
    ],
)
def test_every_malformed_graph_is_seen(net: GraphModule, spoil: Callable[[Graph], None]) -> None:
    with pytest.raises(PostconditionError, match="left a malformed graph"):
        run(net, Change(lambda graph_module: spoil(graph_module.graph)))


@pytest.mark.parametrize("debug", [True, False])
def test_ensures_is_checked_on_the_result(net: GraphModule, debug: bool) -> None:
    class Promises(Change):
        ensures: ClassVar[tuple[Invariant, ...]] = (NO_RELU,)
        keeps_outputs: ClassVar[bool] = False

    with pytest.raises(PostconditionError, match="does not ensure `no relu`: `relu` is one"):
        run(net, Promises(positive), debug=debug)
    # The input has a relu, the result has none: the promise is kept.
    run(net, Promises(drop_relu), debug=debug)


@pytest.mark.parametrize("debug", [True, False])
def test_requires_is_checked_on_the_input(net: GraphModule, debug: bool) -> None:
    class Needs(Nothing):
        requires: ClassVar[tuple[Invariant, ...]] = (NO_RELU,)

    pipeline = Pipeline((Needs(),), given=(NO_RELU,), debug=debug)
    with pytest.raises(PreconditionError, match="requires `no relu`: `relu` is one"):
        pipeline.run(net)


TOUCHES = {
    "`linear.weight`": lambda net: net.linear.weight.data.mul_(2),
    "module `linear`": lambda net: setattr(net.linear, "in_features", 7),
    "the graph": drop_relu,
}


@pytest.mark.parametrize("what", TOUCHES)
def test_touching_the_input_is_a_lie(net: GraphModule, what: str) -> None:
    with pytest.raises(UntruthfulPassError, match=f"changed its input: {what}"):
        run(net, Change(TOUCHES[what], modified=False, honest=False))


def test_touching_shared_weights_through_a_clone_is_a_lie(net: GraphModule) -> None:
    with pytest.raises(UntruthfulPassError, match=r"changed its input: `linear\.weight`"):
        run(net, Change(lambda copied: copied.linear.weight.data.mul_(2)))


def test_an_invented_change_is_a_lie(net: GraphModule) -> None:
    with pytest.raises(UntruthfulPassError, match="nothing differs from its input"):
        run(net, Change())


def test_a_concealed_change_is_a_lie(net: GraphModule) -> None:
    with pytest.raises(UntruthfulPassError, match="reports no change, but: the graph"):
        run(net, Change(positive, modified=False))


def test_stale_code_is_a_lie(net: GraphModule) -> None:
    def forget(graph_module: GraphModule) -> None:
        compiled(graph_module)  # as it would be once it has run
        relu = next(node for node in graph_module.graph.nodes if node.target == "relu")
        relu.target = "abs"

    with pytest.raises(UntruthfulPassError, match="older than its graph"):
        run(net, Change(forget))


def test_changed_outputs_are_seen(net: GraphModule) -> None:
    with pytest.raises(PostconditionError, match="changes outputs: `output` is off by"):
        run(net, Change(drop_relu))


def test_a_result_that_does_not_run_is_seen(net: GraphModule) -> None:
    def shrink(graph_module: GraphModule) -> None:
        graph_module.linear.weight = nn.Parameter(torch.ones(3, 2))

    with pytest.raises(PostconditionError, match="fails on the probe with RuntimeError"):
        run(net, Change(shrink))


def test_outputs_may_change_where_that_is_the_point(net: GraphModule) -> None:
    class Slices(Change):
        keeps_outputs: ClassVar[bool] = False

    run(net, Slices(drop_relu))


# Errors -----------------------------------------------------------------------------------------


def test_an_exception_names_the_pass_and_the_earlier_ones(net: GraphModule) -> None:
    def fail(_: GraphModule) -> None:
        raise KeyError("x")

    with pytest.raises(PassFailedError) as caught:
        run(net, Change(fail))
    assert str(caught.value) == (
        "pass `change` failed with KeyError: 'x'\n  at: pass 2 of 2, after `nothing`"
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_for_the_user_passes_through(net: GraphModule) -> None:
    error = MaskError("no")

    def fail(_: GraphModule) -> None:
        raise error

    with pytest.raises(MaskError) as caught:
        run(net, Change(fail))
    assert caught.value is error


def test_a_pass_has_to_return_a_result(net: GraphModule) -> None:
    class Forgets(Nothing):
        def rewrite(self, graph_module: GraphModule) -> PassResult:
            return None  # type: ignore[return-value]

    with pytest.raises(PassFailedError, match="returned `NoneType`, not a `PassResult`"):
        run(net, Forgets())


# The static check -------------------------------------------------------------------------------


class Supplies(Nothing):
    ensures: ClassVar[tuple[Invariant, ...]] = (NEVER,)


class Needs(Nothing):
    requires: ClassVar[tuple[Invariant, ...]] = (NEVER,)


def test_every_requirement_needs_a_supplier() -> None:
    with pytest.raises(PreconditionError) as caught:
        Pipeline((Needs(), Supplies()))
    assert str(caught.value) == (
        "pass `nothing` requires `never`, which nothing ensures\n  at: pass 1 of 2\n\n"
        "hint: put a pass that ensures it in front, or list it in `given`"
    )
    Pipeline((Supplies(), Needs()))
    Pipeline((Needs(),), given=(NEVER,))


def test_passes_compare_by_their_options() -> None:
    @dataclass(frozen=True)
    class Option(Nothing):
        factor: int = 1
        names: tuple[str, ...] = field(default=())

    assert Option(2) == Option(2) != Option(3)
    assert repr(Option(2)).endswith("Option(factor=2, names=())")


# Observers --------------------------------------------------------------------------------------


def test_the_observer_sees_every_pass(net: GraphModule) -> None:
    seen = []
    pipeline = Pipeline((Nothing(), Change(positive)), observer=lambda *event: seen.append(event))
    result = pipeline.run(net)
    assert seen == [("nothing", net, net), ("change", net, result)]


def test_dumps_show_the_graph_before_and_after(net: GraphModule, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dumps"
    Pipeline((Nothing(), Change(drop_relu)), observer=dump_passes(folder)).run(net)
    assert sorted(path.name for path in folder.iterdir()) == [
        "01-nothing.after.txt",
        "01-nothing.before.txt",
        "02-change.after.txt",
        "02-change.before.txt",
    ]
    linear = (
        "    %linear : [num_users=1] = call_module[target=linear](args = (%x,), kwargs = {})"
        "  # Linear(in_features=3, out_features=3, bias=True) -> float32[2, 3]\n"
    )
    head = "graph():\n    %x : [num_users=1] = placeholder[target=x]  # float32[2, 3]\n"
    relu = (
        "    %relu : [num_users=1] = call_method[target=relu](args = (%linear,), kwargs = {})"
        "  # float32[2, 3]\n"
    )
    before = (folder / "02-change.before.txt").read_text(encoding="utf-8")
    after = (folder / "02-change.after.txt").read_text(encoding="utf-8")
    assert before == f"{head}{linear}{relu}    return relu\n"
    assert after == f"{head}{linear}    return linear\n"


def test_a_dump_that_cannot_be_written_is_an_error(net: GraphModule, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot create the folder"):
        dump_passes(tmp_path / "file" / "dumps")
    observer = dump_passes(tmp_path / "dumps")
    (tmp_path / "dumps").rmdir()
    with pytest.raises(FileError, match="cannot write"):
        observer("name", net, net)
