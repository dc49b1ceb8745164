"""Every error has a section in docs/messages.md, and says what is written there, word for word."""

import itertools
import re
from pathlib import Path

import pytest

from slimgraph import errors
from tests.house.pages import MESSAGES, Block, blocks

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.SlimgraphError)
}
SETUP, *REST = [block for block in blocks(MESSAGES) if block.language == "python"]


def sections() -> list[tuple[int, str]]:
    """Return the line and the class name of each section."""
    lines = MESSAGES.read_text(encoding="utf-8").splitlines()
    found = ((n, re.fullmatch(r"#+ `(\w+)`", line)) for n, line in enumerate(lines, start=1))
    return [(number, match[1]) for number, match in found if match]


def section_of(block: Block) -> str:
    """Return the class name in whose section a block stands."""
    return next(name for line, name in reversed(sections()) if line < block.line)


EXAMPLES = [
    pytest.param(section_of(code), code, shown, id=section_of(code))
    for code, shown in itertools.pairwise(blocks(MESSAGES))
    if code in REST and shown.follows and shown.language == "text"
]


def test_there_is_one_section_per_error() -> None:
    assert [name for _, name in sections()] == list(CLASSES)


def test_every_error_that_can_be_raised_has_an_example() -> None:
    narrow = {name for name, kind in CLASSES.items() if not kind.__subclasses__()}
    assert narrow <= {section_of(block) for block in REST}
    assert len(EXAMPLES) == len(REST), "an example does not say what it raises"


@pytest.mark.parametrize(("name", "code", "shown"), EXAMPLES)
def test_the_error_says_what_the_page_says(
    name: str, code: Block, shown: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs.messages"}
    exec(compile(SETUP.source, "net.py", "exec"), namespace)  # noqa: S102
    with pytest.raises(CLASSES[name]) as caught:
        exec(compile(code.source, "example.py", "exec"), namespace)  # noqa: S102
    assert caught.type is CLASSES[name]
    assert f"{caught.value}\n" == shown.source
