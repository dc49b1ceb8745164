"""Layer by layer: exact counts, true targets, and shortcuts that stay."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.compensate import prune_in_turn
from slimgraph.compensate.in_turn import Pruned
from slimgraph.errors import BudgetError, UnknownGroupError
from slimgraph.importance import Sampling
from tests.calibrate.test_subsets import share_missed
from tests.compensate.test_least_squares import NETS, images, seeded
from tests.compensate.test_shortcuts import Blocks
from tests.groups.models import Concat, Gated, Residual

ALL = Sampling(points=10_000)
RANKINGS = ["lasso", "obs", "cap"]


def analyzed(model: nn.Module) -> sg.DependencyGraph:
    return sg.analyze(sg.trace(model.double().eval(), images(1)[0][:2]))


@pytest.mark.parametrize("by", RANKINGS)
@pytest.mark.parametrize("name", NETS)
def test_exactly_as_many_stay_as_asked_and_errors_shrink(name: str, by: str) -> None:
    graph = analyzed(seeded(NETS[name]))
    before = {key: value.clone() for key, value in graph.traced.state_dict().items()}
    counts = {g.name: -(-g.size * 3 // 4) for g in graph.groups if g.prunable}
    if name == "grouped":  # its groups stay equally long
        counts = {"0": 4, "2": 8}
    found = prune_in_turn(graph, counts, images(), by=by)  # type: ignore[arg-type]
    for group, count in counts.items():
        assert int(found.mask[group].sum()) == count
    assert found.repaired
    assert all(layer.after <= layer.before for layer in found.repaired)
    x = torch.cat(images())
    plain = sg.compress(graph, found.mask)
    wanted = graph.traced(x)
    assert (found.model(x) - wanted).norm() < (plain(x) - wanted).norm()
    for key, value in graph.traced.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("by", RANKINGS)
@pytest.mark.parametrize("model", [Residual, Concat, Gated])
def test_coupled_groups_lose_channels_too(model: type[nn.Module], by: str) -> None:
    torch.manual_seed(0)
    graph = analyzed(model())
    counts = {g.name: g.size - 1 for g in graph.groups if g.prunable}
    found = prune_in_turn(graph, counts, images(), by=by)  # type: ignore[arg-type]
    assert {name: int(kept.sum()) for name, kept in found.mask.items()} == counts
    assert bool(found.model(images()[0]).isfinite().all())


class TwoReaders(nn.Module):
    """A convolution and a transposed one, which is not repaired, read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.two, self.head = nn.ConvTranspose2d(6, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.one(x) + self.two(x)))


def assert_last_layer_makes_what_it_says(graph: sg.DependencyGraph, found: Pruned) -> None:
    x = torch.cat(images())
    wanted = graph.traced(x)
    error = ((found.model(x) - wanted).square().sum() / wanted.square().sum()).detach()
    assert found.repaired[-1].layer == "head.weight"
    assert found.repaired[-1].after == pytest.approx(float(error), rel=1e-6)


def test_what_is_not_repaired_reads_no_channel_that_has_left_either() -> None:
    graph = analyzed(TwoReaders())
    found = prune_in_turn(graph, {"stem": 3}, images(), sampling=ALL)
    assert_last_layer_makes_what_it_says(graph, found)


@pytest.mark.parametrize("by", RANKINGS)
def test_the_compressed_model_makes_what_the_last_layer_was_measured_at(by: str) -> None:
    """No layer may count on a channel that has left, whoever reads it first."""
    graph = analyzed(Blocks())
    counts = {"stem": 3, "a1": 6, "a2": 5}
    found = prune_in_turn(graph, counts, images(), by=by, sampling=ALL)  # type: ignore[arg-type]
    assert_last_layer_makes_what_it_says(graph, found)


@pytest.mark.parametrize("by", RANKINGS)
def test_to_keep_all_changes_nothing(by: str) -> None:
    for make in (Residual, Concat, Gated):
        graph = analyzed(make())
        counts = {g.name: g.size for g in graph.groups if g.prunable}
        found = prune_in_turn(graph, counts, images(), by=by)  # type: ignore[arg-type]
        assert not found.repaired
        assert not found.mask
        for key, value in found.model.state_dict().items():
            assert torch.equal(value, graph.traced.state_dict()[key])


