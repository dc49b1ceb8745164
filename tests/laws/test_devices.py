"""The core laws on every device there is; without a GPU those of it are left out, and counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import PlanError, VaryingChannelError
from slimgraph.structures import map_tensors
from tests.assertions import TOLERANCE, difference, random_mask, run
from tests.laws.strategies import case
from tests.models import EXAMPLES, FAMILIES, build

# Of each family the first two nets that can shrink.
NAMES = [
    name
    for family in FAMILIES
    for name in [name for name, example in family.EXAMPLES.items() if example.groups][:2]
]
pytestmark = pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")


def placed(name: str, device: torch.device) -> tuple[nn.Module, Any]:
    inputs = case(name, EXAMPLES[name].batches[0]).inputs(EXAMPLES[name].batches[0])
    return build(EXAMPLES[name]).to(device), map_tensors(lambda t: t.to(device), inputs)


def analysed(model: nn.Module, inputs: Any, name: str) -> sg.DependencyGraph:
    traced = sg.trace(model, inputs)
    return sg.analyze(sg.with_selections(traced) if EXAMPLES[name].selections else traced)


def devices(model: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("constants", ["zero", "keep"])
@pytest.mark.parametrize("name", NAMES)
def test_compress_equals_masked(name: str, constants: Any, device: torch.device) -> None:
    model, inputs = placed(name, device)
    graph = analysed(model, inputs, name)
    mask = random_mask(graph, 3)
    try:
        slim = sg.compress(graph, mask, constants=constants)
    except VaryingChannelError:
        assert constants == "keep"
        return
    assert devices(slim) == {device.type}
    reference = sg.masked(graph, mask, constants=constants)
    assert difference(run(reference, inputs), run(slim, inputs)) <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_plans_and_files_serve_every_device(
    name: str, device: torch.device, tmp_path: Path
) -> None:
    model, inputs = placed(name, device)
    graph = analysed(model, inputs, name)
    slim = sg.compress(graph, random_mask(graph, 3))
    expected = run(slim, inputs)
    slim.plan.save(tmp_path / "plan.safetensors")
    try:
        small = sg.Plan.load(tmp_path / "plan.safetensors").apply(build(EXAMPLES[name]).to(device))
    except PlanError:  # its class holds sizes
        small = slim
    assert devices(small) == {device.type}
    assert difference(expected, run(small, inputs)) <= TOLERANCE
    sg.save(slim, tmp_path / "model.slim")
    loaded = sg.load(tmp_path / "model.slim").to(device)
    assert difference(expected, run(loaded, inputs)) <= TOLERANCE


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "oicsr", "fpgm", "lamp", "random"])
def test_scores_and_budgets_work_where_the_model_is(criterion: str, device: torch.device) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    model, x = model.to(device).eval(), torch.randn(2, 3, 8, 8, device=device)
    result = sg.slim(model, x, channels=0.5, criterion=criterion)
    assert result.model.get_submodule("0").out_channels == 4
    assert devices(result.model) == {device.type}
    found: Tensor = run(result.model, x)
    assert found.device.type == device.type


def test_dead_channels_leave_where_the_model_is(device: torch.device) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 2, 3, padding=1)
    )
    model = model.to(device, torch.double)
    with torch.no_grad():
        model[0].weight[[1, 4]] = 0
    x = torch.randn(2, 3, 8, 8, device=device, dtype=torch.double)
    result = sg.slim(model, x)
    assert result.model.get_submodule("0").out_channels == 6
    assert devices(result.model) == {device.type}
    assert difference(run(model, x), run(result.model, x)) <= TOLERANCE


def test_onnx_is_written_wherever_the_model_is(device: torch.device, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).to(device).eval()
    slim = sg.slim(model, torch.randn(2, 3, 8, 8, device=device), channels=0.5).model
    report = sg.export_onnx(slim, tmp_path / "model.onnx")
    assert report.dynamic_batch
    assert devices(slim) == {device.type}
