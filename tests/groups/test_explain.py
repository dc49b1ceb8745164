"""Why channels have to stay: the node, the line of the model, and what would free them."""

import ast
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.errors import GroupError
from slimgraph.remedies import REMEDIES, remedy
from tests.groups.models import IMAGE, Residual
from tests.house.tree import LIBRARY, parse, python_files, relative

ELSE = remedy("a message of a rule that nobody wrote yet")


class Between(nn.Module):
    """Two convolutions and something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], head: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(head, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.conv(x)))


def graph_of(model: nn.Module) -> sg.DependencyGraph:
    return sg.analyze(sg.trace(model, torch.randn(IMAGE)))


KINDS: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "cumsum": (lambda x: x.cumsum(1), 8, "nothing, as the result depends on how many"),
    "std": (lambda x: x.std(1, keepdim=True), 1, "nothing, as the result depends on how many"),
    "reflect": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), "circular"), 10, "pad with"),
    "roll": (lambda x: x.roll(1, 1), 8, "roll along dims without"),
    "unbind": (lambda x: torch.stack(x.unbind(1)[:4], 1), 4, "take slices"),
    "read": (lambda x: x * x[:, :1], 8, "take slices"),
    "indexed": (lambda x: x[:, torch.tensor([1, 0])], 2, "index with numbers and slices"),
    "numel": (lambda x: x / x.numel(), 8, "compute with `x.shape[dim]`"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_reason_says_what_would_free_the_channels(kind: str) -> None:
    between, head, says = KINDS[kind]
    said = str(graph_of(Between(between, head)).explain("conv"))
    assert "test_explain.py:" in said, said
    assert f"    to free it: {says}" in said, said


def test_the_output_is_told_to_be_the_output() -> None:
    assert str(graph_of(Residual()).explain("head")) == (
        "`head` cannot shrink\n"
        "  reaches the model's output at %output\n"
        "    to free it: nothing: outputs keep their sizes"
    )


def test_a_group_of_one_channel_says_so() -> None:
    squeeze = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1))
    assert "has a single channel" in str(graph_of(squeeze).explain("0"))


def test_a_group_whose_channels_leave_together_says_so() -> None:
    model = Between(lambda x: x + x.flip(1), 2)
    model.conv = nn.Conv2d(3, 2, 1)
    graph = graph_of(model)
    assert not graph.group_of("conv").prunable
    for said in (graph.explain("conv"), graph.explain("conv", channel=0)):
        assert "all its channels can only leave together at %conv" in str(said)
        assert "to free it: nothing" in str(said)


class Partly(nn.Module):
    """Reads one channel by itself, which another convolution makes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 1)
        self.right = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        right = self.right(x)
        y = self.left(x) + right
        return self.head(y) * right[:, 2:3]


def test_one_channel_is_explained_by_its_own_reasons_and_how_they_reach_it() -> None:
    graph = graph_of(Partly())
    said = str(graph.explain("left", channel=2)).splitlines()
    assert said[0] == "channel 2 of `left` cannot leave"
    assert said[1].startswith("  `left` and `right` are tied by %add (")
    assert said[2].startswith("  is read by itself at %getitem (")
    assert said[3] == f"    to free it: {remedy('is read by itself')}"
    assert str(graph.explain("left", channel=1)) == "channel 1 of `left` can leave"


def test_a_group_of_which_some_channels_stay_says_how_many() -> None:
    said = str(graph_of(Partly()).explain("left"))
    assert said.startswith("`left` can shrink, but 1 of its 8 channels have to stay\n")


def test_a_channel_that_does_not_exist_is_refused() -> None:
    with pytest.raises(GroupError, match="`left` has no channel 8") as caught:
        graph_of(Partly()).explain("left", channel=8)
    assert caught.value.hint == "its channels are 0 to 7"


def test_two_questions_at_once_are_refused() -> None:
    with pytest.raises(GroupError, match="two questions"):
        graph_of(Partly()).explain("left", "right", channel=1)


def message_starts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the beginning of every message that a rule gives for freezing channels."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr not in ("freeze", "freeze_value", "without") or not call.args:
            continue
        message: Any = call.args[-1]
        if isinstance(message, ast.JoinedStr):
            message = message.values[0]
        if isinstance(message, ast.Constant) and isinstance(message.value, str):
            yield call.lineno, message.value


def test_every_message_of_a_rule_has_a_remedy() -> None:
    found = [
        (f"{relative(path)}:{line}", start)
        for path in python_files(*LIBRARY)
        for line, start in message_starts(parse(path))
    ]
    assert len(found) > 20
    lost = [f"{where}: {start!r}" for where, start in found if remedy(start) == ELSE]
    assert not lost, "give them a row in slimgraph/remedies.py:\n" + "\n".join(lost)


def test_no_row_hides_another() -> None:
    rows = list(REMEDIES)
    hidden = [two for i, one in enumerate(rows) for two in rows[i + 1 :] if two.startswith(one)]
    assert not hidden
