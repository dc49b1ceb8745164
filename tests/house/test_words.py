"""No file names a folder of somebody's machine, and none leaves work for later."""

import re
from pathlib import Path

import pytest

from tests.house.tree import files, relative

TEXT = {".py", ".md", ".toml", ".txt", ".json", ".svg", ".css", ".js", ".html", ".yml", ".yaml", ""}
MACHINE_PATH = re.compile(r"(?<![\w./:}])/(?:home|root|tmp|work|opt|mnt|srv|var|Users)/\w")
UNFINISHED = re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b")

FILES = [path for path in files() if path.suffix in TEXT]


def hits(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return the lines that match, with their numbers."""
    lines = enumerate(text.splitlines(), start=1)
    return [f"{number}: {line.strip()[:120]}" for number, line in lines if pattern.search(line)]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_machine_paths_and_no_unfinished_work(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not hits(MACHINE_PATH, text), f"{relative(path)} names a folder of a machine"
    assert not hits(UNFINISHED, text), f"{relative(path)} leaves work for later"


def test_the_patterns_find_what_they_are_for() -> None:
    slash = "/"
    assert hits(MACHINE_PATH, f"open('{slash}home/ann/model.pt')")
    assert hits(UNFINISHED, "# TO" + "DO: later")
    assert not hits(MACHINE_PATH, "docs/work/x, ../tmp/y and https://example.org/opt/z")
