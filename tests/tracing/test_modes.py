"""A traced model follows `train()` and `eval()`, though it is traced in eval mode."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.parity import compare
from slimgraph.passes.eliminate_identity import EliminateIdentity
from tests.assertions import TOLERANCE, random_mask, run
from tests.nets.base import Net, block, conv, randomized

X = torch.randn(4, 3, 6, 6, dtype=torch.double)


class DropPath(nn.Module):
    """Drops whole examples in training; its mode decides in Python."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)


class CoinPath(nn.Module):
    """Looks at a random number in training, which no trace can."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training and bool(torch.rand(()) < 2) else x


class Paths(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 8), "mid": conv(8, 8), "path": DropPath(), "coin": CoinPath(),
            "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(y + self.coin(self.path(self.mid(y))))


class Dropouts(Net):
    """Passes its mode on, or computes with it."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 8), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.stem(x), 0.3, self.training)
        x = F.dropout2d(self.mid(x), p=0.3, training=self.training)
        x = F.rrelu(torch.dropout(x, 0.3, self.training), training=self.training)
        return self.head(F.dropout(x, 0.6 * self.training))


class OwnNorm(nn.BatchNorm2d):
    """A batch norm as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        by_batch = True if self.training else self.running_mean is None
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, by_batch, 0.1, 1e-3
        )


class Attention(Net):
    """Chooses numbers by its mode."""

    def parts(self) -> dict[str, Any]:
        return {"norm": OwnNorm(8), "qkv": conv(8, 24, 1)}

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        dropout = 0.4 if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return mixed.transpose(1, 2).view_as(x)


class Numbers(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "attention": Attention(), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.stem(x)))


class Heads(Net):
    """torch's own attention, with and without its weights."""

    def parts(self) -> dict[str, Any]:
        options: dict[str, Any] = {"dropout": 0.5, "batch_first": True}
        return {
            "stem": conv(3, 8), "one": nn.MultiheadAttention(8, 2, **options),
            "two": nn.MultiheadAttention(8, 2, **options), "head": nn.Linear(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.one(x, x, x, need_weights=False)[0]
        return self.head(self.two(x, x, x)[0])


class Branches(Net):
    """Drops in branches of its own, in the middle and at the end of a submodule."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": Dropped(), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if self.training:
            x = F.dropout2d(F.dropout(x, 0.3), p=0.2, training=True)
        return self.head(x + self.mid(x))


class Dropped(Net):
    def parts(self) -> dict[str, Any]:
        return {"conv": conv(8, 8)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.dropout(x, 0.4) if self.training else x


NETS = (Paths, Dropouts, Numbers, Heads, Branches)


def in_training(model: nn.Module, x: Tensor) -> Tensor:
    """Run a copy in train mode, which moves statistics, always with the same random numbers."""
    torch.manual_seed(3)
    return run(deepcopy(model).train(), x)


@pytest.mark.parametrize("make", NETS)
def test_a_traced_model_follows_both_modes(make: type[Net]) -> None:
    model = randomized(make())
    traced = sg.trace(model, X, fallback=False)
    assert traced.meta["rung"] == 1
    assert traced.meta["unfollowed"] == []
    assert traced.state_dict().keys() <= model.state_dict().keys()
    expected = run(model, X)
    torch.testing.assert_close(run(traced, X), expected, rtol=1e-12, atol=1e-12)
    dropped = in_training(model, X)
    assert (dropped - expected).abs().max() > 0.01
    torch.testing.assert_close(in_training(traced, X), dropped, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(traced.train().eval(), X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", NETS)
def test_a_slim_model_drops_in_training_and_is_exact_in_eval(make: type[Net]) -> None:
    graph = sg.analyze(sg.trace(randomized(make()), X))
    mask = random_mask(graph, 0)
    assert len(mask)
    slim, masked = sg.compress(graph, mask), sg.masked(graph, mask)
    assert max(p.max_rel for p in compare(run(masked, X), run(slim, X))) < TOLERANCE
    expected, dropped = run(slim, X), in_training(slim, X)
    assert (dropped - expected).abs().max() > 0.01
    assert torch.equal(in_training(slim, X), dropped)
    assert torch.equal(run(slim.train().eval(), X), expected)


def test_a_part_in_eval_mode_stays_in_it() -> None:
    model = randomized(Numbers()).train()
    model.attention.eval()
    traced = sg.trace(model, X)
    assert traced.training
    torch.testing.assert_close(run(traced, X), run(model.eval(), X), rtol=1e-12, atol=1e-12)


class Branch(nn.Module):
    """Computes other things in training."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[0])
        return (x * self.scale).flip(0).cumsum(0) if self.training else x * self.scale


class Other(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "branch": Branch(), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.branch(self.stem(x)))


def test_what_does_not_follow_is_named() -> None:
    model = randomized(Other())
    traced = sg.trace(model, X)
    assert traced.meta["unfollowed"] == ["branch"]
    assert torch.equal(in_training(traced, X), run(model, X))


def test_a_list_that_forward_fills_is_filled_once() -> None:
    model = randomized(Other())
    sg.trace(model, X)
    assert len(model.branch.seen) == 1


@pytest.mark.parametrize("make", NETS)
def test_modes_cost_nothing_where_they_are_settled(make: type[Net]) -> None:
    traced = sg.trace(randomized(make()), X)
    settled = EliminateIdentity().rewrite(traced).graph_module
    assert not [n for n in settled.graph.nodes if "training_mode" in str(n.target)]
    assert torch.equal(run(settled, X), run(traced, X))
    assert EliminateIdentity().rewrite(traced.train()).graph_module is not None


@pytest.mark.parametrize("make", [Dropouts, Numbers, Heads])
def test_a_saved_model_follows_both_modes(make: type[Net], tmp_path: Path) -> None:
    traced = sg.trace(randomized(make()), X)
    sg.save(traced, tmp_path / "model.slim")
    loaded = sg.load(tmp_path / "model.slim")
    assert torch.equal(run(loaded, X), run(traced, X))
    assert torch.equal(in_training(loaded, X), in_training(traced, X))


def test_own_modules_that_act_in_training_are_saved_with_a_warning(tmp_path: Path) -> None:
    traced = sg.trace(randomized(Paths()), X)
    with pytest.warns(UserWarning, match="`(path|coin)` acts in training only") as caught:
        sg.save(traced, tmp_path / "model.slim")
    assert len(caught) == 2
    loaded = sg.load(tmp_path / "model.slim")
    assert torch.equal(run(loaded, X), run(traced, X))


def test_stochastic_depth_of_torchvision_and_timm_survives_saving(tmp_path: Path) -> None:
    ops, layers = pytest.importorskip("torchvision.ops"), pytest.importorskip("timm.layers")
    model = Paths()
    model.path, model.coin = ops.StochasticDepth(0.5, "row"), layers.DropPath(0.5)
    model = randomized(model)
    traced = sg.trace(model, X)
    sg.save(traced, tmp_path / "model.slim")
    loaded = sg.load(tmp_path / "model.slim")
    assert torch.equal(run(loaded, X), run(model, X))
    assert torch.equal(in_training(loaded, X), in_training(model, X))


def test_a_plan_is_applied_to_a_class_that_has_modes() -> None:
    for make in (Paths, Dropouts):
        graph = sg.analyze(sg.trace(randomized(make()), X))
        slim = sg.compress(graph, random_mask(graph, 0))
        small = slim.plan.apply(randomized(make()))
        assert torch.equal(run(small, X), run(slim, X))
        assert torch.equal(in_training(small, X), in_training(slim, X))
