"""Mean compensation: exact means from data, Gaussian integrals without."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.compensate import recalibrate, shift_means
from slimgraph.compensate.expectations import Expectations
from tests.compensate.test_least_squares import images
from tests.compensate.test_projection import KEPT, with_bias

SCALE = torch.tensor([1.0, -0.5, 2.0, 0.0]).double()
ONES = torch.ones(4).double()
SHIFT = torch.tensor([0.3, -1.0, 0.0, 0.7]).double()


def expected(model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Return means and deviations per channel of a module's output."""
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(SCALE)
                module.bias.copy_(SHIFT)
    graph = sg.analyze(sg.trace(model, torch.zeros(2, 3, 4, 4).double()))
    found = Expectations(graph)
    (node,) = (n for n in graph.traced.graph.nodes if name in (n.name, n.target))
    mean, spread = found.of(node), found.deviations[node]
    assert mean is not None
    return mean[0].flatten(1)[:, 0], spread[0].flatten(1)[:, 0]


def after(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *layers, nn.Conv2d(4, 2, 1))


def test_relu_is_the_closed_form() -> None:
    mean, spread = expected(after(nn.ReLU()), "2")
    size, ratio = SCALE.abs(), SHIFT / SCALE.abs().clamp_min(1e-300)
    below = 0.5 * (1 + torch.erf(ratio / math.sqrt(2)))
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    wanted = SHIFT * below + size * density
    square = (SHIFT.square() + size.square()) * below + SHIFT * size * density
    torch.testing.assert_close(mean, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(spread, (square - wanted.square()).sqrt(), atol=1e-4, rtol=1e-4)
    assert float(mean[3]) == pytest.approx(0.7)  # a channel without a scale is a constant
    assert spread[3] < 1e-12


@pytest.mark.parametrize(
    "layer", [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Sigmoid(), nn.ReLU6(), nn.LeakyReLU(0.2)]
)
def test_other_activations_are_what_samples_say(layer: nn.Module) -> None:
    mean, spread = expected(after(layer), "2")
    samples = layer(SHIFT + SCALE * torch.randn(400_000, 4).double())
    torch.testing.assert_close(mean, samples.mean(0), atol=0.01, rtol=0.01)
    torch.testing.assert_close(spread, samples.std(0), atol=0.01, rtol=0.01)


class Meeting(nn.Module):
    """Two norms that meet in a sum or a product."""

    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.meet = meet
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.act, self.head = nn.ReLU(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.meet(self.one(self.a(x)), self.two(self.b(x)))))


@pytest.mark.parametrize(
    "meet",
    [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b.sigmoid() + 1],
    ids=["sum", "difference", "gate"],
)
def test_independent_channels_meet(meet: Callable[[Tensor, Tensor], Tensor]) -> None:
    one, two = (SHIFT + SCALE * torch.randn(400_000, 4).double() for _ in range(2))
    met = meet(one, two)
    mean, _ = expected(Meeting(meet), "act")
    # What meets is taken for a Gaussian, which a product is not.
    torch.testing.assert_close(mean, met.relu().mean(0), atol=0.05, rtol=0.05)


def test_means_go_through_pools_and_flattening() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    mean, spread = expected(model, "4")
    wanted, deviation = expected(after(nn.ReLU()), "2")
    torch.testing.assert_close(mean, wanted)
    torch.testing.assert_close(spread, deviation)


class Joined(nn.Module):
    """Channels behind a norm, beside learned ones that do not vary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.learned = nn.Parameter(torch.tensor([-2.0, 3.0]).reshape(1, 2, 1, 1))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        beside = self.learned.expand(x.shape[0], -1, x.shape[2], x.shape[3])
        return self.head(self.act(torch.cat([x, beside], 1)))


def test_parameters_beside_channels_do_not_vary() -> None:
    mean, spread = expected(Joined(), "act")
    wanted, deviation = expected(after(nn.ReLU()), "2")
    torch.testing.assert_close(mean, torch.cat([wanted, torch.tensor([0.0, 3.0]).double()]))
    torch.testing.assert_close(spread, torch.cat([deviation, torch.zeros(2).double()]))


class Shuffled(nn.Module):
    """Channels that change their places on the way; all have the same mean, or the same scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        left, right = x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2).chunk(2, 1)
        return self.head(self.act(torch.cat([right, left], 1)))