@pytest.mark.parametrize("by", RANKINGS)
def test_one_of_two_copies_leaves_at_no_loss(by: str) -> None:
    model = seeded(NETS["plain"])
    first = model.get_submodule("0")
    with torch.no_grad():
        first.weight[3], first.bias[3] = first.weight[5], first.bias[5]
    graph = analyzed(model)
    found = prune_in_turn(graph, {"0": 7}, images(), by=by, ridge=1e-12, sampling=ALL)  # type: ignore[arg-type]
    if by != "lasso":  # which may as well shrink both factors
        assert int(found.mask["0"][[3, 5]].sum()) == 1
        x = images()[0]
        torch.testing.assert_close(found.model(x), graph.traced(x), rtol=1e-6, atol=1e-6)


def patches(x: Tensor) -> Tensor:
    return F.unfold(x, 3).transpose(1, 2).flatten(0, 1).detach()


def test_inputs_are_the_smaller_models_and_targets_the_larger_ones() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3)
        )
    )
    graph = analyzed(model)
    found = prune_in_turn(graph, {"0": 4, "2": 3}, images(), by="obs", ridge=1e-13, sampling=ALL)
    x = torch.cat(images())
    kept = found.mask["0"]
    # The first layer to choose reads what both models read; brute force says which it drops.
    rows, second = patches(torch.relu(model[0](x))), model[2].weight.detach().flatten(1)
    channels = torch.arange(6).repeat_interleave(9)
    gone: list[int] = []
    for _ in range(2):
        costs = {
            c: share_missed(rows, second, ~torch.isin(channels, torch.tensor([*gone, c])))
            for c in range(6)
            if c not in gone
        }
        gone.append(min(costs, key=costs.__getitem__))
    assert (~kept).nonzero().flatten().tolist() == sorted(gone)
    # The next one fits what the larger model makes of its own inputs.
    one, two, last = (found.model.get_submodule(name) for name in "024")
    given = patches(torch.relu(two(torch.relu(one(x)))))
    given = torch.cat([given, torch.ones(len(given), 1)], 1)
    target = model(x).movedim(1, -1).flatten(0, 2).detach()
    solved = torch.linalg.lstsq(given, target).solution
    torch.testing.assert_close(last.weight.detach().flatten(1), solved[:27].mT)
    torch.testing.assert_close(last.bias.detach(), solved[27])


class Selecting(Blocks):
    """Blocks with a norm at the start of each branch, as before activations."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.BatchNorm2d(5), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b1(torch.relu(self.a1(torch.relu(self.n1(x)))))
        return self.head(x + self.b2(torch.relu(self.a2(torch.relu(self.n2(x))))))


def test_a_branch_selects_channels_and_its_shortcut_stays() -> None:
    traced = sg.with_selections(sg.trace(Selecting().double().eval(), images(1)[0][:2]))
    graph = sg.analyze(traced)
    found = prune_in_turn(graph, {"n1[in]": 2, "n2[in]": 3}, images())
    slim, x = found.model, images()[0]
    assert slim.get_submodule("a1").in_channels == 2
    assert slim.get_submodule("a2").in_channels == 3
    assert torch.equal(slim.get_submodule("stem")(x), traced.get_submodule("stem")(x))
    changed = {layer.layer for layer in found.repaired}
    assert "stem.weight" not in changed
    assert {"a1.weight", "a2.weight"} <= changed


def test_masks_say_how_many_and_what_cannot_be_is_refused() -> None:
    graph = analyzed(seeded(NETS["plain"]))
    found = prune_in_turn(graph, {"0": torch.arange(8) < 5}, images())
    assert int(found.mask["0"].sum()) == 5
    for count in (0, 9):
        with pytest.raises(BudgetError, match=f"{count} channels of group `0` cannot stay"):
            prune_in_turn(graph, {"0": count}, images())
    with pytest.raises(UnknownGroupError):
        prune_in_turn(graph, {"zero": 3}, images())
    with pytest.raises(sg.SlimgraphError, match="gone through only once"):
        prune_in_turn(graph, {"0": 3}, iter(images()))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 2, 1))
    with pytest.raises(BudgetError, match="no convolution or linear layer reads group `0`"):
        prune_in_turn(analyzed(pooled), {"0": 3}, images())
