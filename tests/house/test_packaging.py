"""The wheel holds all of slimgraph and works far away from the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.house.tree import LIBRARY, ROOT, files, is_ours, module_name, python_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = sorted(PROJECT["project"]["scripts"])
SHOW = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end and return what it printed; fail with all it said."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def wheel_paths() -> set[str]:
    """Return where every file of the library belongs in the wheel."""
    found = set()
    for path in (path for folder in LIBRARY for path in files(under=ROOT / folder)):
        inside = path.relative_to(ROOT).as_posix()
        found.add(f"slimgraph/{inside}" if inside.startswith("passes/") else inside)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the sdist of a copy: a stale build folder cannot help it along."""
    copy = tmp_path_factory.mktemp("copy") / "slimgraph"

    def ignored(folder: str, names: list[str]) -> list[str]:
        links = {"passes"}  # the tracked link slimgraph/passes goes along
        return [n for n in names if n not in links and not is_ours(Path(folder, n))]

    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "out", cwd=copy)
    (built,) = (copy / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def test_the_package_list_equals_the_tree() -> None:
    there = {module_name(p) for p in python_files(*LIBRARY) if p.name == "__init__.py"}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(there)


def test_every_folder_of_the_library_is_a_package() -> None:
    folders = {path.parent for path in python_files(*LIBRARY)}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_passes_is_linked_into_the_package() -> None:
    link = ROOT / "slimgraph" / "passes"
    assert link.is_symlink()
    assert link.readlink() == Path("../passes")


@pytest.mark.slow
def test_the_wheel_is_complete(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == wheel_paths()
    assert "slimgraph/py.typed" in names


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    modules = [module_name(path) for path in python_files(*LIBRARY)]
    places = run(sys.executable, "-c", SHOW, *modules, cwd=tmp_path, PYTHONPATH=str(installed))
    outside = [place for place in places.split() if not Path(place).is_relative_to(installed)]
    assert len(places.split()) == len(modules)
    assert not outside


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_console_scripts_answer_from_another_folder(
    installed: Path, tmp_path: Path, script: str
) -> None:
    program = installed / "bin" / script
    help_text = run(program, "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert script in help_text
