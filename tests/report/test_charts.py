"""Charts on the page: drawn from the report, named by text that stays text."""

import math
from typing import Any

import pytest

from tests.report.conftest import Open
from tests.report.sample import HISTOGRAM, HOSTILE


def test_charts_have_a_title_and_a_description(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed, "#tab=charts")
    charts = page.locator("#charts svg")
    assert charts.count() == 2
    for i in range(2):
        chart = charts.nth(i)
        assert chart.get_attribute("role") == "img"
        for name in ("labelledby", "describedby"):
            told = page.locator(f"#{chart.get_attribute(f'aria-{name}')}").text_content()
            assert told
            assert "NaN" not in told
            assert "undefined" not in told
    assert f"Scores by {HOSTILE[0]}" in page.locator("#charts").text_content()
    assert page.locator("#charts script, #charts img").count() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"removed": [0] * 24, "zeros": {"kept": 0, "removed": 0}},
        {"log": False, "edges": [0.95, 1.05], "kept": [9], "removed": [0]},
        {"edges": [], "kept": [], "removed": []},
        {"log": False, "edges": [0.0, 0.5, 1.0], "kept": [0, 1], "removed": [0, 0]},
    ],
)
def test_no_chart_holds_what_is_no_number(
    open_page: Open, compressed: dict[str, Any], changes: dict[str, Any]
) -> None:
    report = compressed | {"histograms": [HISTOGRAM | changes], "curve": None}
    page = open_page(report, "#tab=charts")
    heights = page.locator("#charts rect").evaluate_all(
        "all => all.map(e => e.height.baseVal.value)"
    )
    assert all(math.isfinite(height) and height >= 0 for height in heights)
    markup = page.locator("#charts").inner_html()
    assert "NaN" not in markup
    assert "Infinity" not in markup


def test_there_is_no_tab_without_charts(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed | {"histograms": [], "curve": None, "errors": None}, "#tab=charts")
    assert not page.locator("#tab-charts").is_visible()
    assert page.locator("#groups").is_visible()


def test_reports_of_before_have_no_charts(open_page: Open, compressed: dict[str, Any]) -> None:
    old = {k: v for k, v in compressed.items() if k not in ("histograms", "curve", "errors")}
    assert not open_page(old).locator("#tab-charts").is_visible()


@pytest.mark.browser
def test_a_budget_of_time_is_a_figure_and_no_chip(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    time = {"dense_ms": 9.057, "slim_ms": 4.391, "share": 0.4889, "threads": 1, "attempts": []}
    settings = compressed["settings"] | {"budget": {"latency": 0.5}, "latency": time}
    page = open_page(compressed | {"settings": settings}, "")
    figures = page.locator("#tiles").inner_text()
    assert "9.06 → 4.39 ms" in figures
    assert "48.9 % of the time, 1 thread" in figures
    chips = page.locator("#facts").inner_text()
    assert "latency 0.5" in chips
    assert "9.057" not in chips
