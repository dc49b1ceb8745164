"""The pages of the documentation, as the tests read them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT, files

README = ROOT / "README.md"
MESSAGES = ROOT / "docs" / "messages.md"
PAGES = [README, *files(".md", under=ROOT / "docs")]

FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        page: The page.
        line: The line of the page its first line stands in.
        language: What the fence names.
        source: What is inside.
        follows: Whether nothing stands between this block and the one before.
    """

    page: Path
    line: int
    language: str
    source: str
    follows: bool


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found, end = [], 0
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        follows = bool(found) and not text[end : match.start()].strip()
        found.append(Block(page, line, match["language"], match["source"], follows))
        end = match.end()
    return found


def commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, words) of each command of a block; a backslash goes on in the next line."""
    line = block.line
    for command in re.split(r"(?<!\\)\n", block.source):
        if words := shlex.split(command.replace("\\\n", " "), comments=True):
            yield line, words
        line += command.count("\n") + 1
