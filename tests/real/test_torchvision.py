"""Networks of torchvision, with random weights: removal is exact whatever the weights are."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.mask import keep_channels
from tests.assertions import TOLERANCE, difference, random_mask, run
from tests.real.pretrained import run_onnx

pytestmark = pytest.mark.real
models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"
SEEDS = (0, 1, 2)
REMOVED = 0.4
# The side of the traced photo, in pixels, and what the constructor is told. The own
# initialisation of GoogLeNet and Inception draws from a slow truncated normal distribution.
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}),
    "densenet121": (64, {}),
    "vgg16_bn": (64, {"init_weights": False}),
    "googlenet": (64, {"init_weights": False}),
    "inception_v3": (96, {"init_weights": False}),
    "squeezenet1_0": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "efficientnet_b0": (64, {}),
    "regnet_y_400mf": (64, {}),
}


def randomise(model: nn.Module) -> None:
    """Give every BatchNorm statistics, scales and shifts of its own, in place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)


def build(name: str) -> nn.Module:
    """Make a network with random weights, the same ones each time."""
    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)(weights=None, **NETWORKS[name][1])
    randomise(model)
    return model.eval()


def photo(name: str, batch: int = 1, larger: int = 0) -> Tensor:
    """Draw photos of the traced size, or larger ones, in double precision."""
    side = NETWORKS[name][0] + larger
    return torch.randn(batch, 3, side, side, dtype=torch.float64)


@pytest.fixture(scope="module", params=list(NETWORKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def graph(name: str) -> sg.DependencyGraph:
    return sg.analyze(sg.trace(build(name).double(), photo(name)))


def test_compressing_equals_masking_at_any_size_and_batch(
    name: str, graph: sg.DependencyGraph
) -> None:
    for seed in SEEDS:
        mask = random_mask(graph, seed, REMOVED)
        small, reference = sg.compress(graph, mask), sg.masked(graph, mask)
        before, after = (
            sum(p.numel() for p in model.parameters()) for model in (graph.traced, small)
        )
        assert after < 0.9 * before, "hardly anything was removed"
        for batch, larger in product((1, 3), (0, 32)):
            inputs = photo(name, batch, larger)
            expected = run(reference, inputs)
            assert float(expected.std()) > 0, "an output without variation compares nothing"
            found = difference(expected, run(small, inputs))
            assert found <= TOLERANCE, f"seed {seed}, batch {batch}, +{larger}: off by {found:.2g}"


def test_the_report_follows_its_schema(graph: sg.DependencyGraph) -> None:
    keep = keep_channels(graph, random_mask(graph, SEEDS[0], REMOVED))
    report = json.loads(json.dumps(graph.to_dict(keep=keep), allow_nan=False))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)
    totals = report["totals"]
    assert totals["after"]["params"] < totals["before"]["params"]
    stored = sum(math.prod(p.shape) for p in graph.traced.parameters())
    assert totals["before"]["params"] == stored


def test_the_onnx_file_answers_as_the_compressed_model(name: str, tmp_path: Path) -> None:
    traced = sg.trace(build(name), photo(name).float())
    graph = sg.analyze(traced)
    small = sg.compress(graph, random_mask(graph, SEEDS[0], REMOVED))
    path = tmp_path / "small.onnx"
    sg.export_onnx(small, path)
    inputs = photo(name, batch=3).float()
    found = difference(run(small, inputs), run_onnx(path, inputs))
    assert found <= 1e-4, f"off by {found:.2g}"
