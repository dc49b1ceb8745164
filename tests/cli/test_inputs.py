"""Every kind of file the commands take."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import Run, tiny

SHAPE = ("--input-shape", "1,3,8,8")
ARCH = ("--arch", "zoo:tiny")


@pytest.mark.parametrize("name", ["model.slim", "model.onnx", "weights.pt", "noending"])
def test_a_saved_model_is_known_under_any_name(here: Path, export: Run, name: str) -> None:
    (here / "model.slim").rename(here / name)
    assert export(name, "--onnx", "out.onnx", "--no-verify").code == 0


def test_an_exported_program_needs_nothing(here: Path, export: Run) -> None:
    program = torch.export.export(tiny(), (torch.randn(2, 3, 8, 8),))
    torch.export.save(program, here / "model.pt2")
    ran = export("model.pt2", "--onnx", "o.onnx", "--macs", "0.5")
    assert ran.code == 0, ran.err


@pytest.mark.usefixtures("arch")
def test_a_state_dict_needs_a_class_and_a_shape(here: Path, export: Run) -> None:
    torch.save(tiny().state_dict(), here / "weights.pt")
    bare = export("weights.pt", "--onnx", "o.onnx", *SHAPE)
    assert bare.code == 1
    assert "--arch" in bare.err
    shapeless = export("weights.pt", "--onnx", "o.onnx", *ARCH)
    assert shapeless.code == 1
    assert "--input-shape" in shapeless.err
    assert not (here / "o.onnx").exists()
    assert export("weights.pt", "--onnx", "o.onnx", *ARCH, *SHAPE, "--macs", "0.5").code == 0
    assert (here / "o.onnx").exists()


@pytest.mark.usefixtures("arch")
def test_safetensors_work_like_a_state_dict(here: Path, export: Run) -> None:
    save_file(tiny().state_dict(), here / "weights.safetensors")
    ran = export("weights.safetensors", "--onnx", "o.onnx", *ARCH, *SHAPE)
    assert ran.code == 0, ran.err


def test_a_pickled_module_is_read_only_when_it_is_trusted(here: Path, export: Run) -> None:
    torch.save(tiny(), here / "whole.pt")
    ran = export("whole.pt", "--onnx", "o.onnx", *SHAPE)
    assert ran.code == 1
    assert ran.err.startswith("error: ")
    for part in ("slimgraph.save", "state_dict()", "--arch", "--trust-pickle"):
        assert part in ran.err
    assert not (here / "o.onnx").exists()
    trusted = export("whole.pt", "--onnx", "o.onnx", *SHAPE, "--trust-pickle")
    assert trusted.code == 0, trusted.err
