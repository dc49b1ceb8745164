"""Models with selections go into files: their own, and ONNX."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import fx

import slimgraph as sg
from slimgraph.passes.reorder_channels import ReorderChannels
from slimgraph.selection import select
from tests.assertions import assert_same_output, random_mask
from tests.models import EXAMPLES, build

IMAGE = torch.randn(2, 3, 8, 8)


def traced(name: str) -> fx.GraphModule:
    return sg.with_selections(sg.trace(build(EXAMPLES[name]).float(), IMAGE))


NAMES = ["pre-activation", "dense block that selects"]


@pytest.mark.parametrize("name", NAMES)
def test_a_traced_model_with_selections_comes_back(name: str, tmp_path: Path) -> None:
    found = traced(name)
    sg.save(found, tmp_path / "model.slim")
    back = sg.load(tmp_path / "model.slim")
    forks = [[n.args[2] for n in m.graph.nodes if n.target is select] for m in (found, back)]
    assert forks[0] == forks[1] != []
    assert [g.name for g in sg.analyze(back).groups] == [g.name for g in sg.analyze(found).groups]


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_model_comes_back_and_shrinks_again(name: str, tmp_path: Path) -> None:
    slim = sg.compress(traced(name), random_mask(sg.analyze(traced(name)), 4))
    assert "index_select" in slim.code
    sg.save(slim, tmp_path / "model.slim")
    back = sg.load(tmp_path / "model.slim")
    assert torch.equal(slim(IMAGE), back(IMAGE))
    assert back.plan.selections == slim.plan.selections != ()
    mask = random_mask(sg.analyze(slim), 5)
    assert torch.equal(sg.compress(back, mask)(IMAGE), sg.compress(slim, mask)(IMAGE))


def test_a_plan_with_selections_comes_back(tmp_path: Path) -> None:
    plan = sg.compress(traced(NAMES[0]), {"n1[in]": [0, 1, 0, 1, 1, 1]}).plan
    plan.save(tmp_path / "plan.safetensors")
    assert sg.Plan.load(tmp_path / "plan.safetensors").selections == ("n1_in",)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_gets_gathers_and_slices(name: str, tmp_path: Path) -> None:
    slim = sg.compress(traced(name), random_mask(sg.analyze(traced(name)), 4))
    for model in (slim, ReorderChannels().rewrite(slim).graph_module):
        sg.export_onnx(model, tmp_path / "model.onnx")
        kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
        assert "Transpose" not in kinds
        assert kinds.count("Gather") == model.code.count("index_select")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        batch = torch.randn(3, 3, 8, 8)
        (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert np.allclose(found, model(batch).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_torch_takes_a_smaller_model_as_it_is() -> None:
    slim = sg.compress(traced(NAMES[0]), random_mask(sg.analyze(traced(NAMES[0])), 4))
    assert "slimgraph" not in slim.code, "what is left is plain torch"
    assert_same_output(
        slim.double(), torch.export.export(slim, (IMAGE.double(),)).module(), IMAGE.double()
    )
