"""Channels whose scale is zero and whose shift is not: a smaller model computes the very same.

The references are plain copies of the user's models, switched off by hand.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import slimgraph as sg
from slimgraph.errors import BudgetError, MaskError, VaryingChannelError
from tests.assertions import assert_same_output
from tests.nets.base import conv, randomized

Activation = Callable[[Tensor], Tensor]


class Layer(nn.Sequential):
    """Padded convolution, BatchNorm, activation."""

    def __init__(self, ins: int, outs: int, activation: nn.Module) -> None:
        super().__init__(conv(ins, outs, bias=False), nn.BatchNorm2d(outs), activation)


class Vgg(nn.Module):
    """Plain layers, pooling with padding that does not count, a linear head."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.b = Layer(3, 8, activation), Layer(8, 6, activation)
        self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.c, self.head = Layer(6, 5, activation), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.b(self.a(x)), 3, stride=2, padding=1)
        return self.head(self.c(self.pool(x)).mean((2, 3)))


class Residual(nn.Module):
    """Two producers of every channel, and the sum of two constants."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.b = Layer(3, 8, activation), Layer(8, 6, activation)
        self.c = nn.Sequential(conv(6, 8, bias=False), nn.BatchNorm2d(8))
        self.activation, self.head = activation, conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(self.activation(x + self.c(self.b(x))))


class Concat(nn.Module):
    """Branches side by side, then a grouped and a transposed convolution."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.b = Layer(3, 4, activation), Layer(3, 4, activation)
        self.c = nn.Sequential(conv(8, 4, groups=2), nn.BatchNorm2d(4), activation)
        self.head = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(torch.cat([self.a(x), self.b(x)], 1)))


class SqueezeExcite(nn.Module):
    """A depth-wise layer, and a gate that makes the same channels."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a = Layer(3, 8, activation)
        self.b = nn.Sequential(conv(8, 8, groups=8, bias=False), nn.BatchNorm2d(8), activation)
        self.down, self.up, self.head = nn.Linear(8, 4), nn.Linear(4, 8), conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        return self.head(x * gate[:, :, None, None])


# Which channels leave, and every scale that makes them.
NETS: dict[str, tuple[Callable[[nn.Module], nn.Module], dict[str, list[int]], dict[str, str]]] = {
    "vgg": (Vgg, {"a.0": [1, 5, 6], "b.0": [0], "c.0": [2, 3]},
            {"a.0": "a.1", "b.0": "b.1", "c.0": "c.1"}),
    "residual": (Residual, {"a.0": [0, 3], "b.0": [5]}, {"a.0": "a.1 c.1", "b.0": "b.1"}),
    "concat": (Concat, {"a.0": [2], "b.0": [0], "c.0": [1, 3]},
               {"a.0": "a.1", "b.0": "b.1", "c.0": "c.1"}),
    "squeeze and excite": (SqueezeExcite, {"a.0": [0, 4, 7], "down": [1]},
                           {"a.0": "a.1 b.1 up", "down": "down"}),
}  # fmt: skip


def switched_off(
    model: nn.Module, leave: dict[str, list[int]], scales: dict[str, str]
) -> nn.Module:
    """Copy a model with scales at zero."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, channels in leave.items():
            for module in scales[name].split():
                result.get_parameter(f"{module}.weight")[channels] = 0
    return result


def keep(model: nn.Module, leave: dict[str, list[int]]) -> dict[str, Tensor]:
    """Make the mask under which those channels leave."""
    masks = {}
    for name, channels in leave.items():
        masks[name] = torch.ones(len(model.get_parameter(f"{name}.weight")), dtype=torch.bool)
        masks[name][channels] = False
    return masks


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus()])
@pytest.mark.parametrize("name", NETS)
def test_the_smaller_model_computes_what_is_left_when_scales_are_zero(
    name: str, activation: nn.Module
) -> None:
    make, leave, scales = NETS[name]
    model = randomized(make(activation))
    reference = switched_off(model, leave, scales)
    x = torch.randn(2, 3, 12, 12, dtype=torch.double)
    traced, mask = sg.trace(model, x), keep(model, leave)
    slim = sg.compress(traced, mask, constants="keep")
    lossless = sg.slim(reference, x)
    removed = sum(len(channels) for channels in leave.values())
    assert sum(int((~entry).sum()) for entry in lossless.mask.values()) == removed
    for batch, size in ((2, 12), (1, 9), (3, 17)):
        x = torch.randn(batch, 3, size, size, dtype=torch.double)
        assert_same_output(reference, slim, x)
        assert_same_output(reference, lossless.model, x)
        assert_same_output(reference, sg.masked(traced, mask, constants="keep"), x)


