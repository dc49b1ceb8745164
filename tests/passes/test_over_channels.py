"""Convolutions over channels: exact with every channel in its old place, or packed on request."""

from pathlib import Path

import pytest
import torch
from torch import fx

import slimgraph as sg
from tests.assertions import difference, random_mask, run
from tests.laws.strategies import Case, case
from tests.models import build

NAME = "convolution over channels"


@pytest.fixture
def eca() -> Case:
    return case(NAME, 2)


def called(model: fx.GraphModule) -> list[str]:
    return [getattr(node.target, "__name__", str(node.target)) for node in model.graph.nodes]


def test_removed_channels_stand_between_the_others_as_zeros(eca: Case) -> None:
    mask = {"stem": [1, 0, 1, 1, 0, 0, 1, 1]}
    slim = sg.compress(eca.graph, mask)
    assert called(slim).count("pad") == 2
    assert slim.stem.weight.shape[0] == 5
    inputs = eca.inputs(3, 11)
    assert difference(run(sg.masked(eca.graph, mask), inputs), run(slim, inputs)) < 1e-12


def test_it_exports_to_onnx_and_agrees_there(eca: Case, tmp_path: Path) -> None:
    slim = sg.compress(eca.graph, random_mask(eca.graph, 0)).float()
    report = sg.export_onnx(slim, tmp_path / "eca.onnx", example_inputs=eca.inputs(2).float())
    assert report.dynamic_batch
    assert report.parity
    assert all(result.ok for result in report.parity)


def test_packing_is_asked_for_and_warned_about(eca: Case) -> None:
    mask = {"stem": [1, 0, 1, 1, 0, 0, 1, 1]}
    with pytest.warns(sg.InexactWarning, match=r"%\w+ \(.*mixes neighbouring channels"):
        packed = sg.compress(eca.graph, mask, repack=True)
    assert "pad" not in called(packed)
    inputs = eca.inputs(3, 11)
    assert difference(run(sg.masked(eca.graph, mask), inputs), run(packed, inputs)) > 1e-6
    applied = packed.plan.apply(build(eca.example))
    assert difference(run(packed, inputs), run(applied, inputs)) < 1e-12


def test_without_such_an_op_packing_changes_nothing() -> None:
    found = case("plain", 2)
    mask = random_mask(found.graph, 0)
    one, two = (sg.compress(found.graph, mask, repack=value) for value in (False, True))
    assert torch.equal(run(one, found.inputs(2)), run(two, found.inputs(2)))