@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (SCALE, SHIFT),
        (torch.ones(4), SHIFT),
        (SCALE, torch.ones(4)),
        (torch.ones(4), torch.ones(4)),
    ],
    ids=["neither", "scale", "mean", "both"],
)
def test_channels_change_places(
    scale: Tensor, shift: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SCALE", scale)
    monkeypatch.setitem(globals(), "SHIFT", shift)
    wanted = expected(after(nn.ReLU()), "2")
    found = expected(Shuffled(), "act")
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other[[1, 3, 0, 2]])


def pruned(model: nn.Module, keep: Tensor = KEPT) -> tuple[fx.GraphModule, fx.GraphModule]:
    traced = sg.trace(model, images(1)[0][:2])
    return traced, sg.compress(traced, {"0": keep})


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, True), (False, False)])
def test_with_data_the_mean_of_every_output_stays(bias: bool, norm: bool, padding: int) -> None:
    model = with_bias(bias=bias, norm=norm)
    model.get_submodule("2").padding = (padding, padding)
    traced, slim = pruned(model)
    weights = slim.get_submodule("2").weight.clone()
    data = [images()[0], images()[1][:5]]  # batches differ in size
    assert shift_means(traced, slim, data) == ["2.weight"]
    assert torch.equal(slim.get_submodule("2").weight, weights)
    x, last = torch.cat(data), 4 if norm else 3
    names = [str(i) for i in range(last)]
    before = nn.Sequential(*[model.get_submodule(n) for n in names])(x).mean((0, 2, 3))
    found = nn.Sequential(*[slim.get_submodule(n) for n in names])(x).mean((0, 2, 3))
    torch.testing.assert_close(found, before)


def test_linear_layers_on_flattened_maps_and_on_sequences() -> None:
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    deep = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    for model, name, keep in ((flat, "0", KEPT), (deep, "1", KEPT)):
        traced = sg.trace(model.double().eval(), images(1)[0][:2])
        slim = sg.compress(traced, {name: keep})
        shift_means(traced, slim, images())
        x = torch.cat(images())
        dims = tuple(range(traced(x).ndim - 1))
        torch.testing.assert_close(slim(x).mean(dims), traced(x).mean(dims))


def test_without_data_norms_tell() -> None:
    """Behind norms whose statistics are true, the means are nearly those of the data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 6, 3, padding=1)
    ).double()
    nn.init.uniform_(model[1].weight, -2, 2)
    nn.init.normal_(model[1].bias)
    chance = torch.Generator().manual_seed(1)
    data = [torch.randn(64, 3, 16, 16, generator=chance, dtype=torch.double) for _ in range(4)]
    recalibrate(model, data)
    traced = sg.trace(model.eval(), data[0][:2])
    plain, measured, free = (sg.compress(traced, {"0": KEPT}) for _ in range(3))
    shift_means(traced, measured, data)
    assert shift_means(sg.analyze(traced), free) == ["3.weight"]
    biases = [slim.get_submodule("3").bias.detach() for slim in (plain, measured, free)]
    moved, missed = (biases[1] - biases[0]).norm(), (biases[1] - biases[2]).norm()
    assert missed < 0.03 * moved


def test_what_norms_do_not_tell_of_stays_zero() -> None:
    traced, slim = pruned(with_bias(bias=True))  # no norm in front of the layer that lost inputs
    before = slim.get_submodule("2").bias.clone()
    assert shift_means(traced, slim) == []
    assert torch.equal(slim.get_submodule("2").bias, before)


def test_where_nothing_left_nothing_changes() -> None:
    traced, _ = pruned(with_bias(bias=True))
    slim = sg.compress(traced, {})
    assert shift_means(traced, slim, images()) == []
