"""What would overwrite, be ignored or lie is refused, and every file stays as it was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import slimgraph as sg
from slimgraph.errors import SlimgraphError
from tests.cli.command import contents
from tests.cli.conftest import Run


def refused(here: Path, export: Run, *args: str, onnx: str = "out.onnx") -> str:
    """Run the command, check that it fails as it should, and return what it says."""
    before = contents(here)
    ran = export(*args, "--onnx", onnx)
    assert (ran.code, ran.out) == (1, ""), ran.err
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err
    assert "unexpected" not in ran.err
    assert contents(here) == before
    return ran.err


def test_no_output_replaces_an_input_or_another_output(here: Path, export: Run) -> None:
    refused(here, export, "model.slim", onnx="model.slim")
    refused(here, export, "model.slim", "--save", "model.slim")
    refused(here, export, "model.slim", "--save", "./out.onnx")
    sg.Mask({"3": torch.arange(16) > 3}).save(here / "mask")
    refused(here, export, "model.slim", "--mask", "mask", "--save", "mask")


def test_the_onnx_file_does_not_stay_alone_when_a_report_fails(
    here: Path, export: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    said = refused(here, export, "model.slim", "--report", "r.json")
    assert "No space left" in said


@pytest.mark.parametrize("option", ["--criterion", "--keep", "--order", "--round-to", "--seed"])
def test_options_of_a_budget_are_not_ignored_without_one(
    here: Path, export: Run, option: str
) -> None:
    value = "4" if option in ("--round-to", "--seed") else "score"
    assert f"`{option}` has no use" in refused(here, export, "model.slim", option, value)


def test_an_unknown_order_names_the_known_ones(here: Path, export: Run) -> None:
    said = refused(here, export, "model.slim", "--macs", "0.5", "--order", "best")
    assert "unknown order `best`" in said
    assert "per_cost or score" in said


def test_a_folder_for_passes_that_is_a_file_is_refused(here: Path, export: Run) -> None:
    refused(here, export, "model.slim", "--dump-passes", "model.slim")


def test_a_tensor_of_another_shape_than_the_model_says_is_refused(here: Path, export: Run) -> None:
    with safe_open(here / "model.slim", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, here / "bad.slim", metadata)
    refused(here, export, "bad.slim")


def test_a_header_that_lies_about_a_shape_is_refused(here: Path, export: Run, saved: bytes) -> None:
    size = int.from_bytes(saved[:8], "little")
    header = json.loads(saved[8 : 8 + size])
    entry = next(e for name, e in header.items() if name != "__metadata__" and e["shape"])
    entry["shape"][0] += 1
    text = json.dumps(header).encode()
    (here / "bad.slim").write_bytes(len(text).to_bytes(8, "little") + text + saved[8 + size :])
    refused(here, export, "bad.slim")


@pytest.mark.usefixtures("here")
def test_debug_lets_the_error_through_with_its_traceback(export: Run) -> None:
    with pytest.raises(SlimgraphError, match=r"absent\.slim"):
        export("absent.slim", "--onnx", "o.onnx", "--debug")


@pytest.mark.usefixtures("here")
def test_three_names_to_explain_are_wrong_usage(report: Run) -> None:
    assert report("model.slim", "--explain", "0", "--explain", "3", "--explain", "7").code == 2


def test_a_budget_of_time_that_is_none_is_refused_before_any_work(here: Path, export: Run) -> None:
    for words in (("--latency", "soon"), ("--latency", "1.5"), ("--macs", "0.5", "--threads", "2")):
        ran = export("model.slim", "--onnx", "out.onnx", *words)
        assert ran.code == 1
        assert "hint:" in ran.err
        assert not (here / "out.onnx").exists()
