"""Every failure of other tools that docs/peers.md lists is a test that exists."""

import ast
import re

from tests.house.tree import ROOT, parse, python_files
from tests.models import EXAMPLES

PAGE = ROOT / "docs" / "peers.md"
NAME = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, str]]:
    """Return the cases and what covers each."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [(case, covered) for case, covered in cells if case not in ("case", "defect", "---")]


def test_every_net_and_test_of_the_page_exists() -> None:
    known = set(EXAMPLES)
    for path in python_files("tests"):
        known |= {n.name for n in ast.walk(parse(path)) if isinstance(n, ast.FunctionDef)}
    named = {name for _, covered in rows() for name in NAME.findall(covered)}
    assert len(named) > 80
    assert sorted(named - known) == []


def test_every_case_of_the_page_is_covered() -> None:
    assert len(rows()) > 50
    assert [case for case, covered in rows() if not covered.strip()] == []
