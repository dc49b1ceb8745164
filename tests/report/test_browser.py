"""The page in a real browser: clicked, typed into, looked at."""

import math
from typing import Any

import pytest

from tests.report import sample
from tests.report.conftest import SAMPLES, Open

pytestmark = pytest.mark.browser

# Every two boxes that overlap, and every rail that runs through a box.
COLLISIONS = """() => {
  const { boxes, rails } = graph.plan, found = [];
  const inside = (b, x, y) => Math.abs(b.x - x) < b.w / 2 && Math.abs(b.y - y) < b.h / 2;
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
    if (Math.abs(a.x - b.x) < (a.w + b.w) / 2 && Math.abs(a.y - b.y) < (a.h + b.h) / 2)
      found.push([a.node.name, b.node.name]);
  }));
  for (const rail of rails)
    for (const b of boxes)
      if (Math.abs(b.x - rail.x) < b.w / 2 && b.y > rail.box.y && b.row < rail.end)
        found.push([rail.box.node.name, b.node.name]);
  return found;
}"""


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_opens_and_every_group_shows(open_page: Open, name: str) -> None:
    report = SAMPLES[name]
    page = open_page(report)
    assert page.locator("h1").text_content() == report["model"]["name"]
    assert page.locator("#groups tbody tr").count() == len(report["groups"])
    for row in range(min(len(report["groups"]), 30)):
        page.locator("#groups tbody tr").nth(row).click()
        title = page.locator("#panel h2 .code").text_content()
        # A browser's text has no lone surrogates.
        assert title == report["groups"][row]["name"].encode("utf-8", "replace").decode() or (
            "surrogate" in title
        )
    assert page.evaluate(COLLISIONS) == []


def test_opaque_parts_are_told(open_page: Open) -> None:
    net = sample.network()
    net.leaves = ["neck"]
    chip = open_page(net.report()).locator("#facts .chip", has_text="opaque neck")
    assert chip.get_attribute("title") == "neck resists"


def test_the_decisions_of_a_choice_unfold(open_page: Open, compressed: dict[str, Any]) -> None:
    decisions = [{"group": "stem", "rate": 0.5, "accepted": True}, {"group": "<b>", "rate": 0.25}]
    trace = {"strategy": "stepwise", "options": {"drop": 0.02}, "decisions": decisions}
    settings = {**compressed["settings"], "trace": trace}
    page = open_page({**compressed, "settings": settings})
    assert page.locator("#facts .chip", has_text="trace").count() == 0
    assert page.locator("#choice summary").text_content() == "chosen by stepwise: 2 decisions"
    assert not page.locator("#choice li").first.is_visible()
    page.locator("#choice summary").click()
    assert page.locator("#choice li").all_text_contents() == [
        "group stem, accepted true, rate 0.5",
        "group <b>, rate 0.25",
    ]
    assert page.locator("#choice li").first.is_visible()
    assert not open_page(compressed).locator("#choice").is_visible()


def test_a_click_in_the_graph_opens_the_group(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed)
    assert page.locator("#panel").is_hidden()
    page.locator(".node.box", has_text="layer1.0.conv2").click()
    panel = page.locator("#panel")
    assert panel.is_visible()
    text = panel.inner_text()
    for said in ("19 / 32", "layer1_0_add", "net.py:23", "layer1.1.conv2.weight", "dim 0 · out"):
        assert said in text
    assert panel.locator(".strip i").count() == 32
    assert panel.locator(".strip i.kept").count() == 19
    assert panel.locator(".histogram").count() == 1
    names = page.locator(".node.chosen .name").all_text_contents()
    assert names == ["layer1.0.conv2", "layer1.0.downsample", "layer1.1.conv2", "se.expand"]
    assert page.evaluate("location.hash") == "#group=layer1.0.conv2"
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert page.locator(".node.chosen").count() == 0


def test_a_channel_tells_its_score(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed, "#group=stem.conv")
    page.locator(".strip i").nth(3).hover()
    score = compressed["groups"][0]["scores"][3]
    assert page.locator("#tip").inner_text() == f"channel 3\nkept\nscore {score:#.4g}"


def test_frozen_channels_say_why(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed, "#group=classifier.fc")
    text = page.locator(".callout").inner_text()
    assert "All channels frozen" in text
    assert "reaches the model's output output net.py:280" in text
    assert page.locator(".strip i.frozen").count() == 10


