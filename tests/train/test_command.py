"""`slimgraph-train` as a user calls it."""

import csv
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import slimgraph as sg
from slimgraph.train import Recipe
from slimgraph.train.command import command, main
from tests.train.tiny import network

FAST = ("--sparse-epochs", "1", "--tune-epochs", "0", "--repair", "none")


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder with `model.slim` and `weights.pt`."""
    monkeypatch.chdir(tmp_path)
    sg.save(sg.trace(network(), torch.zeros(1, 1, 8, 8)), "model.slim")
    torch.save(network().state_dict(), "weights.pt")

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["slimgraph-train", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return Ran(caught.value.code, *capsys.readouterr())

    return run


def test_a_file_goes_in_and_a_smaller_model_comes_out(go: Run) -> None:
    ran = go("model.slim", "--out", "run", "--macs", "0.5", *FAST)
    assert ran.code == 0, ran.err
    assert ran.out == ""
    said = ran.err.splitlines()
    assert [line.split(",")[1] for line in said] == [" sparse 1", " compress"]
    rows = list(csv.DictReader(Path("run/log.csv").read_text().splitlines()))
    assert int(rows[-1]["macs"]) <= 0.5 * int(rows[0]["macs"])
    again = go("model.slim", "--out", "run", "--macs", "0.5", *FAST)
    assert (again.code, again.err) == (0, "")  # nothing was left to do
    other = go("model.slim", "--out", "run", "--macs", "0.4", *FAST)
    assert other.code == 1
    assert "differs in recipe.macs" in other.err


def test_models_come_from_factories_and_weights_too(go: Run) -> None:
    options = ("--channels", "12", "--keep", "0", *FAST)
    scratch = go("tests.train.tiny:network", "--out", "one", *options)
    assert scratch.code == 0, scratch.err
    weights = go("weights.pt", "--arch", "tests.train.tiny:network", "--out", "two", *options)
    assert weights.code == 0, weights.err
    kept = sg.load("one/model.slim").get_submodule("0")
    assert kept.out_channels == 8
    assert Path("one/log.csv").read_text() == Path("two/log.csv").read_text()


def test_quiet_says_nothing(go: Run) -> None:
    ran = go("model.slim", "--out", "run", "--macs", "0.5", "--quiet", *FAST)
    assert ran == (0, "", "")


REFUSED = {
    "budget": (("--macs", "2.5"), "out of range"),
    "data": (("--macs", "0.5", "--data", "mnist3d"), "unknown data set `mnist3d`"),
    "root": (("--macs", "0.5", "--data", "cifar10"), "give it as `root`"),
    "shape": (
        ("--macs", "0.5", "--data", "fashion-mnist", "--root", "nowhere"), "apt-get install",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_errors_that_say_what_to_do(go: Run, name: str) -> None:
    options, says = REFUSED[name]
    ran = go("model.slim", "--out", "run", *options)
    assert ran.code == 1
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "words", [("--macs", "half"), ("--strategy", "luck"), ("--passes", "two")], ids=str
)
def test_wrong_usage_is_exit_code_two(go: Run, words: tuple[str, ...]) -> None:
    assert go("model.slim", "--out", "run", *words).code == 2


def test_every_field_of_a_recipe_is_an_option(go: Run) -> None:
    names = set(command().__annotations__)
    assert {field.name for field in fields(Recipe)} <= names
    ran = go("--help")
    assert ran.code == 0
    shown = ran.out.replace("\n", " ")
    assert all(f"--{field.name.replace('_', '-')}" in shown for field in fields(Recipe))
