"""What went wrong in other tools, each as a test of ours; docs/peers.md lists them all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import PlanError
from slimgraph.slicing import slice_tensor
from tests.assertions import assert_same_output, random_mask, run
from tests.nets.base import Net, bare, conv, randomized

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.double)


class Small(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "norm": nn.BatchNorm2d(8), "mid": conv(8, 6),
            "head": nn.Linear(6, 10),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(torch.relu(self.norm(self.stem(x))))
        return self.head(torch.relu(x).mean((2, 3)))


class Variational(Net):
    """A variational autoencoder: it draws while it trains."""

    def parts(self) -> dict[str, Any]:
        return {"encode": nn.Linear(6, 8), "both": nn.Linear(8, 8), "decode": nn.Linear(4, 6)}

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.both(torch.relu(self.encode(x))).chunk(2, dim=-1)
        if self.training:
            mean = mean + torch.randn_like(spread) * torch.exp(0.5 * spread)
        return self.decode(mean)


class Dense(nn.Module):
    """A dense block: every layer reads all earlier ones."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 + 4 * i, 4, 1) for i in range(depth))
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4 + 4 * depth, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(torch.relu(layer(torch.cat(found, 1))))
        return self.head(torch.cat(found, 1))


class Normed(Net):
    """A norm that counts its own numbers, behind one that counts channels."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Linear(6, 8), "norm": nn.LayerNorm(8), "shift": bare(8),
            "head": nn.Linear(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x)) + self.shift))


def test_the_numbers_of_a_layer_norm_stay_with_their_channels() -> None:
    graph = sg.analyze(sg.trace(randomized(Normed()), torch.randn(2, 6, dtype=torch.double)))
    slim = sg.compress(graph, {"stem": [1, 0, 1, 1, 0, 1, 0, 1]})
    before, after = graph.traced.state_dict(), slim.state_dict()
    for name in ("stem.weight", "norm.weight", "norm.bias", "shift"):
        assert torch.equal(after[name], before[name][[0, 2, 3, 5, 7]]), name


def test_no_class_is_lost_that_nobody_protected() -> None:
    result = sg.slim(randomized(Small()), IMAGES, channels=0.3, criterion="l1")
    assert result.model.head.weight.shape[0] == 10
    assert run(result.model, IMAGES).shape == (2, 10)


@pytest.mark.parametrize("multiple", [2, 4])
def test_rounding_brings_channels_back_and_removes_none(multiple: int) -> None:
    model = randomized(Small())
    plain = sg.slim(model, IMAGES, channels=0.7, criterion="l1").mask
    rounded = sg.slim(model, IMAGES, channels=0.7, criterion="l1", round_to=multiple).mask
    for name, kept in rounded.items():
        count = int(kept.sum())
        assert count % multiple == 0 or count == len(kept)
        assert name not in plain or count >= int(plain[name].sum()) // multiple * multiple


def test_one_run_leaves_no_settings_to_the_next() -> None:
    model = randomized(Small())
    alone = sg.slim(model, IMAGES, channels=0.6, criterion="l1").mask
    sg.slim(model, IMAGES, channels=0.8, criterion="l2", keep=["stem"], round_to=2)
    sg.analyze(sg.trace(model, IMAGES), freeze=["mid"])
    again = sg.slim(model, IMAGES, channels=0.6, criterion="l1").mask
    assert alone.keys() == again.keys()
    assert all(torch.equal(alone[name], again[name]) for name in alone)


def test_the_model_that_is_slimmed_keeps_mode_gradients_and_numbers() -> None:
    model = randomized(Small()).train()
    model.mid.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = sg.slim(model, IMAGES, channels=0.6, criterion="l1")
    assert all(module.training for module in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["mid.weight"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in result.model.modules())


def test_positions_that_come_twice_are_no_plan() -> None:
    plan = sg.slim(randomized(Small()), IMAGES, channels=0.6, criterion="l1").plan
    payload, tensors = plan.to_payload()
    tensors["stem.weight[0]"] = torch.zeros_like(tensors["stem.weight[0]"])
    with pytest.raises(PlanError, match="do not fit its shape"):
        sg.Plan.from_payload(payload, tensors)


def test_a_history_of_plans_is_one_plan_of_positive_widths() -> None:
    model = randomized(Small())
    slim, before = sg.trace(model, IMAGES), model.state_dict()
    for seed in range(4):
        slim = sg.compress(slim, random_mask(sg.analyze(slim), seed, 0.3))
    plan = vars(slim)["plan"]
    for name, tensor in slim.state_dict().items():
        assert min(tensor.shape, default=1) > 0
        assert torch.equal(slice_tensor(before[name], plan.kept.get(name, ())), tensor)
    assert_same_output(slim, plan.apply(randomized(Small())), IMAGES)


def test_nothing_removed_is_said_and_seen() -> None:
    model = randomized(Small()).requires_grad_(False)
    with torch.no_grad():
        result = sg.slim(model, IMAGES, channels=0.6, criterion="l1")
        nothing = sg.slim(model, IMAGES)
    assert len(result.plan.kept) > 0
    totals = nothing.report["totals"]
    assert totals["before"] == totals["after"]
    assert not nothing.plan.kept
    assert len(nothing.mask) == 0


def test_macs_fall_with_the_channels() -> None:
    result = sg.slim(randomized(Small()), IMAGES, macs=0.5, criterion="l1")
    totals = result.report["totals"]
    assert totals["after"]["macs"] <= 0.5 * totals["before"]["macs"]
    counted = sum(p.numel() for p in result.model.parameters())
    assert counted == totals["after"]["params"] < totals["before"]["params"]


def test_a_variational_autoencoder_draws_as_many_numbers_as_it_has_left() -> None:
    inputs = torch.randn(2, 6, dtype=torch.double)
    graph = sg.analyze(sg.trace(randomized(Variational()), inputs))
    mask = {"both": [1, 0, 1, 1] * 2, "encode": [1, 1, 0, 0, 1, 1, 0, 1]}
    slim = sg.compress(graph, mask)
    assert_same_output(sg.masked(graph, mask), slim, inputs)
    assert slim.decode.weight.shape[1] == 3
    assert slim.train()(inputs).shape == (2, 6)


def test_a_dense_block_costs_no_more_labels_than_it_has_channels() -> None:
    def size(depth: int) -> int:
        traced = sg.trace(Dense(depth), torch.randn(1, 3, 4, 4))
        ledger = sg.analyze(traced).ledger
        return ledger.size + sum(len(edge.left) for edge in ledger.edges)

    assert size(40) <= 2.2 * size(20)


def test_every_process_makes_the_same_plan() -> None:
    one, two = (
        sg.slim(randomized(Small()), IMAGES, channels=0.5, criterion="l1").plan for _ in range(2)
    )
    assert one.to_payload()[0] == two.to_payload()[0]
    pairs = zip(one.to_payload()[1].values(), two.to_payload()[1].values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_a_kept_layer_keeps_what_it_makes_while_its_inputs_may_leave() -> None:
    result = sg.slim(randomized(Small()), IMAGES, channels=0.6, criterion="l1", keep=["mid"])
    assert result.model.mid.weight.shape[0] == 6
    assert result.model.mid.weight.shape[1] < 8
