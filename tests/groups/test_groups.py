"""Which groups small models have, what belongs to them, and how they explain and show themselves.

The expected groups are read off the models by hand.
"""

import inspect
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import UnknownGroupError
from tests.groups import models

HEAD = [("head.weight", 0), ("head.bias", 0)]
NORM = [("norm.weight", 0), ("norm.bias", 0), ("norm.running_mean", 0), ("norm.running_var", 0)]
EXPECTED: dict[str, dict[str, tuple[int, bool, tuple[str, ...], list[tuple[str, int]]]]] = {
    "Residual": {
        "stem": (6, True, ("stem", "b"), [
            ("stem.weight", 0), ("stem.bias", 0), ("a.weight", 1),
            ("b.weight", 0), ("b.bias", 0), ("head.weight", 1),
        ]),
        "a": (4, True, ("a",), [("a.weight", 0), *NORM, ("b.weight", 1)]),
        "head": (2, False, ("head",), HEAD),
    },
    "Concat": {
        "left": (4, True, ("left",), [
            ("left.weight", 0), ("left.bias", 0), *NORM, ("head.weight", 1),
        ]),
        "right": (5, True, ("right",), [
            ("right.weight", 0), ("right.bias", 0), *NORM, ("head.weight", 1),
        ]),
        "head": (2, False, ("head",), HEAD),
    },
    "Gated": {
        "expand": (8, True, ("expand", "depth", "excite"), [
            ("expand.weight", 0), ("expand.bias", 0), ("depth.weight", 0), ("depth.weight", 1),
            ("depth.bias", 0), ("squeeze.weight", 1), ("excite.weight", 0), ("excite.bias", 0),
            ("project.weight", 1),
        ]),
        "squeeze": (3, True, ("squeeze",), [
            ("squeeze.weight", 0), ("squeeze.bias", 0), ("excite.weight", 1),
        ]),
        "project": (2, False, ("project",), [("project.weight", 0), ("project.bias", 0)]),
    },
    "Flattened": {
        "conv": (5, True, ("conv",), [
            ("conv.weight", 0), ("conv.bias", 0), ("hidden.weight", 1),
        ]),
        "hidden": (7, True, ("hidden",), [
            ("hidden.weight", 0), ("hidden.bias", 0), ("out.weight", 1),
        ]),
        "out": (3, False, ("out",), [("out.weight", 0), ("out.bias", 0)]),
    },
}  # fmt: skip


def graph_of(name: str) -> sg.DependencyGraph:
    return sg.analyze(sg.trace(getattr(models, name)(), torch.randn(models.IMAGE)))


