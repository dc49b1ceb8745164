"""Every regulariser against finite differences, and against its own step."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.regularize import (
    L1,
    OICSR,
    GroupLasso,
    GroupPull,
    GrowingRegularizer,
    NetworkSlimming,
    Regularizer,
)
from tests.assertions import double
from tests.models import EXAMPLES, build

NETS = ("residual", "grouped bottleneck", "dense block", "squeeze and excite", "tied embedding",
        "view to (-1, 8, 64)", "transposed grouped", "shared module")  # fmt: skip


def growing(graph: sg.DependencyGraph) -> Regularizer:
    leaving = torch.arange(len(graph.frozen)) % 2 == 0
    regularizer = GrowingRegularizer(graph, leaving, 0.5, every=1, ceiling=2.0)
    regularizer.factor = 0.5
    return regularizer


KINDS: dict[str, Callable[[sg.DependencyGraph], Regularizer]] = {
    "oicsr": lambda g: OICSR(g, 0.5),
    "oicsr, sizes": lambda g: OICSR(g, 0.5, group_scale="sqrt", include_bn=True),
    "oicsr, mean": lambda g: OICSR(g, 0.5, normalize="mean"),
    "group lasso": lambda g: GroupLasso(g, 0.5),
    "l1": lambda g: L1(g, 0.5),
    "group pull": lambda g: GroupPull(g, 0.5),
    "growing": growing,
}
# The factor of these is a constant for autograd, but not for a finite difference.
WITH_CONSTANTS = {"oicsr, mean", "group pull"}


def analysed(name: str) -> sg.DependencyGraph:
    example = EXAMPLES[name]
    inputs = double(example.inputs(example.batches[0], example.size))
    return sg.analyze(sg.trace(build(example), inputs))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    found = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_follows_the_gradient_of_the_penalty(name: str, kind: str) -> None:
    graph = analysed(name)
    regularizer = KINDS[kind](graph)
    regularizer().backward()
    wanted = gradients(graph.traced)
    regularizer.add_gradients()
    for key, found in gradients(graph.traced).items():
        expected = wanted[key]
        if found is None or expected is None:
            assert found is None or not found.any()
            assert expected is None or not expected.any()
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert any(value is not None and value.any() for value in wanted.values())


@pytest.mark.parametrize("name", NETS[:4])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - WITH_CONSTANTS))
def test_the_gradient_is_that_of_finite_differences(name: str, kind: str) -> None:
    graph = analysed(name)
    regularizer = KINDS[kind](graph)
    regularizer().backward()
    chance = torch.Generator().manual_seed(0)
    for parameter in graph.traced.parameters():
        direction = torch.randn(parameter.shape, generator=chance, dtype=parameter.dtype)
        slope = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                ends.append(regularizer().item())
                parameter.sub_(direction, alpha=step)
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-6)


class Partly(nn.Module):
    """Its last layer, and a side that only the output reads, cannot shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.side, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x)))) + self.side(x)


def partly() -> sg.DependencyGraph:
    return sg.analyze(sg.trace(Partly(), torch.randn(2, 3, 8, 8)))


