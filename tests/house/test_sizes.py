"""Budgets: small files, small functions, documented names, frozen dataclasses."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import (
    PROGRAMS,
    Function,
    is_dataclass_decorator,
    parse,
    python_files,
    relative,
)

FILE_LINES = 400
FUNCTION_LINES = 50  # without the docstring: to explain every argument must cost nothing
# Functions that may be longer, and why.
LONG = {("slimgraph/cli.py", "export"): "every option of the command is a parameter with its help"}

EVERYTHING = python_files(*PROGRAMS, "tests")
DOCUMENTED = python_files(*PROGRAMS)


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def length(node: Function) -> int:
    """Return the lines of a function, its docstring left out."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0)


def long_functions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, name) of each function above the budget."""
    for node in functions(parse(path)):
        if length(node) > FUNCTION_LINES:
            yield relative(path), node.name


def public(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Yield the public functions, classes and methods a reader can reach."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def needs_docstring(node: Function | ast.ClassDef) -> bool:
    """Return whether the name stands for itself: no overload, setter or override."""
    decorators = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
    return not decorators & {"overload", "setter", "override"}


def thawed(node: ast.ClassDef) -> bool:
    """Return whether the class is a dataclass that may change and does not say why."""
    for decorator in filter(is_dataclass_decorator, node.decorator_list):
        keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
        frozen = any(k.arg == "frozen" and ast.unparse(k.value) == "True" for k in keywords)
        return not frozen and "mutable" not in (ast.get_docstring(node) or "").lower()
    return False


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{relative(path)} has {lines} lines: is there a concept to split?"
    long = [found for found in long_functions(path) if found not in LONG]
    assert not long, f"more than {FUNCTION_LINES} lines: {long}"


def test_every_long_function_still_is() -> None:
    found = {found for path in EVERYTHING for found in long_functions(path)}
    assert set(LONG) <= found


@pytest.mark.parametrize("path", DOCUMENTED, ids=relative)
def test_every_public_name_is_documented(path: Path) -> None:
    tree = parse(path)
    missing = [
        f"{relative(path)}:{node.lineno} `{node.name}`"
        for node in public(tree.body)
        if needs_docstring(node) and not ast.get_docstring(node)
    ]
    assert ast.get_docstring(tree), f"{relative(path)} does not say what it is for"
    assert not missing, "no docstring: " + ", ".join(missing)


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_dataclasses_are_frozen_or_say_why_they_are_mutable(path: Path) -> None:
    bad = [node.name for node in classes(parse(path)) if thawed(node)]
    assert not bad, f"{relative(path)}: {bad} (say `mutable because ...` in the docstring)"


def test_the_budgets_catch_what_they_are_for() -> None:
    source = "@dataclass(slots=True)\nclass A:\n    def b(self): ...\n    def _c(self): ...\n"
    tree = ast.parse(source)
    assert [node.name for node in classes(tree) if thawed(node)] == ["A"]
    assert [node.name for node in public(tree.body)] == ["A", "b"]
    frozen = ast.parse("@dataclasses.dataclass(frozen=True)\nclass A: ...")
    explained = ast.parse('@dataclass\nclass A:\n    """Mutable because rules write it."""')
    assert not [node.name for tree in (frozen, explained) for node in classes(tree) if thawed(node)]
