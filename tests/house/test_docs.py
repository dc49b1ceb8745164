"""The documentation is true: its code runs, its commands exist, its links lead somewhere."""

import contextlib
import io
import re
import sys
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from slimgraph import bench_command, cli
from slimgraph.train import command
from tests.house.pages import MESSAGES, PAGES, README, Block, blocks, commands
from tests.house.tree import ROOT, relative

# Blocks that are looked at; `text` behind `python` is what that code prints.
SHOWN = {"text", "json", "toml", "makefile"}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
COMMANDS = {
    "slimgraph-export": cli.export_main,
    "slimgraph-bench": bench_command.main,
    "slimgraph-report": cli.report_main,
    "slimgraph-train": command.main,
}


def run_command(words: list[str], cwd: Path = ROOT) -> tuple[int, str]:
    """Run one of our commands in this process; return its exit code and all it said."""
    said = io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", words)
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        patch.chdir(cwd)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                COMMANDS[words[0]]()
            except SystemExit as stop:
                code = stop.code
    return int(str(code or 0)), said.getvalue()


@cache
def help_text(command: str) -> str:
    """Return what a command says about itself."""
    code, said = run_command([command, "--help"])
    assert code == 0, said
    return said


def options(text: str) -> set[str]:
    """Return the long options a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def options_of(command: str) -> set[str]:
    """Return the long options a command has: those in the frame of its help."""
    framed = (line for line in help_text(command).splitlines() if line.startswith("│"))
    return options("\n".join(framed))


def complaint(words: list[str]) -> str | None:
    """Return what is wrong with a shell command that a page shows, or None."""
    program, arguments = words[0], words[1:]
    if program in COMMANDS:
        used = {word.split("=")[0] for word in arguments if word.startswith("--")}
        unknown = sorted(used - options_of(program))
        return f"unknown options {unknown}" if unknown else None
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
        absent = [word for word in arguments if "=" not in word and word not in targets]
        return f"no such target {absent}" if absent else None
    if program == "python" and arguments[:1] == ["-m"]:
        return None if find_spec(arguments[1]) else f"no module {arguments[1]}"
    return (
        None
        if program in {"pip", "git", "cd", "accelerate", "torchrun"}
        else f"who knows `{program}`?"
    )


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_block_names_a_language_this_test_knows(page: Path) -> None:
    known = SHOWN | {"python", "shell"}
    strange = [(b.line, b.language) for b in blocks(page) if b.language not in known]
    assert not strange
    fences = len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert fences == 2 * len(blocks(page)), "a fence is not closed"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    shown = [found for b in blocks(page) if b.language == "shell" for found in commands(b)]
    wrong = [f"{line}: {why}" for line, words in shown if (why := complaint(words))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if page != MESSAGES], ids=relative)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks share one namespace and one folder, and print what the page says."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": f"docs.{page.stem}"}
    printed = ""
    for block in blocks(page):
        if block.language == "python":
            printed = run_python(block, namespace)
        elif block.language == "shell":
            run_ours(block, tmp_path)
        elif block.language == "text" and block.follows:
            assert block.source == printed, f"{relative(page)}:{block.line}"


def run_python(block: Block, namespace: dict[str, object]) -> str:
    """Run a block and return what it prints; its lines count from 1, in `model.py`."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(block.source, "model.py", "exec"), namespace)  # noqa: S102
    except Exception as error:
        error.add_note(f"in the block at {relative(block.page)}:{block.line}")
        raise
    return printed.getvalue()


def run_ours(block: Block, cwd: Path) -> None:
    """Run those commands of a block that are ours."""
    for line, words in commands(block):
        if words[0] in COMMANDS:
            code, said = run_command(words, cwd)
            assert code == 0, f"{relative(block.page)}:{line}\n{said}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    lost = [target for target in targets if not leads_somewhere(page, target)]
    assert not lost


def leads_somewhere(page: Path, target: str) -> bool:
    """Return whether the file, and the heading behind `#`, exist."""
    name, _, heading = target.partition("#")
    path = page.parent / name if name else page
    if not heading:
        return path.exists()
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_readme_opens_with_exactly_two_commands() -> None:
    first = next(block for block in blocks(README) if block.language == "shell")
    assert [words for _, words in commands(first)] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_page_explains_every_option(command: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    completion = {"--install-completion", "--show-completion"}  # typer's own, for the shell
    assert options_of(command) - completion <= options(page)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_only_options_that_exist(command: str) -> None:
    assert options(help_text(command)) == options_of(command)


def test_a_wrong_command_is_seen() -> None:
    assert complaint(["make", "coffee"]) == "no such target ['coffee']"
    assert complaint(["python", "-m", "tools.nothing"]) == "no module tools.nothing"
    assert complaint(["slimgraph"]) == "who knows `slimgraph`?"
    assert complaint(["slimgraph-export", "m.pt", "--teleport"]) == "unknown options ['--teleport']"
