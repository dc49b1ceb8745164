"""The parts of the demo, without the minute it takes as a whole."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

import slimgraph as sg
from tools.demo import data, training
from tools.demo.measure import Measured, measure
from tools.demo.model import DigitsNet
from tools.demo.table import comparison


@pytest.fixture(scope="module")
def digits() -> data.Digits:
    return data.load()


def test_every_class_is_tested_and_no_scan_is_both_learnt_and_tested(digits: data.Digits) -> None:
    assert digits.train_images.shape == (1347, 1, 16, 16)
    assert digits.test_images.shape == (450, 1, 16, 16)
    assert digits.test_labels.bincount().min() >= 43
    both = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)


def test_digits_net_has_every_coupling(digits: data.Digits) -> None:
    traced = sg.trace(DigitsNet().eval(), digits.test_images[:1])
    graph = sg.analyze(traced)
    for one, other in (
        ("stem.0", "residual.second.0"),  # a residual sum
        ("mix.0", "gated.project.0"),  # another one
        ("gated.expand.0", "gated.gate.excite"),  # a gate, through a depth-wise convolution
    ):
        assert graph.group_of(one) is graph.group_of(other)
    read_by = {member.parameter for member in graph.group_of("dense.layers.0.0").members}
    assert {"dense.layers.3.0.weight", "mix.0.weight"} <= read_by  # concatenations
    frozen = [group.name for group in graph.groups if not group.prunable]
    assert frozen == ["classify"]


def test_a_little_training_teaches_something(digits: data.Digits) -> None:
    model = DigitsNet(width=16)
    training.train(model, digits, Console(quiet=True), epochs=2)
    with torch.no_grad():
        hits = model.eval()(digits.test_images).argmax(1) == digits.test_labels
    assert hits.float().mean() > 0.2


def test_files_are_measured_and_shown(digits: data.Digits, tmp_path: Path) -> None:
    traced = sg.trace(DigitsNet(width=16).eval(), digits.test_images[:1])
    path = tmp_path / "net.onnx"
    sg.export_onnx(traced, path)
    with torch.no_grad():
        hits = traced(digits.test_images).argmax(1) == digits.test_labels
    (measured,) = measure([path], digits.test_images, digits.test_labels)
    assert measured.size == path.stat().st_size
    assert measured.accuracy == pytest.approx(hits.double().mean().item(), abs=0.01)
    assert measured.latency > 0


def test_the_table_shows_before_after_and_ratio() -> None:
    before, after = Measured(2_000_000, 0.99, 0.4), Measured(1_000_000, 0.98, 0.1)
    totals = {"before": {"params": 4000, "macs": 100}, "after": {"params": 1000, "macs": 50}}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(comparison(before, after, totals, (1e-6, 2e-6)))
    shown = capture.get()
    for row in (
        "│ parameters                 │    4,000 │    1,000 │        0.25 │",
        "│ file size                  │ 2,000 kB │ 1,000 kB │        0.50 │",
        "│ top-1                      │   99.0 % │   98.0 % │ -1.0 points │",
        "│ latency (median)           │  0.40 ms │  0.10 ms │        0.25 │",
        "│ torch - onnxruntime, worst │  1.0e-06 │  2.0e-06 │             │",
    ):
        assert row in shown
