import copy
from typing import Any

import pytest
import torch
from torch import nn

import slimgraph as sg
from slimgraph.errors import SlimgraphError
from slimgraph.report import FORMATS, html_summary, render, table
from tests.report.test_schema import validator


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_renders_every_sample(report: dict[str, Any], name: str) -> None:
    untouched = copy.deepcopy(report)
    text = render(report, name)
    assert text.endswith("\n")
    text.encode()  # no lone surrogates
    assert report == untouched
    assert render(report, name) == text


def test_an_unknown_format_is_an_error_that_names_the_known() -> None:
    with pytest.raises(SlimgraphError) as caught:
        render({}, "pdf")
    assert str(caught.value) == (
        "no report format is called `pdf`\n\n"
        "hint: use one of the formats `text`, `html`, `dot`, `json`"
    )


def test_a_report_of_another_version_is_an_error() -> None:
    with pytest.raises(SlimgraphError) as caught:
        render({"schema": "slimgraph.report/9"}, "text")
    assert str(caught.value) == (
        "cannot render a report of schema `slimgraph.report/9`\n\n"
        "hint: make a new report with this version, which writes `slimgraph.report/1`"
    )


class Residual(nn.Module):
    """A residual connection and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.side = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.body(x)
        x = torch.cat([x, self.side(x)], 1)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def real_reports() -> list[dict[str, Any]]:
    graph = sg.analyze(sg.trace(Residual(), torch.zeros(1, 3, 8, 8)))
    slim = sg.slim(Residual(), torch.zeros(1, 3, 8, 8), macs=0.6, criterion="l2", seed=0)
    return [graph.to_dict(), slim.report]


def test_reports_of_real_models_are_valid_and_render(schema: dict[str, Any]) -> None:
    for report in real_reports():
        validator(schema).validate(report)
        for name in FORMATS:
            assert "stem" in render(report, name)
        assert "stem" in html_summary(report)
        assert table(report)
