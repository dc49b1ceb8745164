import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def reports(here: Path, export: Run) -> tuple[Path, Path]:
    """Two reports of one model, with half and with most of the work left."""
    for name, left in (("half", "0.5"), ("more", "0.8")):
        ran = export("model.slim", "--onnx", f"{name}.onnx", "--macs", left,
                     "--report", f"{name}.json")  # fmt: skip
        assert ran.code == 0, ran.err
    return here / "half.json", here / "more.json"


def test_totals_settings_and_groups_of_two_reports_are_compared(
    reports: tuple[Path, Path], report: Run
) -> None:
    ran = report("--compare", "half.json", "more.json", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    one, other = (json.loads(path.read_text()) for path in reports)
    for unit, pair in found["totals"].items():
        assert pair == [one["totals"]["after"][unit], other["totals"]["after"][unit]]
    assert found["totals"]["macs"][0] < found["totals"]["macs"][1]
    assert found["settings"]["budget"] == [{"macs": 0.5}, {"macs": 0.8}]
    for first, second in zip(one["groups"], other["groups"], strict=True):
        assert found["groups"][first["name"]] == [first["kept"], second["kept"], first["size"]]
    differences = [abs(first - second) for first, second, _ in found["groups"].values()]
    assert differences == sorted(differences, reverse=True)


def test_the_comparison_is_shown_as_tables(reports: tuple[Path, Path], report: Run) -> None:
    ran = report("--compare", *(path.name for path in reports))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("half.json") >= 2
    assert "second / first" in ran.out
    assert "common groups keep equally many" in ran.out


def test_a_report_compared_with_itself_differs_in_nothing(
    reports: tuple[Path, Path], report: Run
) -> None:
    ran = report("--compare", "half.json", "half.json")
    count = len(json.loads(reports[0].read_text())["groups"])
    assert f"{count} of {count} common groups keep equally many" in ran.out
    assert "setting" not in ran.out


def test_another_model_is_named_and_common_totals_are_compared(
    here: Path, reports: tuple[Path, Path], report: Run
) -> None:
    data = json.loads(reports[1].read_text())
    data["model"]["name"] = "Other[bold]\x1b"
    for group in data["groups"]:
        group["name"] = f"other.{group['name']}"
    (here / "other.json").write_text(json.dumps(data))
    ran = report("--compare", "half.json", "other.json")
    assert ran.code == 0
    assert "Other[bold]\\x1b" in ran.out
    assert "\x1b" not in ran.out
    assert ran.out.count("another model") == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read `bad.json`"),
        ("{", "is no JSON"),
        ("[]", "is no report of schema"),
        ('{"schema": "slimgraph.report/0"}', "is no report of schema"),
        ('{"schema": "slimgraph.report/1", "totals": {}}', "is a damaged report"),
    ],
)
def test_what_is_no_report_is_refused(
    here: Path, reports: tuple[Path, Path], report: Run, content: str | None, said: str
) -> None:
    if content is not None:
        (here / "bad.json").write_text(content)
    ran = report("--compare", reports[0].name, "bad.json")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert "hint: write one with" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["--compare", "half.json"],
        ["model.slim", "--compare", "half.json", "more.json"],
        ["--compare", "half.json", "more.json", "--report", "out.html"],
        ["--compare", "half.json", "more.json", "--explain", "0"],
        ["--quiet"],
    ],
)
def test_wrong_usage_is_refused(
    here: Path, reports: tuple[Path, Path], report: Run, words: list[str]
) -> None:
    ran = report(*words)
    assert (ran.code, ran.out) == (2, "")
    assert reports[0].exists()
    assert not (here / "out.html").exists()


def test_errors_of_the_same_measure_are_compared_step_by_step(
    here: Path, reports: tuple[Path, Path], report: Run
) -> None:
    for number, path in enumerate(reports):
        data = json.loads(path.read_text())
        steps = [
            {"step": "compressed", "error": 0.5 + number},
            {"step": f"own {number}", "error": 0},
        ]
        data["errors"] = {"measure": "error", "on": "held-out images", "steps": steps}
        (here / f"{number}.json").write_text(json.dumps(data))
    ran = report("--compare", "0.json", "1.json", "--json")
    assert json.loads(ran.out)["errors"] == {"compressed": [0.5, 1.5]}
    assert "compressed" in report("--compare", "0.json", "1.json").out
    data["errors"]["measure"] = "another"
    (here / "1.json").write_text(json.dumps(data))
    assert json.loads(report("--compare", "0.json", "1.json", "--json").out)["errors"] == {}