@pytest.mark.parametrize("amount", [1, 3])
def test_filters_pruned_by_torch_leave_though_their_bias_stays(amount: int) -> None:
    model = randomized(nn.Sequential(conv(3, 8), nn.GELU(), conv(8, 6), nn.ReLU(), conv(6, 2)))
    prune.ln_structured(model[0], "weight", amount, n=2, dim=0)
    prune.ln_structured(model[2], "weight", amount, n=1, dim=0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    result = sg.slim(model, x)
    assert result.model.get_submodule("0").weight.shape[0] == 8 - amount
    assert result.model.get_submodule("2").weight.shape[:2] == (6 - amount, 8 - amount)
    for size in (8, 11):
        assert_same_output(model, result.model, torch.randn(1, 3, size, size, dtype=torch.double))


def test_an_unpadded_consumer_takes_constants_into_its_bias() -> None:
    model = randomized(nn.Sequential(conv(3, 8), nn.Sigmoid(), nn.Conv2d(8, 4, 3, bias=False)))
    x = torch.randn(1, 3, 8, 8, dtype=torch.double)
    slim = sg.compress(sg.trace(model, x), {"0": [1] * 7 + [0]}, constants="keep")
    assert [node.name for node in slim.graph.nodes] == ["input_1", "_0", "_1", "_2", "output"]
    weights, bias = model[2].weight[:, 7].sum((1, 2)), model[0].bias[7]
    torch.testing.assert_close(slim.get_parameter("2.bias"), torch.sigmoid(bias) * weights)
    assert slim.plan.shifts.keys() == {"2.bias"}


def test_without_constants_the_model_is_that_of_the_other_meaning() -> None:
    model = randomized(nn.Sequential(conv(3, 8, bias=False), nn.ReLU(), conv(8, 2)))
    traced = sg.trace(model, torch.randn(1, 3, 8, 8, dtype=torch.double))
    one, other = (
        sg.compress(traced, {"0": [1] * 6 + [0] * 2}, constants=constants)
        for constants in ("keep", "zero")
    )
    assert str(one.graph) == str(other.graph)
    assert one.state_dict().keys() == other.state_dict().keys()


def test_a_padded_convolution_gets_one_carrier_however_many_constants_there_are() -> None:
    model = randomized(nn.Sequential(conv(3, 8), nn.Sigmoid(), conv(8, 4, groups=2)))
    traced = sg.trace(model, torch.randn(1, 3, 8, 8, dtype=torch.double))
    slim = sg.compress(traced, {"0": [1, 0, 0, 1, 0, 1, 1, 0]}, constants="keep")
    added = set(slim.state_dict()) - set(traced.state_dict())
    assert {name: tuple(slim.get_parameter(name).shape) for name in added} == {
        "carrier__2": (4, 1, 3, 3)
    }


class Shared(nn.Module):
    """One convolution without padding, called on constants that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = conv(3, 8), conv(3, 8), nn.Conv2d(8, 4, 1)
        self.line, self.head = nn.Linear(4, 4), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.both(torch.sigmoid(self.a(x))), self.both(F.gelu(self.b(x)))
        return self.head(self.line(self.line(one.mean((2, 3))))[:, :, None, None] * two)


def test_a_module_called_twice_gets_each_call_its_own_constants() -> None:
    model = randomized(Shared())
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    traced, mask = sg.trace(model, x), {"a": [1, 0, 1, 1, 1, 0, 1, 1]}
    slim = sg.compress(traced, mask, constants="keep")
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for module in (reference.a, reference.b):
            module.weight[[1, 5]] = 0
    assert_same_output(reference, slim, x)
    assert not slim.plan.shifts
    assert len(slim.plan.carriers) == 2


class Pooled(nn.Module):
    """Zeros around an image are counted into its means."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(torch.sigmoid(self.a(x)), 3, 1, padding=1))


def test_a_constant_that_padding_changes_on_the_way_is_refused() -> None:
    traced = sg.trace(Pooled(), torch.randn(1, 3, 8, 8))
    mask = {"a": [1, 1, 0, 1, 1, 1, 1, 1]}
    with pytest.raises(VaryingChannelError, match=r"channel 2 of group `a`.*`%head`") as caught:
        sg.compress(traced, mask, constants="keep")
    line = Pooled.forward.__code__.co_firstlineno + 1
    assert f"it stops being constant at %avg_pool2d (tests/keep/test_keep.py:{line})" in str(
        caught.value
    )
    assert "test_keep.py" in str(caught.value.where)
    assert 'constants="zero"' in str(caught.value.hint)
    sg.compress(traced, mask)


class Branches(nn.Module):
    """Some channels stay constant until they are read, others do not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)
        self.head = conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.norm(self.a(x)))
        return self.head(F.avg_pool2d(torch.relu(self.b(x)), 3, 1, padding=1))


def test_a_budget_spares_channels_that_do_not_stay_constant() -> None:
    model, said = randomized(Branches()), list[str]()
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    result = sg.slim(model, x, channels=0.6, constants="keep", progress=said.append)
    assert result.report["totals"]["after"]["channels"] <= 0.6 * 16
    spared = result.report["settings"]["spared"]
    assert spared > 0
    assert f"spare {spared} channels that do not stay constant" in said
    reference = sg.masked(result.graph, result.mask, constants="keep")
    for size in (8, 11):
        assert_same_output(reference, result.model, torch.randn(2, 3, size, size).double())


def test_a_budget_that_only_varying_channels_could_meet_says_what_has_to_stay() -> None:
    with pytest.raises(BudgetError, match=r"at most \d+ channels may remain, but \d+ have to"):
        sg.slim(Pooled(), torch.randn(1, 3, 8, 8), channels=0.5, constants="keep")


def test_new_biases_and_carriers_join_the_optimizer() -> None:
    model = nn.Sequential(
        conv(3, 8), nn.Sigmoid(), nn.Conv2d(8, 6, 3, bias=False), nn.Sigmoid(),
        conv(6, 4, bias=False), nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    model = randomized(model)
    model[4].weight.requires_grad = False
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD([*groups, {"params": model[4].parameters()}], lr=0.2, momentum=0.9)
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    model(x).sum().backward()
    optimizer.step()
    mask = {"0": [1] * 6 + [0] * 2, "2": [1] * 5 + [0]}
    slim = sg.compress(sg.trace(model, x), mask, constants="keep", optimizer=optimizer)
    held = [list(map(id, group["params"])) for group in optimizer.param_groups]
    carrier = slim.get_parameter("carrier__4")
    assert held[1] == [id(slim.get_parameter(f"2.{name}")) for name in ("weight", "bias")]
    assert held[2] == [id(slim.get_parameter("4.weight")), id(carrier)]
    assert not carrier.requires_grad
    before = slim.get_parameter("2.bias").detach().clone()
    slim(x).sum().backward()
    optimizer.step()
    assert not torch.equal(before, slim.get_parameter("2.bias"))


def test_a_plan_lets_new_biases_join_the_optimizer() -> None:
    def make() -> nn.Module:
        return randomized(nn.Sequential(conv(3, 8), nn.Sigmoid(), nn.Conv2d(8, 4, 3, bias=False)))

    x = torch.randn(1, 3, 8, 8, dtype=torch.double)
    plan = sg.compress(sg.trace(make(), x), {"0": [1] * 7 + [0]}, constants="keep").plan
    model = make()
    optimizer = torch.optim.Adam(model.parameters())
    plan.apply(model, optimizer=optimizer)
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, model.parameters()))
    assert model[2].bias is not None


def test_a_constant_that_changes_on_the_way_is_not_dead() -> None:
    model = Pooled()
    with torch.no_grad():
        model.a.weight[2] = 0
    assert len(sg.slim(model, torch.randn(1, 3, 8, 8)).mask) == 0


def test_a_word_that_is_no_meaning_is_refused() -> None:
    traced = sg.trace(Pooled(), torch.randn(1, 3, 8, 8))
    for function in (sg.compress, sg.masked):
        with pytest.raises(MaskError, match="`constants` is 'drop'"):
            function(traced, {}, constants="drop")  # type: ignore[arg-type]
    with pytest.raises(MaskError, match="`constants` is 'drop'"):
        sg.slim(traced, constants="drop")  # type: ignore[arg-type]
