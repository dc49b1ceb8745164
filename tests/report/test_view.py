"""The graph stays with what is selected when the room for it changes."""

from typing import Any

import pytest

from tests.report import sample
from tests.report.conftest import Open

pytestmark = pytest.mark.browser

STILL = {"reduced_motion": "reduce"}
# Moves the graph so that a module's box is where the panel will open; returns its middle.
TO_THE_EDGE = """module => {
  const box = graph.plan.boxes.find(({ node }) => node.module === module);
  const { x, y, k } = graph.view, room = graph.canvas.getBoundingClientRect();
  graph.pan(room.width - 8 - (box.x + box.w / 2) * k - x, room.height * 0.6 - box.y * k - y);
  const { left, top, width, height } = box.element.getBoundingClientRect();
  return [left + width / 2, top + height / 2];
}"""
# The names of the selected boxes that are wholly in the canvas and not under the panel.
IN_VIEW = """() => {
  const room = graph.canvas.getBoundingClientRect();
  const panel = document.getElementById("panel").getBoundingClientRect();
  const inside = b => b.left >= room.left && b.right <= room.right && b.top >= room.top &&
    b.bottom <= room.bottom && (b.right <= panel.left || b.bottom <= panel.top);
  return [...document.querySelectorAll(".node.chosen")].filter(node =>
    inside(node.querySelector(".body").getBoundingClientRect())).map(node => node.box.node.module);
}"""
TIED = ["layer1.0.conv2", "layer1.0.downsample", "layer1.1.conv2", "se.expand"]


def click_at_the_edge(page: Any, module: str) -> None:
    page.mouse.click(*page.evaluate(TO_THE_EDGE, module))
    assert page.locator("#panel").is_visible()


def resize(page: Any, width: int, height: int) -> None:
    """Resize the window and wait until the page has drawn itself anew."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")


@pytest.mark.parametrize("width", [1500, 1100])  # the panel narrows the graph, or the lists go
def test_a_group_clicked_at_the_edge_comes_into_view(
    open_page: Open, compressed: dict[str, Any], width: int
) -> None:
    page = open_page(compressed, viewport={"width": width, "height": 800}, **STILL)
    click_at_the_edge(page, "layer1.0.downsample")
    assert page.evaluate(IN_VIEW) == TIED


def test_a_group_too_tall_to_show_keeps_the_clicked_box_in_view(open_page: Open) -> None:
    page = open_page(sample.network(blocks=30).report(), **STILL)
    click_at_the_edge(page, "layer1.20.conv2")
    seen = page.evaluate(IN_VIEW)
    assert "layer1.20.conv2" in seen
    assert 3 < len(seen) < 30
    assert page.evaluate("graph.view.k") >= 0.45  # names can be read


def test_a_smaller_window_keeps_in_view_what_was_in_view(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    page = open_page(compressed, viewport={"width": 1500, "height": 900}, **STILL)
    click_at_the_edge(page, "layer1.0.downsample")
    resize(page, 1000, 600)
    assert page.evaluate(IN_VIEW) == TIED
    page.evaluate("graph.pan(-2000, 0)")  # the reader looks elsewhere
    view = page.evaluate("graph.view")
    resize(page, 900, 500)
    assert page.evaluate("graph.view") == view


@pytest.mark.parametrize(("motion", "glides"), [("no-preference", 1), ("reduce", 0)])
def test_the_graph_glides_unless_the_reader_wants_no_motion(
    open_page: Open, compressed: dict[str, Any], motion: str, glides: int
) -> None:
    page = open_page(compressed, reduced_motion=motion)
    moving = "go({ group: 'mixed.branch3.2' }), graph.scene.getAnimations().length"
    assert page.evaluate(moving) == glides
    page.evaluate("Promise.all(graph.scene.getAnimations().map(each => each.finished))")
    assert page.evaluate(IN_VIEW) == ["mixed.branch3.2"]
    stopped = "go({ group: 'stem.conv' }), graph.pan(9, 9), graph.scene.getAnimations().length"
    assert page.evaluate(stopped) == 0  # the reader's own move ends it


def test_on_a_phone_a_tapped_group_stays_above_the_panel(
    open_page: Open, compressed: dict[str, Any]
) -> None:
    phone = {"viewport": {"width": 390, "height": 780}, "has_touch": True, **STILL}
    page = open_page(compressed, **phone)
    page.locator("#graph").evaluate("graph => graph.scrollIntoView()")
    page.locator(".node.box", has_text="layer1.0.conv1").locator(".body").tap()
    assert page.evaluate(IN_VIEW) == ["layer1.0.conv1"]
