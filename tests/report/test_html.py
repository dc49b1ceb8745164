import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

from slimgraph.report import html_summary, render
from slimgraph.report.json import standard
from tests.report import sample


class Page(HTMLParser):
    """What a browser would find: tags, and the text of scripts, styles and the title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def policy(self) -> str:
        metas = self.all("meta")
        found = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
        assert len(found) == 1
        return found[0] or ""


def text_between(page: str, start: str, end: str) -> str:
    return page.partition(start)[2].partition(end)[0]


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_page_asks_nothing_of_the_network(report: dict[str, Any]) -> None:
    page = render(report, "html").replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in page
    assert "https://" not in page
    parsed = Page(page)
    assert not any({"src", "href"} & attributes.keys() for _, attributes in parsed.tags)
    assert "@import" not in page
    assert "url(" not in page


def test_only_the_page_s_own_script_and_style_may_run(report: dict[str, Any]) -> None:
    page = render(report, "html")
    policy = Page(page).policy()
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert digest(text_between(page, "<script>", "</script>")) in policy
    assert digest(text_between(page, "<style>", "</style>")) in policy
    assert not any(key.startswith("on") or key == "style" for _, a in Page(page).tags for key in a)


def test_the_page_holds_the_report(report: dict[str, Any]) -> None:
    page = render(report, "html")
    data = json.loads(text_between(page, 'type="application/json" id="data">', "</script>"))
    for group in data["report"]["groups"]:
        scores = report["groups"][group["id"]]["scores"]
        assert group["scores"] == (scores and [float(f"{score:.5g}") for score in scores])
        group["scores"] = scores
    assert data["report"] == standard(report)


def test_hostile_names_never_appear_unescaped() -> None:
    page = render(sample.hostile(), "html")
    parsed = Page(page)
    assert len(parsed.all("script")) == page.count("</script>") == 2
    assert not parsed.all("img")
    for forbidden in ("</script><script>", "<img", "\u2028", "\u202e", "\x1b"):
        assert forbidden not in page
    titles = [text for tag, text in parsed.texts if tag == "title"]
    assert titles[0] == "</script><script>alert(1)</script> · slimgraph"


def test_the_script_puts_names_into_the_page_as_text_only(compressed: dict[str, Any]) -> None:
    script = text_between(render(compressed, "html"), "<script>", "</script>")
    dangers = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\("
    assert re.findall(dangers, script) == []


def test_a_title_cannot_fill_the_template() -> None:
    report = sample.chain(1).report()
    report["model"]["name"] = "$script ${data} $$"
    titles = [text for tag, text in Page(render(report, "html")).texts if tag == "title"]
    assert titles[0] == "$script ${data} $$ · slimgraph"


def test_the_summary_is_a_small_fragment_without_script(report: dict[str, Any]) -> None:
    fragment = html_summary(report)
    parsed = Page(fragment)
    assert {tag for tag, _ in parsed.tags} <= {"div", "b", "span", "table", "tr", "th", "td"}
    assert len(fragment) < 16_000
    assert fragment.count("<tr>") <= 14
    opened = [tag for tag, _ in parsed.tags]
    assert all(opened.count(tag) == fragment.count(f"</{tag}>") for tag in set(opened))


def test_the_summary_says_how_many_groups_it_leaves_out() -> None:
    assert "and 288 more" in html_summary(sample.chain(300).report())
