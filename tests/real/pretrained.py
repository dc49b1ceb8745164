"""Trained networks and labelled photos that can be had from PyPI, and what is measured on them."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.dead import dead_channels


def data_files(distribution: str, pattern: str) -> list[Path]:
    """Find a distribution's files without importing it; skip the test if it is not installed."""
    try:
        listed = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the PyPI package `{distribution}` is not installed")
    found = sorted(Path(str(file.locate())) for file in listed if file.match(pattern))
    assert found, f"`{distribution}` has no file like {pattern}"
    return found


class Photos(NamedTuple):
    """A batch of photos as a network wants them."""

    pixels: Tensor
    labels: Tensor


def labelled_photos(mean: Sequence[float], std: Sequence[float]) -> Photos:
    """Read ImageNet photos, whose class is the last number of the file's name."""
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    images = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    prepare = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
    paths = data_files("foolbox", "data/imagenet_*.jpg")
    pixels = []
    for path in paths:
        with images.open(path) as image:
            pixels.append(prepare(image.convert("RGB")))
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])
    return Photos(torch.stack(pixels), labels)


def read_weights(distribution: str) -> dict[str, Tensor]:
    """Load the one checkpoint of a distribution."""
    (path,) = data_files(distribution, "*.pth")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """Run a classifier without gradients."""
    with torch.no_grad():
        answers: Tensor = model(pixels)
    return answers


def accuracy(model: nn.Module, photos: Photos) -> float:
    """Measure the share of photos whose highest logit is the labelled class."""
    return float((logits(model, photos.pixels).argmax(1) == photos.labels).float().mean())


def silence(model: nn.Module, names: Sequence[str], step: int) -> int:
    """Set scale and shift of every `step`-th channel of some BatchNorms to zero, in place.

    Returns:
        How many channels that makes.
    """
    count = 0
    for name in names:
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            norm.weight[::step] = 0
            norm.bias[::step] = 0
        count += len(norm.weight[::step])
    return count


def count_dead(model: nn.Module, pixels: Tensor) -> int:
    """Count the channels that slimgraph finds to be removable without any change."""
    return int(dead_channels(sg.analyze(sg.trace(model, pixels))).sum())


def assert_same_answers(reference: Tensor, candidate: Tensor) -> None:
    """Check the highest logits, and all logits to 1e-4 of the largest."""
    assert torch.equal(reference.argmax(1), candidate.argmax(1))
    worst = float((reference - candidate).abs().max() / reference.abs().max())
    assert worst <= 1e-4, f"off by {worst:.2g}"


def run_onnx(path: Path, pixels: Tensor) -> Tensor:
    """Run a file with one input and one output in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    (result,) = session.run(None, {source.name: pixels.numpy()})
    return torch.from_numpy(result)
