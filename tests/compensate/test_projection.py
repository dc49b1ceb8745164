"""CaP's compensation and the OBS update, against `lstsq` on the dense model's own inputs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.compensate import project
from slimgraph.importance import Sampling
from tests.compensate.test_least_squares import NETS, halved, images, seeded

ALL = Sampling(points=10_000)
KEPT = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1]).bool()


def pruned(model: nn.Module, keep: Tensor = KEPT) -> tuple[fx.GraphModule, fx.GraphModule]:
    traced = sg.trace(model, images(1)[0][:2])
    return traced, sg.compress(traced, {"0": keep})


def patches(model: nn.Module, padding: int = 0) -> Tensor:
    """Return what the second convolution of a net reads in the dense model, row by row."""
    x = torch.relu(model.get_submodule("0")(torch.cat(images()))).detach()
    return F.unfold(x, 3, padding=padding).transpose(1, 2).flatten(0, 1)


def with_bias(*, bias: bool, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(6)] if norm else []
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=bias), *between, nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    if norm:
        nn.init.normal_(net[3].running_mean)
        nn.init.uniform_(net[3].running_var, 0.5, 2)
    return net.double().eval()


@pytest.mark.parametrize("intercept", [True, False])
def test_weights_are_those_of_lstsq(intercept: bool) -> None:
    model = with_bias(bias=True)
    traced, slim = pruned(model)
    (found,) = project(traced, slim, images(), intercept=intercept, ridge=1e-13, sampling=ALL)
    rows = patches(model)
    conv = model.get_submodule("2")
    wanted = rows @ conv.weight.detach().flatten(1).mT
    given = rows.unflatten(1, (8, 9))[:, KEPT].flatten(1)
    given = torch.cat([given, torch.ones(len(rows), int(intercept), dtype=torch.double)], 1)
    solved = torch.linalg.lstsq(given, wanted).solution
    new = slim.get_submodule("2")
    torch.testing.assert_close(new.weight.detach().flatten(1), solved[:45].mT)
    shift = solved[45] if intercept else torch.zeros(6).double()
    torch.testing.assert_close(new.bias.detach(), conv.bias.detach() + shift)
    left = (wanted - given @ solved).square().sum() / wanted.square().sum()
    assert found.after == pytest.approx(float(left))
    cut = rows.unflatten(1, (8, 9)) * ~KEPT[:, None]
    before = (cut.flatten(1) @ conv.weight.detach().flatten(1).mT).square().sum()
    assert found.before == pytest.approx(float(before / wanted.square().sum()))


@pytest.mark.parametrize("norm", [True, False])
def test_means_stay_without_a_bias(norm: bool, tmp_path: Path) -> None:
    """By the mean of the norm behind, else by a new bias, which plans and files know."""
    model = with_bias(bias=False, norm=norm)
    traced, slim = pruned(model)
    project(traced, slim, images(), sampling=ALL)
    x = torch.cat(images())
    rest = slice(3, 4) if norm else slice(2, 3)
    before = model[: rest.stop](x) if isinstance(model, nn.Sequential) else x
    after = nn.Sequential(*[slim.get_submodule(str(i)) for i in range(rest.stop)])(x)
    torch.testing.assert_close(after.mean((0, 2, 3)), before.mean((0, 2, 3)))
    assert (slim.get_submodule("2").bias is None) == norm
    fresh = vars(slim)["plan"].apply(with_bias(bias=False, norm=norm))
    fresh.load_state_dict(slim.state_dict())
    torch.testing.assert_close(fresh(x), slim(x))
    sg.save(slim, tmp_path / "slim.safetensors")
    torch.testing.assert_close(sg.load(tmp_path / "slim.safetensors")(x), slim(x))


def test_variances_stay_if_asked_for() -> None:
    model = with_bias(bias=True)
    traced, slim = pruned(model)
    project(traced, slim, images(), match_variance=True, sampling=ALL)
    x = torch.cat(images())
    before, after = model[:3](x), nn.Sequential(*[slim.get_submodule(n) for n in "012"])(x)  # type: ignore[index]
    torch.testing.assert_close(after.mean((0, 2, 3)), before.mean((0, 2, 3)))
    torch.testing.assert_close(after.var((0, 2, 3)), before.var((0, 2, 3)))


@pytest.mark.parametrize("name", NETS)
def test_every_layer_comes_closer_and_fine_where_nothing_left(name: str) -> None:
    traced, slim = halved(seeded(NETS[name]))
    wanted = traced(images()[0])
    before = (slim(images()[0]) - wanted).square().mean().item()
    found = project(traced, slim, images(), sampling=ALL)
    assert found
    assert all(layer.after <= layer.before for layer in found)
    assert (slim(images()[0]) - wanted).square().mean().item() < before
    whole = sg.compress(traced, {})
    weights = {key: value.clone() for key, value in whole.state_dict().items()}
    assert project(traced, whole, images()) == []
    assert all(torch.equal(value, weights[key]) for key, value in whole.state_dict().items())


def test_grouped_convolutions_lose_other_channels_in_each_group_and_whole_groups() -> None:
    model = seeded(NETS["grouped"])
    traced = sg.trace(model, images(1)[0][:2])
    # Of 4 groups with 2 inputs each the third leaves, the others keep one input.
    mask = {"0": [1, 0, 0, 1, 0, 0, 1, 0], "2": [1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1]}
    slim = sg.compress(traced, mask)
    project(traced, slim, images(), ridge=1e-13, sampling=ALL)
    conv, new = model.get_submodule("2"), slim.get_submodule("2")
    rows = patches(model).unflatten(1, (4, 18))
    for place, (group, column) in enumerate(((0, 0), (1, 1), (3, 0))):
        own = rows[:, group]
        wanted = own @ conv.weight[group * 3 : group * 3 + 3].detach().flatten(1).mT
        given = torch.cat([own[:, column * 9 : column * 9 + 9], torch.ones(len(own), 1)], 1)
        solved = torch.linalg.lstsq(given, wanted).solution
        found = new.weight[place * 3 : place * 3 + 3].detach().flatten(1)
        torch.testing.assert_close(found, solved[:9].mT)


def test_models_that_do_not_belong_together_are_refused() -> None:
    traced, slim = pruned(with_bias(bias=True))
    with pytest.raises(sg.SlimgraphError, match="has no plan"):
        project(traced, traced, images())
    with pytest.raises(sg.SlimgraphError, match="of another model"):
        project(slim, slim, images())
    kept = sg.compress(traced, {"0": KEPT}, constants="keep")
    with pytest.raises(sg.SlimgraphError, match="left as constants"):
        project(traced, kept, images())
