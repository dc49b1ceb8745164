import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import slimgraph as sg
from tests.cli.conftest import Run, tiny, traced
from tests.models import EXAMPLES, build

pytestmark = pytest.mark.usefixtures("here")

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text())


def onnx_output(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


def totals(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)["totals"]
    return found


def test_success_writes_the_file_a_table_on_stderr_and_nothing_on_stdout(
    here: Path, export: Run
) -> None:
    ran = export("model.slim", "--onnx", "out.onnx", "--macs", "0.5")
    assert (ran.code, ran.out) == (0, "")
    for word in ("before", "after", "remains", "parameters", "MACs", "channels", "wrote out.onnx"):
        assert word in ran.err
    onnx.checker.check_model(onnx.load(here / "out.onnx"))
    assert sorted(path.name for path in here.iterdir()) == ["model.slim", "out.onnx"]


def test_json_on_stdout_follows_the_schema_and_quiet_silences_the_rest(
    here: Path, export: Run
) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", "--params", "0.5", "--json", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    data = json.loads(ran.out)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert data["export"]["path"] == "o.onnx"
    assert data["export"]["bytes"] == (here / "o.onnx").stat().st_size
    assert data["export"]["latency_ms"] is None


def test_quiet_says_nothing(export: Run) -> None:
    ran = export("model.slim", "--onnx", "out.onnx", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize(
    ("unit", "amount"),
    [
        ("macs", "0.5"),
        ("params", "0.6"),
        ("channels", "0.5"),
        ("params", "900"),
        ("channels", "12"),
        ("macs", "50000"),
    ],
)
def test_a_share_or_a_number_says_what_remains(export: Run, unit: str, amount: str) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", f"--{unit}", amount, "--json", "--no-verify")
    assert ran.code == 0
    found = totals(ran.out)
    before, after = found["before"][unit], found["after"][unit]
    limit = int(amount) if amount.isdigit() else float(amount) * before
    assert after <= limit < before


def test_a_mask_file_decides(here: Path, export: Run) -> None:
    keep = torch.arange(16) % 2 == 0
    sg.Mask({"3": keep}).save(here / "mask.safetensors")
    ran = export("model.slim", "--mask", "mask.safetensors", "--onnx", "o.onnx", "--json")
    assert ran.code == 0
    (group,) = (group for group in json.loads(ran.out)["groups"] if group["name"] == "3")
    assert group["keep"] == keep.int().tolist()


def test_kept_groups_stay_whole_and_others_are_rounded(export: Run) -> None:
    options = ("--params", "0.6", "--keep", "0", "--round-to", "4", "--json", "--no-verify")
    ran = export("model.slim", "--onnx", "o.onnx", *options)
    kept = {group["name"]: group["kept"] for group in json.loads(ran.out)["groups"]}
    assert kept["0"] == 8
    assert kept["3"] < 16
    assert kept["3"] % 4 == 0


def test_an_unknown_criterion_is_refused_with_the_known_ones(export: Run) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", "--macs", "0.5", "--criterion", "l3")
    assert ran.code == 1
    assert ran.err.startswith("error: unknown criterion `l3`")
    for name in ("l1", "l2", "bn_scale", "oicsr", "fpgm", "lamp", "random"):
        assert name in ran.err


def test_reports_of_all_formats_are_written(here: Path, export: Run) -> None:
    names = ["r.html", "r.json", "r.dot", "r.txt"]
    options = [part for name in names for part in ("--report", name)]
    assert export("model.slim", "--onnx", "o.onnx", "--macs", "0.5", *options).code == 0
    html, text, dot, plain = ((here / name).read_text() for name in names)
    assert html.lstrip().lower().startswith("<!doctype html")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert "digraph" in dot
    assert "group" in plain


def test_the_saved_model_loads_again_and_equals_the_onnx_file(here: Path, export: Run) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", "--macs", "0.5", "--save", "small.slim")
    assert ran.code == 0
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = sg.load(here / "small.slim")(x)
    assert torch.allclose(onnx_output(here / "o.onnx", x), expected, atol=1e-5)
    again = export("small.slim", "--onnx", "again.onnx")
    assert again.code == 0
    assert torch.allclose(onnx_output(here / "again.onnx", x), expected, atol=1e-5)


def test_every_pass_is_dumped_before_and_after(here: Path, export: Run) -> None:
    assert export("model.slim", "--onnx", "o.onnx", "--dump-passes", "deep/passes").code == 0
    names = {path.name for path in (here / "deep/passes").iterdir()}
    before = {name.removesuffix(".before.txt") for name in names if name.endswith(".before.txt")}
    after = {name.removesuffix(".after.txt") for name in names if name.endswith(".after.txt")}
    assert before == after
    assert len(names) == 2 * len(before)
    passes = {name.partition("-")[2] for name in before}
    assert {"resize-literals", "slice-parameters", "fold-batch-norm"} <= passes


def test_latency_opset_and_no_verify_are_passed_on(here: Path, export: Run) -> None:
    options = ("--time", "--opset", "18", "--no-verify", "--json")
    ran = export("model.slim", "--onnx", "o.onnx", *options)
    found = json.loads(ran.out)["export"]
    assert found["latency_ms"]["median"] > 0
    assert found["opset"] == 18
    assert found["parity"] == []
    assert "off by" not in ran.err
    opsets = {entry.domain: entry.version for entry in onnx.load(here / "o.onnx").opset_import}
    assert opsets[""] == 18


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_without_a_budget_only_dead_channels_leave_and_outputs_stay(
    here: Path, export: Run, shift: float
) -> None:
    model = tiny()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight[:3] = 0
        norm.bias[:3] = shift
    sg.save(traced(model), here / "dead.slim")
    ran = export("dead.slim", "--onnx", "o.onnx", "--json")
    assert ran.code == 0
    found = totals(ran.out)
    assert found["before"]["channels"] - found["after"]["channels"] == 3
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(onnx_output(here / "o.onnx", x), model(x), atol=1e-5)


def test_a_mask_may_keep_the_constants_of_what_it_removes(export: Run) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", "--macs", "0.5", "--constants", "keep", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["settings"]["constants"] == "keep"


def test_a_meaning_of_removal_that_there_is_not_is_refused_early(here: Path, export: Run) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", "--constants", "drop")
    assert (ran.code, ran.out) == (1, "")
    assert "`constants` is 'drop'" in ran.err
    assert not (here / "o.onnx").exists()


def test_a_real_process_succeeds_silently_on_stdout(here: Path) -> None:
    code = "from slimgraph.cli import export_main; export_main()"
    command = [sys.executable, "-c", code, "model.slim", "--onnx", "o.onnx", "--macs", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "remains" in done.stderr
    assert (here / "o.onnx").exists()


def test_a_real_process_fails_with_one_and_no_traceback() -> None:
    code = "from slimgraph.cli import report_main; report_main()"
    command = [sys.executable, "-c", code, "absent.slim"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_selections_let_each_reader_drop_other_channels(here: Path, export: Run) -> None:
    model = build(EXAMPLES["pre-activation"]).float()
    sg.save(sg.trace(model, torch.randn(1, 3, 16, 16)), here / "pre.slim")
    sg.Mask({"n1[in]": [1, 0, 1, 0, 0, 1], "n5[in]": [1, 1, 0] * 2 + [1, 1]}).save(here / "m.mask")
    words = ("pre.slim", "--mask", "m.mask", "--selections", "--json")
    ran = export(*words, "--onnx", "o.onnx", "--save", "small.slim", "--report", "r.html")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    kept = {group["name"]: group["kept"] for group in data["groups"]}
    assert (kept["stem"], kept["n1[in]"], kept["short"], kept["n5[in]"]) == (6, 3, 8, 6)
    small = sg.load(here / "small.slim")
    assert "index_select" not in small.code, "the channels of the streams have a new order"
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(onnx_output(here / "o.onnx", x), small(x), rtol=1e-4, atol=1e-4)
    assert export("pre.slim", "--macs", "0.6", "--selections", "--onnx", "o.onnx").code == 0