@pytest.mark.parametrize("kind", [*KINDS, "slimming"])
def test_parameters_outside_the_groups_are_left_alone(kind: str) -> None:
    graph = partly()
    regularizer = NetworkSlimming(graph, 0.5) if kind == "slimming" else KINDS[kind](graph)
    before = {name: p.detach().clone() for name, p in graph.traced.named_parameters()}
    optimizer = torch.optim.SGD(graph.traced.parameters(), lr=0.1)
    regularizer.step(optimizer)
    after = dict(graph.traced.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved, "the regulariser does something"
    assert not any(name.startswith("side") or name == "head.bias" for name in moved)


def test_slimming_adds_the_sign_of_each_scale_and_nothing_to_shifts() -> None:
    graph = partly()
    scale = graph.traced.get_parameter("norm.weight")
    with torch.no_grad():
        scale[:3] = torch.tensor([0.0, -2.0, 3.0])
    regularizer = NetworkSlimming(graph, 0.25)
    regularizer.add_gradients()
    assert scale.grad is not None
    assert scale.grad[:3].tolist() == [0.0, -0.25, 0.25]
    assert graph.traced.get_parameter("norm.bias").grad is None
    assert regularizer().item() == pytest.approx(0.25 * scale.abs().sum().item())


def test_smooth_slimming_is_a_parabola_near_zero() -> None:
    graph = partly()
    scale = graph.traced.get_parameter("norm.weight")
    with torch.no_grad():
        scale.copy_(torch.linspace(-2, 2, 8))
    regularizer = NetworkSlimming(graph, 0.5, smooth=1.0)
    regularizer().backward()
    wanted = gradients(graph.traced)["norm.weight"]
    assert wanted is not None
    torch.testing.assert_close(wanted, 0.5 * scale.detach().clamp(-1, 1))
    regularizer.add_gradients()
    torch.testing.assert_close(scale.grad, wanted)
    assert regularizer().item() == pytest.approx(
        0.5 * nn.functional.smooth_l1_loss(scale, torch.zeros(8), reduction="sum").item()
    )


def test_scales_start_where_they_are_asked_to() -> None:
    graph = partly()
    NetworkSlimming(graph, init=0.5)
    assert graph.traced.get_parameter("norm.weight").tolist() == [0.5] * 8


def test_joint_groups_are_never_longer_than_separate_ones() -> None:
    """Of each group (a, b): |(a, b)| <= |a| + |b|, equal where one side is zero."""
    graph = analysed("residual")
    joint, separate = OICSR(graph, 1.0), GroupLasso(graph, 1.0)
    readers = sum(
        each.norms()[joint.prunable[each.channels]].sum().item()
        for each in joint.slices
        if each.role == "in"
    )
    assert joint().item() < separate().item() + readers


def test_the_proximal_step_shrinks_both_sides_together_down_to_zero() -> None:
    graph = partly()
    stem, head = (graph.traced.get_parameter(f"{name}.weight") for name in ("stem", "head"))
    with torch.no_grad():
        stem[0].mul_(1e-3)
        head[:, 0].mul_(1e-3)
    regularizer = OICSR(graph, 1.0, proximal=True)
    norm = regularizer.squares()[graph.group_of("stem").components[1]].sqrt().item()
    before = stem[1].detach().clone(), head[:, 1].detach().clone()
    regularizer.step(torch.optim.SGD(graph.traced.parameters(), lr=0.1))
    assert not stem[0].any()
    assert not head[:, 0].any()
    torch.testing.assert_close(stem[1], before[0] * (1 - 0.1 / norm))
    torch.testing.assert_close(head[:, 1], before[1] * (1 - 0.1 / norm))


def test_a_group_that_is_zero_stays_finite() -> None:
    graph = partly()
    with torch.no_grad():
        graph.traced.get_parameter("stem.weight")[0] = 0
        graph.traced.get_parameter("head.weight")[:, 0] = 0
        graph.traced.get_parameter("stem.bias")[0] = 0
    for kind in ("oicsr", "oicsr, mean", "group lasso", "l1", "group pull"):
        regularizer = KINDS[kind](graph)
        regularizer().backward()
        regularizer.add_gradients()
        for value in gradients(graph.traced).values():
            assert value is None or bool(value.isfinite().all())


def test_growing_grows_to_its_ceiling_and_goes_on_where_it_was() -> None:
    graph = partly()
    leaving = torch.zeros(len(graph.frozen), dtype=torch.bool)
    leaving[graph.group_of("stem").components[:4]] = True
    optimizer = torch.optim.SGD(graph.traced.parameters(), lr=0.1)
    stem = graph.traced.get_parameter("stem.weight")
    before = stem.detach().clone()
    first = GrowingRegularizer(graph, leaving, 0.3, every=2, ceiling=1.0)
    factors: list[float] = []
    for _ in range(10):
        first.step(optimizer)
        factors.append(first.factor)
        optimizer.zero_grad()
    assert factors == pytest.approx([0, 0.3, 0.3, 0.6, 0.6, 0.9, 0.9, 1, 1, 1])
    assert first.is_done
    second = GrowingRegularizer(graph, torch.zeros_like(leaving), 0.3, every=2)
    second.load_state_dict(first.state_dict())
    assert (second.factor, second.steps) == (1.0, 10)
    assert torch.equal(second.leaving, first.leaving)
    left = math.prod(1 - 0.1 * factor for factor in [0.0, *factors[:-1]])
    torch.testing.assert_close(stem[:4], left * before[:4])
    assert torch.equal(stem[4:], before[4:])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda g: OICSR(g, -1.0), "is not zero or more"),
        (lambda g: OICSR(g, group_scale="square"), "unknown option"),
        (lambda g: GrowingRegularizer(g, torch.ones(3, dtype=torch.bool)), "has shape"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(sg.SlimgraphError, match=said):
        make(partly())
