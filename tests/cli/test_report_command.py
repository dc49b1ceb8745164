import json
from pathlib import Path

import jsonschema
import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("here")

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text())


def test_the_groups_are_shown_as_text(report: Run) -> None:
    ran = report("model.slim")
    assert (ran.code, ran.err) == (0, "")
    assert "group" in ran.out
    assert "reaches the model's output" in ran.out


def test_json_follows_the_schema(report: Run) -> None:
    ran = report("model.slim", "--json")
    data = json.loads(ran.out)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert [group["name"] for group in data["groups"]] == ["0", "3", "7"]


@pytest.mark.parametrize("name", ["g.html", "g.json", "g.dot", "g.txt"])
def test_output_goes_to_a_file_and_not_to_stdout(here: Path, report: Run, name: str) -> None:
    ran = report("model.slim", "--report", name)
    assert (ran.code, ran.out) == (0, "")
    assert (here / name).stat().st_size > 100


def test_one_name_is_explained_by_what_keeps_it(report: Run) -> None:
    ran = report("model.slim", "--explain", "7")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "`7` cannot shrink",
        "  reaches the model's output at %output",
        "    to free it: nothing: outputs keep their sizes",
    ]


def test_one_channel_is_explained(report: Run) -> None:
    ran = report("model.slim", "--explain", "0", "--channel", "3")
    assert (ran.code, ran.out) == (0, "channel 3 of `0` can leave\n")


@pytest.mark.parametrize("names", [[], ["--explain", "0", "--explain", "3"]])
def test_a_channel_needs_one_name(report: Run, names: list[str]) -> None:
    ran = report("model.slim", "--channel", "3", *names)
    assert (ran.code, ran.out) == (2, "")


def test_two_names_are_explained_by_what_ties_them(report: Run) -> None:
    ran = report("model.slim", "--explain", "0", "--explain", "3")
    assert (ran.code, ran.out) == (0, "`0` and `3` are independent\n")


def test_an_unknown_name_is_an_error(report: Run) -> None:
    ran = report("model.slim", "--explain", "nosuch")
    assert ran.code == 1
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize("target", ["g.pdf", "absent/g.txt"])
def test_an_impossible_output_is_refused(report: Run, target: str) -> None:
    ran = report("model.slim", "--output", target)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")


def test_the_model_is_never_the_output(here: Path, report: Run) -> None:
    (here / "model.slim").rename(here / "model.txt")
    before = (here / "model.txt").read_bytes()
    assert report("model.txt", "--output", "model.txt").code == 2
    assert (here / "model.txt").read_bytes() == before


def test_scores_are_shown_for_every_criterion_that_is_named(here: Path, report: Run) -> None:
    ran = report("model.slim", "--criterion", "l2", "--criterion", "random", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)["histograms"]
    assert [each["criterion"] for each in found] == ["l2", "random"]
    bad = report("model.slim", "--criterion", "l7", "--report", "out.html")
    assert bad.code == 1
    assert "hint:" in bad.err
    assert not (here / "out.html").exists()
