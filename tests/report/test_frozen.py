"""Which channels have to stay: in the report of real models, and in the page."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from tests.report import sample
from tests.report.conftest import Open
from tests.report.sample import HOSTILE


class Picky(nn.Module):
    """Mixes the first four of eight channels, and reads one of the others by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        left, right = x.chunk(2, 1)
        x = torch.cat([left.cumsum(1), right], 1)
        return self.head(self.body(x)), right[:, 2:3].abs()


@pytest.fixture(scope="module")
def groups() -> dict[str, dict[str, Any]]:
    graph = sg.analyze(sg.trace(Picky(), torch.zeros(1, 3, 8, 8)))
    return {group["name"]: group for group in graph.to_dict()["groups"]}


def test_frozen_channels_are_told_as_runs(groups: dict[str, dict[str, Any]]) -> None:
    assert {name: group["frozen_channels"] for name, group in groups.items()} == {
        "stem": [[0, 3], [6, 6]],
        "body": [],
        "head": [[0, 4]],
    }
    assert {name: group["frozen"] for name, group in groups.items()} == {
        "stem": 5,
        "body": 0,
        "head": 5,
    }


def test_each_reason_tells_the_channels_it_keeps(groups: dict[str, dict[str, Any]]) -> None:
    told = {reason["node"]: reason["channels"] for reason in groups["stem"]["reasons"]}
    assert sorted(told.values()) == [[[0, 3]], [[6, 6]]]
    assert told["cumsum"] == [[0, 3]]
    assert [reason["channels"] for reason in groups["head"]["reasons"]] == [[[0, 4]]]


@pytest.mark.browser
def test_the_strip_marks_the_channels_that_have_to_stay(open_page: Open) -> None:
    page = open_page(sample.partly_frozen().report(), "#group=stem")
    marked = page.locator(".strip i.frozen").evaluate_all("all => all.map(i => i.dataset.i)")
    assert marked == ["0", "1", "2", "3", "9"]
    image = "getComputedStyle(document.querySelector('.strip i.{}')).backgroundImage"
    assert "repeating-linear-gradient" in page.evaluate(image.format("frozen"))
    assert page.evaluate(image.format("kept")) == "none"
    assert page.locator(".key:visible span").all_inner_texts() == ["kept", "removed", "has to stay"]


@pytest.mark.browser
@pytest.mark.parametrize("message", HOSTILE)
def test_a_channel_tells_why_it_has_to_stay(open_page: Open, message: str) -> None:
    page = open_page(sample.partly_frozen(message).report(scores=False), "#group=stem")
    for channel, why in ((0, ""), (3, f"; {message}")):
        page.locator(".strip i").nth(channel).hover()
        lines = page.locator("#tip > *").evaluate_all("all => all.map(line => line.textContent)")
        said = f"has to stay: is mixed with other channels{why}"
        assert lines == [f"channel {channel}", said.encode("utf-8", "replace").decode()] or (
            "surrogate" in said
        )
    assert page.locator("#tip").evaluate("tip => tip.querySelector('img, script')") is None


@pytest.mark.browser
def test_each_reason_in_the_panel_names_its_channels(open_page: Open) -> None:
    page = open_page(sample.partly_frozen().report(), "#group=stem")
    named = page.locator(".callout li > div").all_inner_texts()
    assert named == ["channels 0\N{EN DASH}3 · 9", "channel 3"]


@pytest.mark.browser
def test_before_a_decision_the_other_channels_can_leave(open_page: Open) -> None:
    page = open_page(sample.partly_frozen().report(keep=None), "#group=stem")
    assert page.locator(".key:visible span").all_inner_texts() == ["can leave", "has to stay"]
    page.locator(".strip i").nth(4).hover()
    assert page.locator("#tip").inner_text().splitlines()[:2] == ["channel 4", "can leave"]
