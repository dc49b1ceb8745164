"""`slimgraph-export`: what it writes, what it prints and where."""

import json
from pathlib import Path

import jsonschema
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import slimgraph as sg
from tests.cli.command import EXAMPLE, SHAPE, Net, run, traced, write_own

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a traced model, under a name that says nothing."""
    sg.save(traced(), tmp_path / "model.pt")
    return tmp_path


def export(folder: Path, *words: str | Path, model: str = "model.pt") -> dict[str, object]:
    """Run the command with `--json`; it must succeed and say nothing else on stdout."""
    ran = run(folder, "slimgraph-export", model, "--onnx", "out.onnx", "--json", *words)
    assert ran.code == 0, ran.stderr
    report: dict[str, object] = json.loads(ran.stdout)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8"))).validate(report)
    assert "Traceback" not in ran.stderr
    return report


def totals(report: dict[str, object], when: str) -> dict[str, int]:
    found = report["totals"]
    assert isinstance(found, dict)
    result: dict[str, int] = found[when]
    return result


def answers(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return torch.from_numpy(result)


def test_as_typed_it_removes_nothing_that_matters(folder: Path) -> None:
    model = sg.load(folder / "model.pt")
    ran = run(folder, "slimgraph-export", "model.pt", "--onnx", "out.onnx")
    assert (ran.code, ran.stdout) == (0, "")
    for word in ("parameters", "MACs", "no channel left", "wrote out.onnx"):
        assert word in ran.stderr
    for batch in (1, 4):
        inputs = torch.randn(batch, *EXAMPLE[1:])
        with torch.no_grad():
            expected = model(inputs)
        assert torch.allclose(answers(folder / "out.onnx", inputs), expected, atol=1e-5)


def test_dead_channels_leave_without_a_budget(tmp_path: Path) -> None:
    model = Net()
    with torch.no_grad():
        model.wide[0].weight[3:7] = 0
        model.wide[0].bias[3:7] = 0
    sg.save(traced(model), tmp_path / "model.pt")
    report = export(tmp_path)
    assert totals(report, "before")["channels"] - totals(report, "after")["channels"] == 4
    inputs = torch.randn(2, *EXAMPLE[1:])
    with torch.no_grad():
        expected = model(inputs)
    assert torch.allclose(answers(tmp_path / "out.onnx", inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "amount", "limit"),
    [
        ("macs", "0.5", 0.5),
        ("params", "0.6", 0.6),
        ("channels", "0.5", 0.5),
        ("channels", "11", 11),
    ],
)
def test_a_budget_is_met(folder: Path, unit: str, amount: str, limit: float) -> None:
    report = export(folder, f"--{unit}", amount)
    before, after = totals(report, "before")[unit], totals(report, "after")[unit]
    allowed = limit if limit > 1 else limit * before
    assert 0.6 * allowed < after <= allowed
    assert report["settings"]["budget"] == {unit: float(amount)}  # type: ignore[index]


def test_options_of_the_choice_are_heeded(folder: Path) -> None:
    chosen = ("--criterion", "random", "--seed", "3", "--round-to", "4", "--keep", "wide")
    report = export(folder, "--channels", "0.9", "--max-removed", "0.5", *chosen)
    kept = {g["name"]: g["kept"] for g in report["groups"]}  # type: ignore[attr-defined]
    assert kept["wide.0"] == 16
    assert kept["stem.0"] == 4


def test_stdout_is_json_alone_and_quiet_is_silent(folder: Path) -> None:
    words = ("slimgraph-export", "model.pt", "--onnx", "out.onnx", "--macs", "0.5")
    ran = run(folder, *words, "--json", "--quiet")
    assert (ran.code, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["export"]["path"] == "out.onnx"
    assert run(folder, *words, "--quiet") == (0, "", "")


def test_a_mask_decides(folder: Path) -> None:
    keep = torch.arange(16) % 4 != 0
    sg.Mask({"wide.0": keep}).save(folder / "mask.st")
    report = export(folder, "--mask", "mask.st")
    kept = {g["name"]: g["keep"] for g in report["groups"]}  # type: ignore[attr-defined]
    assert kept["wide.0"] == keep.int().tolist()


def test_every_file_asked_for_is_written(folder: Path) -> None:
    reports = [f"r.{ending}" for ending in ("html", "json", "dot", "txt")]
    words = [word for name in reports for word in ("--report", name)]
    export(folder, "--macs", "0.5", *words, "--save", "small.slim", "--dump-passes", "passes")
    texts = [(folder / name).read_text("utf-8") for name in reports]
    assert texts[0].startswith("<!doctype html>")
    assert json.loads(texts[1])["export"]["path"] == "out.onnx"
    assert texts[2].lstrip().startswith(("graph", "digraph", "strict"))
    assert "stem.0" in texts[3]
    assert len(list((folder / "passes").glob("*.txt"))) >= 4
    inputs = torch.randn(3, *EXAMPLE[1:])
    with torch.no_grad():
        expected = sg.load(folder / "small.slim")(inputs)
    assert torch.allclose(answers(folder / "out.onnx", inputs), expected, atol=1e-5)


def test_the_opset_and_the_latency_are_what_was_asked(folder: Path) -> None:
    report = export(folder, "--opset", "17", "--latency")
    model = onnx.load(folder / "out.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
    assert report["export"]["latency_ms"]["median"] > 0  # type: ignore[index]


def test_an_earlier_output_is_replaced(folder: Path) -> None:
    (folder / "out.onnx").write_text("old", encoding="utf-8")
    export(folder, "--no-verify")
    assert onnx.load(folder / "out.onnx").graph.node


@pytest.mark.parametrize("kind", ["state dict", "safetensors", "pickle", "torch.export"])
def test_every_kind_of_model_file_is_taken(tmp_path: Path, kind: str) -> None:
    write_own(tmp_path)
    words = ["--arch", "own:make", "--input-shape", "1,3,9,9"]
    if kind == "safetensors":
        save_file(torch.load(tmp_path / "own.pt", weights_only=True), tmp_path / "own.pt")
    elif kind == "pickle":
        torch.save(Net(), tmp_path / "own.pt")
        words = ["--trust-pickle", "--input-shape", SHAPE]
    elif kind == "torch.export":
        program = torch.export.export(Net().eval(), (torch.randn(EXAMPLE),))
        torch.export.save(program, tmp_path / "own.pt")
        words = []
    report = export(tmp_path, "--channels", "0.7", *words, model="own.pt")
    assert totals(report, "after")["channels"] < totals(report, "before")["channels"]