def test_the_search_box_filters_groups_layers_and_nodes(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    page = open_page(compressed)
    page.keyboard.press("/")
    page.keyboard.type("mixed.branch2")
    found = page.locator("#groups tbody tr:visible .code").all_text_contents()
    read = "transition.conv"  # its channels are read by mixed.branch2.0.weight
    assert found == [read, "mixed.branch2.0", "mixed.branch2.1"]
    assert page.locator(".node.hit").count() == 2
    assert page.locator("#found").text_content() == "3 groups, 2 nodes"
    assert page.evaluate("location.hash") == "#q=mixed.branch2"
    page.keyboard.press("Escape")
    assert page.locator("#groups tbody tr:visible").count() == len(compressed["groups"])
    assert page.locator("#search").input_value() == ""
    page.keyboard.type("transition")
    page.keyboard.press("Enter")
    assert page.locator("#panel h2 .code").text_content() == "transition.conv"


def test_groups_sort_by_every_column(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed)
    column = {"size": 1, "kept": 2}
    for key, place in column.items():
        page.locator(f"[data-sort={key}]").click()
        cells = page.locator(f"#groups tbody tr td:nth-of-type({place + 1})").all_text_contents()
        expected = sorted((group[key] for group in compressed["groups"]), reverse=True)
        assert [int(cell) for cell in cells] == expected
    for key in ("params", "macs"):
        page.locator(f"[data-sort={key}]").click()
        most = max(compressed["groups"], key=lambda group: group[key]["after"])
        assert page.locator("#groups tbody tr .code").first.text_content() == most["name"]
    page.locator("[data-sort=name]").click()
    assert page.locator("#groups tbody tr .code").first.text_content() == "attention.heads"
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_bars_open_groups_and_show_widths(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed)
    page.locator("#tab-layers").click()
    assert page.locator("#layers li").count() == len(compressed["layers"])
    bar = page.locator("#layers button", has_text="layer1.0.downsample")
    assert "19 / 32" in bar.inner_text()
    bar.click()
    assert page.locator("#panel h2 .code").text_content() == "layer1.0.conv2"
    assert "tab=layers" in page.evaluate("location.hash")


def test_dark_and_light_change_places(open_page: Open, compressed: dict[str, Any]) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    for scheme in ("light", "dark"):
        page = open_page(compressed, color_scheme=scheme)
        before = page.evaluate(background)
        page.locator("#theme").click()
        after = page.evaluate(background)
        assert before != after
        page.reload()
        assert page.evaluate(background) == after
        assert (before, after)[scheme == "dark"] == "rgb(244, 245, 247)"


def test_quiet_nodes_are_folded_until_asked_for(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    page = open_page(compressed)
    quiet = [node for node in compressed["nodes"] if node["name"].endswith(("_bn", "_relu"))]
    assert page.locator(".node").count() == len(compressed["nodes"]) - len(quiet)
    page.locator("#all").check()
    assert page.locator(".node").count() == len(compressed["nodes"])
    assert page.evaluate(COLLISIONS) == []


def test_the_graph_zooms_pans_and_walks_by_keyboard(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    page = open_page(compressed)
    scale = page.evaluate("graph.view.k")
    page.locator("#canvas").focus()
    page.keyboard.press("+")
    assert page.evaluate("graph.view.k") == pytest.approx(1.25 * scale)
    top = page.evaluate("graph.view.y")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("graph.view.y") == top - 60
    page.keyboard.press("0")
    assert page.evaluate("graph.frame.h * graph.view.k <= graph.canvas.clientHeight + 1")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#panel h2 .code").text_content() == "stem.conv"
    scale = page.evaluate("graph.view.k")
    page.mouse.move(300, 500)
    page.mouse.wheel(0, -400)
    assert page.evaluate("graph.view.k") == pytest.approx(scale * math.exp(0.8))
    x = page.evaluate("graph.view.x")
    page.mouse.down()
    page.mouse.move(340, 520, steps=4)
    page.mouse.up()
    assert page.evaluate("graph.view.x") == pytest.approx(x + 40, abs=1)
    assert page.locator("#panel").is_visible()


def test_a_link_opens_its_group(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed, "#group=dense.layer1.conv2&tab=layers")
    assert page.locator("#panel h2 .code").text_content() == "dense.layer1.conv2"
    assert page.locator("#layers").is_visible()
    page.evaluate("location.hash = '#group=nonsense'")
    page.wait_for_selector("#panel", state="hidden")


def test_a_value_of_many_groups_lists_them(open_page: Open, compressed: dict[str, Any]) -> None:
    page = open_page(compressed)
    page.locator("[data-zoom=fit]").click()
    page.locator(".node.couple", has_text="mixed_cat").locator(".body").click()
    assert page.locator("#panel h2 .code").text_content() == "mixed_cat"
    assert page.locator("#panel li button").count() == 4
    page.locator("#panel li button").first.click()
    assert page.evaluate("location.hash").startswith("#group=mixed.branch")


def test_a_dense_network_is_laid_out_without_collisions(open_page: Open) -> None:
    report = sample.densenet().report()
    page = open_page(report, "#all=1")
    assert page.locator(".node").count() == len(report["nodes"]) > 700
    assert page.evaluate(COLLISIONS) == []


def test_a_phone_shows_everything_within_its_width(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    page = open_page(compressed, **phone)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#groups tbody tr").first.tap()
    box = page.locator("#panel").bounding_box()
    assert (box["x"], box["width"]) == (0, 360)
    page.locator("#panel [aria-label='Close details']").tap()
    assert page.locator("#panel").is_hidden()
