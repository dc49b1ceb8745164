"""The files of the project, as the house tests see them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ("slimgraph", "passes")
PROGRAMS = (*LIBRARY, "tools")
# What tools and builds leave behind; `demo` only at the top, `tools/demo` is ours.
LEFT_BEHIND = {
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "build",
    "demo",
    "dist",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_ours(path: Path) -> bool:
    """Return whether the file or folder belongs to the project."""
    nested_demo = path.name == "demo" and path.parent != ROOT
    generated = path.name in LEFT_BEHIND and not nested_demo
    return not (generated or path.is_symlink() or path.name.endswith(".egg-info"))


def files(*suffixes: str, under: Path = ROOT) -> Iterator[Path]:
    """Yield the project's own files, each once: links are not followed.

    Args:
        *suffixes: Such as `.py`; none at all means every file.
        under: The folder to start from.
    """
    for path in sorted(under.iterdir()):
        if not is_ours(path):
            continue
        if path.is_dir():
            yield from files(*suffixes, under=path)
        elif not suffixes or path.suffix in suffixes:
            yield path


def python_files(*folders: str) -> list[Path]:
    """Return the Python files of these top-level folders."""
    return [path for folder in folders for path in files(".py", under=ROOT / folder)]


def relative(path: Path) -> str:
    """Return the path as messages show it."""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Return the name a file of the library is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "passes":
        parts = ("slimgraph", *parts)
    return ".".join(parts).removesuffix(".__init__")


def parse(path: Path) -> ast.Module:
    """Return the file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_dataclass_decorator(decorator: ast.expr) -> bool:
    """Return whether the decorator is `dataclass` or `dataclass(...)`, by any import."""
    return _last_name(decorator) == "dataclass"


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
