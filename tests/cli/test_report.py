"""`slimgraph-report`: the groups of a model, without changing it."""

from pathlib import Path

import pytest

import slimgraph as sg
from tests.cli.command import assert_refused, contents, run, traced


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sg.save(traced(), tmp_path / "model.slim")
    return tmp_path


def test_text_goes_to_stdout(folder: Path) -> None:
    before = contents(folder)
    ran = run(folder, "slimgraph-report", "model.slim")
    assert (ran.code, ran.stderr) == (0, "")
    assert "stem.0" in ran.stdout
    assert "wide.0" in ran.stdout
    assert contents(folder) == before


def test_explain_answers_in_words(folder: Path) -> None:
    words = ("slimgraph-report", "model.slim", "--explain", "stem.0")
    two = run(folder, *words, "--explain", "block")
    assert "`stem.0` and `block` leave together" in two.stdout
    assert "command.py:" in two.stdout
    one = run(folder, "slimgraph-report", "model.slim", "--explain", "head")
    assert "reaches the model's output" in one.stdout
    three = run(folder, *words, "--explain", "block", "--explain", "head")
    assert three.code == 2


def test_an_unknown_name_is_an_error_with_the_nearest(folder: Path) -> None:
    said = assert_refused(
        folder, "slimgraph-report", "model.slim", "--explain", "stm.0", says="no group or module"
    )
    assert "did you mean `stem.0`?" in said


@pytest.mark.parametrize("target", ["page.pdf", "none/page.html", "model.slim/page.html"])
def test_a_target_that_cannot_be_is_an_error(folder: Path, target: str) -> None:
    assert_refused(folder, "slimgraph-report", "model.slim", "-o", target, says=target)
