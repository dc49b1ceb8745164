"""Reconstruction: exact where it can be, never worse, and as `lstsq` says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.calibrate.layers import layers_of
from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.running import prefix
from slimgraph.compensate import reconstruct

Make = Callable[[], nn.Module]


def seeded(make: Make) -> nn.Module:
    torch.manual_seed(0)
    return make().double().eval()


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


NETS: dict[str, Make] = {
    "plain": lambda: sequence(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.ReLU(),
        nn.Conv2d(6, 2, 1)),
    "strided": lambda: sequence(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 2, 2), nn.ReLU(), nn.Conv2d(6, 2, 1)),
    "same": lambda: sequence(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, (2, 4), padding="same"), nn.ReLU(),
        nn.Conv2d(6, 2, 1)),
    "reflected": lambda: sequence(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(), nn.Conv2d(6, 2, 1)),
    "grouped": lambda: sequence(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(),
        nn.Conv2d(12, 2, 1)),
    "depth-wise": lambda: sequence(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 2, 1)),
    "one dimension": lambda: sequence(
        nn.Flatten(2), nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 5, padding=2)),
    "linear": lambda: sequence(
        nn.Flatten(2), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 2)),
    "flattened": lambda: sequence(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)),
}  # fmt: skip


def images(count: int = 3) -> list[Tensor]:
    chance = torch.Generator().manual_seed(7)
    return [torch.randn(16, 3, 8, 8, generator=chance, dtype=torch.double) for _ in range(count)]


def halved(model: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule]:
    traced = sg.trace(model, images(1)[0][:2])
    graph = sg.analyze(traced)
    keep = sg.select(graph, sg.score(graph, "l2"), sg.Budget.of(channels=0.7))
    return traced, sg.compress(graph, sg.Mask.of_channels(graph, keep))


@pytest.mark.parametrize("name", NETS)
def test_rows_times_the_matrix_are_what_the_layer_makes(name: str) -> None:
    net = seeded(NETS[name])
    model = sg.trace(net, images(1)[0][:2])
    layers = list(layers_of(model))
    assert [layer.key for layer in layers] == [
        f"{key}.weight"
        for key, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    for layer in layers:
        x, y = prefix(model, layer.name)(images(1)[0])
        places = torch.randperm(layer.number_of_places(y))[:20]
        rows, made = layer.rows(x, y, places)
        found = torch.einsum("rgc,goc->rgo", rows, layer.matrix())
        if layer.bias is not None:
            found = found + layer.bias.unflatten(0, (layer.groups, -1))
        torch.testing.assert_close(found, made)


@pytest.mark.parametrize("name", NETS)
def test_nothing_removed_nothing_changed(name: str) -> None:
    traced = sg.trace(seeded(NETS[name]), images(1)[0][:2])
    slim = sg.compress(traced, {})
    before = {key: value.clone() for key, value in slim.state_dict().items()}
    assert reconstruct(traced, slim, images()) == []
    for key, value in slim.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", NETS)
def test_every_layer_comes_closer_to_what_it_made(name: str) -> None:
    traced, slim = halved(seeded(NETS[name]))
    wanted = traced(images()[0])
    before = (slim(images()[0]) - wanted).square().mean().item()
    found = reconstruct(traced, slim, images(), points=100, ridge=1e-9)
    assert found
    assert all(layer.after <= layer.before for layer in found)
    assert (slim(images()[0]) - wanted).square().mean().item() < before


def test_a_copy_of_a_channel_leaves_at_no_loss() -> None:
    model = seeded(NETS["plain"])
    first = model.get_submodule("0")
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight[3], first.bias[3] = first.weight[5], first.bias[5]
    traced = sg.trace(model, images(1)[0][:2])
    slim = sg.compress(traced, {"0": torch.arange(8) != 3})
    assert not torch.allclose(slim(images()[0]), traced(images()[0]))
    reconstruct(traced, slim, images(), points=100, ridge=1e-12)
    torch.testing.assert_close(slim(images()[0]), traced(images()[0]), rtol=1e-6, atol=1e-6)


def test_the_change_is_that_of_lstsq() -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, 6, generator=chance, dtype=torch.double)
    e = torch.randn(50, 1, 4, generator=chance, dtype=torch.double) + 3
    moments = Moments(1, 6, 4, torch.device("cpu"))
    moments.add(x[:20], e[:20])
    other = Moments(1, 6, 4, torch.device("cpu"))
    other.add(x[20:], e[20:])
    moments.merge(other)
    change, shift = moments.solve(0.0, intercept=True)
    with_ones = torch.cat([x[:, 0], torch.ones(50, 1, dtype=torch.double)], 1)
    wanted = torch.linalg.lstsq(with_ones, e[:, 0]).solution
    torch.testing.assert_close(change[0], wanted[:6].mT)
    torch.testing.assert_close(shift[0], wanted[6])
    bare, none = moments.solve(0.0, intercept=False)
    torch.testing.assert_close(bare[0], torch.linalg.lstsq(x[:, 0], e[:, 0]).solution.mT)
    assert not none.any()


def test_singular_inputs_give_finite_weights() -> None:
    x = torch.randn(50, 1, 1, dtype=torch.double).expand(50, 1, 6).contiguous()
    moments = Moments(1, 6, 2, torch.device("cpu"))
    moments.add(x, x[:, :, :2])
    change, _ = moments.solve(0.0, intercept=True)
    torch.testing.assert_close((x[:, 0] @ change[0].mT), x[:, 0, :2], rtol=1e-5, atol=1e-5)


def test_targets_are_ignored_and_iterators_refused() -> None:
    traced, slim = halved(seeded(NETS["plain"]))
    with pytest.raises(sg.SlimgraphError, match="gone through only once"):
        reconstruct(traced, slim, iter(images()))
    with pytest.raises(sg.SlimgraphError, match="no batch"):
        reconstruct(traced, slim, [])
    pairs = [(batch, torch.zeros(16)) for batch in images()]
    assert reconstruct(traced, slim, pairs)
