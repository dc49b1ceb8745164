import re
import shutil
import subprocess
from typing import Any

import pytest

from slimgraph.report import render
from tests.report import sample

TOKEN = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|->|[\w.]+|[{}\[\]=;,]')


def tokens(text: str) -> list[str]:
    """Split DOT text; fails on anything that is no token of the language."""
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        assert match, f"no token at {text[at : at + 40]!r}"
        found.append(match.group())
        at = match.end()
    return [token for token in found if not token.isspace()]


def nodes_and_edges(found: list[str]) -> tuple[set[str], list[tuple[str, str]]]:
    boxes = {
        word
        for before, word, after in zip(found, found[1:], found[2:], strict=False)
        if re.fullmatch(r"n\d+", word) and before != "->" and after == "["
    }
    arrows = [i for i, word in enumerate(found) if word == "->"]
    return boxes, [(found[i - 1], found[i + 1]) for i in arrows]


def test_dot_is_well_formed_and_complete(report: dict[str, Any]) -> None:
    found = tokens(render(report, "dot"))
    for left, right in ("{}", "[]"):
        assert found.count(left) == found.count(right) > 0
    boxes, edges = nodes_and_edges(found)
    assert len(boxes) == len(report["nodes"])
    assert {end for edge in edges for end in edge} <= boxes
    flow = sum(len(set(node["inputs"])) for node in report["nodes"])
    assert len(edges) - found.count("dashed") == flow


def test_labels_are_escaped_as_graphviz_reads_them() -> None:
    dot = render(sample.hostile(), "dot")
    assert r'label="quote\"back\\slash' in dot
    assert 'label="&amp;lt;entity&amp;amp;' in dot
    assert r'label="new\\nline\\ttab' in dot


def test_couplings_are_dashed_and_name_the_node_that_ties() -> None:
    dot = render(sample.network(blocks=1).report(), "dot")
    lines = [line for line in dot.splitlines() if "dashed" in line]
    assert [re.search(r'label="(\w+)', line)[1] for line in lines] == ["layer1_0_add", "se_mul"]  # type: ignore[index]
    assert all("constraint=false" in line for line in lines)


def test_a_node_that_ties_several_groups_is_drawn_once() -> None:
    report = sample.network(blocks=1).report()
    groups = [group for group in report["groups"] if group["couplings"]]
    report["groups"][0]["couplings"] = groups[0]["couplings"]
    assert render(report, "dot").count("dashed") == 2


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_draws_every_sample(report: dict[str, Any]) -> None:
    drawn = subprocess.run(
        ["dot", "-Tplain"],  # noqa: S607, whichever graphviz is installed
        input=render(report, "dot"), capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    assert drawn.stderr == ""
    assert drawn.stdout.count("\nnode ") == len(report["nodes"])


def test_a_network_with_very_many_skips_tells_graphviz_to_hurry() -> None:
    dot = render(sample.densenet().report(), "dot")
    assert "nslimit" in dot
    assert "subgraph" not in dot
    assert "nslimit" not in render(sample.network().report(), "dot")
