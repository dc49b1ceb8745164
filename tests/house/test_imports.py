"""Arrows go down only: a module imports what stands above it in `LEVELS`, never what stands below.

A new module or package of slimgraph gets its place in the table, and that is all.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

from tests.house.tree import LIBRARY, Function, module_name, parse, python_files, relative

# From the ground up; names in one row may import each other as long as no circle comes of it.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("collecting", "errors", "remedies"),
    ("arguments", "known_shapes", "modes", "op_names", "sources", "structures"),
    ("attention", "labels", "display", "files", "opaque", "parity", "runtime", "shapes", "slicing"),
    ("intervals", "selection"),
    ("rules", "filetype", "cloning", "optimizers"),
    ("container", "functions", "pass_manager", "patches", "proxied", "proxies", "two_modes"),
    ("recording", "hosted", "ladder", "shuffles", "tracing"),
    ("ops",),
    ("groups", "graph", "explanations", "naming", "analysis"),
    ("slices",),
    ("calibrate",),
    (
        "cost",
        "importance",
        "kept",
        "mask",
        "calls",
        "plan",
        "constants",
        "constant_rules",
        "connections",
        "constancy",
        "contractions",
        "positions",
        "shifts",
    ),
    ("report", "select", "effects", "zeroing"),
    ("dead", "keeping"),
    ("passes", "serialize"),
    ("compress", "loading", "onnx_export"),
    ("latency",),
    ("choosing",),
    ("selecting", "slimming", "trials", "curves", "compensate", "regularize"),
    ("export_command",),
    ("cli",),
    ("bench_command",),
    ("train",),
)
# Upward arrows that are meant, each inside a function, so that nothing is imported in a circle.
LATE: dict[tuple[str, str], str] = {
    ("graph", "report"): "a graph shows itself: `to_dict`, `render`, `__rich__`, `_repr_html_`",
    ("plan", "serialize"): "a plan holds example inputs, which files hold as those of models",
}
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}

FILES = [path for path in python_files(*LIBRARY) if module_name(path) != "slimgraph"]


def imported(node: ast.AST, *, late: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, module, inside a function) of every import of slimgraph."""
    for child in ast.iter_child_nodes(node):
        inside = late or isinstance(child, Function)
        yield from imported(child, late=inside)
        names = []
        if isinstance(child, ast.ImportFrom) and child.module:
            names = [f"{child.module}.{alias.name}" for alias in child.names]
        elif isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        yield from ((child.lineno, n, late) for n in names if n.split(".")[0] == "slimgraph")


def package(module: str) -> str:
    """Return the name a module has in `LEVELS`: `slimgraph.ops.linear` -> `ops`."""
    return module.removeprefix("slimgraph").removeprefix(".").split(".")[0]


def asked_of_root(tree: ast.Module) -> set[str]:
    """Return the attributes a file reads of `slimgraph` itself."""
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {a.attr for a in attributes if ast.unparse(a.value) == "slimgraph"}


def upward(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield a line for every import that points up and is not meant to."""
    own = package(module_name(path))
    for line, name, late in imported(tree):
        other = package(name)
        if not other and asked_of_root(tree) <= {"__version__"}:
            continue
        if other not in LEVEL_OF:
            yield f"{relative(path)}:{line} imports `{name}`, which has no place in LEVELS"
        elif LEVEL_OF[other] > LEVEL_OF[own] and not (late and (own, other) in LATE):
            yield f"{relative(path)}:{line} `{own}` imports `{other}`, which stands on top of it"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_arrows_go_down(path: Path) -> None:
    own = package(module_name(path))
    assert own in LEVEL_OF, f"give `{own}` its place in LEVELS"
    wrong = list(upward(path, parse(path)))
    assert not wrong, "\n".join(wrong)


def test_no_import_circles() -> None:
    modules = {module_name(path): path for path in FILES}
    arrows = nx.DiGraph()
    for module, path in modules.items():
        for _, name, late in imported(parse(path)):
            if late:
                continue
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module:
                arrows.add_edge(module, target)
    circles = list(nx.simple_cycles(arrows))
    assert not circles, circles


def test_every_level_exists() -> None:
    there = {package(module_name(path)) for path in FILES}
    assert set(LEVEL_OF) == there


def test_every_late_arrow_is_still_needed() -> None:
    found = {
        (package(module_name(path)), package(name))
        for path in FILES
        for _, name, late in imported(parse(path))
        if late
    }
    assert set(LATE) <= found


def test_an_upward_arrow_is_seen() -> None:
    path = next(path for path in FILES if module_name(path) == "slimgraph.errors")
    tree = ast.parse("def f():\n    from slimgraph.ops.linear import RULES")
    (message,) = upward(path, tree)
    assert message.endswith("errors.py:2 `errors` imports `ops`, which stands on top of it")