def line_of(model: type[nn.Module], text: str) -> str:
    """Find `file:line` of a line of a model's forward, the way slimgraph writes it."""
    lines, start = inspect.getsourcelines(model.forward)
    offset = next(i for i, line in enumerate(lines) if text in line)
    name = Path(inspect.getfile(model))
    return f"{name.parent.name}/{name.name}:{start + offset}"


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_in_the_order_in_which_the_model_makes_them(name: str) -> None:
    assert [group.name for group in graph_of(name).groups] == list(EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_size_modules_and_whether_a_group_can_shrink(name: str) -> None:
    for group in graph_of(name).groups:
        assert (group.size, group.prunable, group.modules) == EXPECTED[name][group.name][:3]


@pytest.mark.parametrize("name", EXPECTED)
def test_members_are_every_stored_place_of_the_channels(name: str) -> None:
    for group in graph_of(name).groups:
        assert sorted(group.members) == sorted(EXPECTED[name][group.name][3])


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_share_no_channel(name: str) -> None:
    every = torch.cat([group.components for group in graph_of(name).groups])
    assert len(every.unique()) == len(every)


@pytest.mark.parametrize("name", EXPECTED)
def test_group_of_finds_a_group_by_each_of_its_modules(name: str) -> None:
    graph = graph_of(name)
    for group in graph.groups:
        assert all(graph.group_of(module) is group for module in group.modules)


def test_the_output_keeps_its_channels() -> None:
    group = graph_of("Residual").group_of("head")
    assert bool(group.frozen.all())
    assert [(r.node, r.message) for r in group.reasons] == [
        ("output", "reaches the model's output")
    ]


class Sorted(nn.Module):
    """Sorts along the channels, for which there can be no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = torch.sort(x, dim=1).values
        return self.head(x)


def test_a_reason_names_the_node_and_the_line_of_the_model() -> None:
    graph = sg.analyze(sg.trace(Sorted(), torch.randn(models.IMAGE)))
    (reason,) = graph.group_of("conv").reasons
    assert reason.node == "sort"
    assert reason.source.endswith(line_of(Sorted, "torch.sort"))
    assert str(reason) in str(graph.explain("conv"))


def test_explain_names_the_add_that_ties_two_modules() -> None:
    explanation = graph_of("Residual").explain("stem", "b")
    (step,) = explanation.steps
    assert {step.left, step.right} == {"stem", "b"}
    assert step.node == "add"
    assert step.source.endswith(line_of(models.Residual, "x + y"))
    assert f"%add ({step.source})" in str(explanation)


def test_explain_walks_a_chain_of_couplings() -> None:
    steps = graph_of("Gated").explain("expand", "excite").steps
    assert steps[0].left == "expand"
    assert steps[-1].right == "excite"
    assert [step.right for step in steps[:-1]] == [step.left for step in steps[1:]]
    assert "mul" in {step.node for step in steps}


def test_explain_says_that_modules_are_independent() -> None:
    explanation = graph_of("Residual").explain("a", "stem")
    assert str(explanation) == "`a` and `stem` are independent"


@pytest.mark.parametrize(("name", "says"), [("a", "`a` can shrink"), ("head", "`head` cannot")])
def test_explain_one_name_says_whether_it_can_shrink(name: str, says: str) -> None:
    assert str(graph_of("Residual").explain(name)).startswith(says)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownGroupError, match="no group or module `hed`") as caught:
        graph_of("Residual").group_of("hed")
    assert caught.value.hint == "did you mean `head`?"


def test_to_networkx_has_modules_as_nodes_and_couplings_as_edges() -> None:
    network = graph_of("Residual").to_networkx()
    assert dict(network.nodes(data="group")) == {
        "stem": "stem",
        "b": "stem",
        "a": "a",
        "head": "head",
    }
    ((left, right, node),) = network.edges(data="node")
    assert {left, right} == {"stem", "b"}
    assert node == "add"


@pytest.mark.parametrize("name", EXPECTED)
def test_to_dict_survives_json(name: str) -> None:
    report = graph_of(name).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert [group["name"] for group in report["groups"]] == list(EXPECTED[name])


@pytest.mark.parametrize("form", ["text", "json", "dot", "html"])
def test_each_rendering_names_every_group(form: str) -> None:
    rendered = graph_of("Residual").render(form)
    assert all(name in rendered for name in EXPECTED["Residual"])


def shown() -> dict[str, Any]:
    result = sg.slim(models.Residual(), torch.randn(models.IMAGE), channels=0.6)
    return {
        "DependencyGraph(": result.graph,
        "Group(": result.graph.groups[0],
        "Mask(": result.mask,
        "Plan(": result.plan,
        "SlimResult(": result,
    }


def test_reprs_are_one_line_each() -> None:
    for start, value in shown().items():
        assert repr(value).startswith(start)
        assert "\n" not in repr(value)


def test_terminal_and_notebook_tables_name_the_stem() -> None:
    for value in shown().values():
        console = Console(width=120, record=True, file=StringIO())
        console.print(value)
        assert "stem" in console.export_text()
        assert "<" in value._repr_html_()
        assert "stem" in value._repr_html_()
