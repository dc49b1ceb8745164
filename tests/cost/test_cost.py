"""Costs against plain counting: parameters one by one, multiplications as the model runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel, Totals
from tests.groups.models import IMAGE, Concat, Flattened, Gated, Residual


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1))


def depth_wise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1)
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 3, stride=2),
        nn.ConvTranspose2d(6, 6, 2, stride=2, groups=2), nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2))


MODELS = [
    plain, grouped, depth_wise, transposed, linear, Residual, Concat, Gated, Flattened,
]  # fmt: skip


def counted(model: nn.Module) -> int:
    """Count multiplications per example with a hook on every layer."""
    found: list[int] = []

    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        per_example = output[0].numel()
        if isinstance(module, nn.ConvTranspose2d):  # every input number meets a column
            found.append(inputs[0][0].numel() * module.weight[0].numel())
        elif isinstance(module, nn.Conv2d):  # every output number is one dot product
            found.append(per_example * module.weight[0].numel())
        else:
            found.append(per_example * module.in_features)

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, layers)]
    with torch.no_grad():
        model(torch.randn(IMAGE))
    for handle in handles:
        handle.remove()
    return sum(found)


def totals(graph: sg.DependencyGraph) -> Totals:
    return CostModel(graph).totals(torch.ones(len(graph.frozen), dtype=torch.bool))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("make", MODELS)
def test_params_and_macs_are_what_counting_finds(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    found = totals(sg.analyze(sg.trace(model, torch.randn(IMAGE))))
    assert (found.params, found.macs) == (parameters(model), counted(model))


@pytest.mark.parametrize("make", MODELS)
def test_the_predicted_cost_is_that_of_the_compressed_model(make: Callable[[], nn.Module]) -> None:
    result = sg.slim(make().eval(), torch.randn(IMAGE), channels=0.7)
    after = result.report["totals"]["after"]
    assert after["params"] < result.report["totals"]["before"]["params"]
    assert (after["params"], after["macs"]) == (parameters(result.model), counted(result.model))


def test_channels_count_those_that_can_leave() -> None:
    graph = sg.analyze(sg.trace(Residual(), torch.randn(IMAGE)))
    assert totals(graph).channels == 6 + 4


def test_macs_do_not_depend_on_the_batch() -> None:
    one, four = (
        totals(sg.analyze(sg.trace(Gated(), torch.randn(batch, 3, 4, 4)))) for batch in (1, 4)
    )
    assert one == four
