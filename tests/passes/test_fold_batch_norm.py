import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimgraph.pass_manager import Pipeline
from slimgraph.passes.fold_batch_norm import FoldBatchNorm
from slimgraph.tracing import trace
from tests.passes.contract import (
    assert_leaves_alone,
    assert_rewrites,
    assert_same_outputs,
    operations,
    traced,
)

FOLD = FoldBatchNorm()
LINE, IMAGE, VOLUME = (torch.rand(2, 4, *[5] * n, dtype=torch.float64) for n in (1, 2, 3))


class Pair(nn.Module):
    """A contraction and a norm behind it."""

    def __init__(self, first: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)).relu()


PAIRS = [
    (nn.Linear(4, 6), nn.BatchNorm1d(6), torch.rand(3, 4, dtype=torch.float64)),
    (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), LINE),
    (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), IMAGE),
    (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, eps=0.1), IMAGE),
    (nn.Conv2d(4, 8, 3, groups=4, stride=2), nn.BatchNorm2d(8, momentum=None), IMAGE),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), IMAGE),
    (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), IMAGE),
    (nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6), VOLUME),
    (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), LINE),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6), IMAGE),
    (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), IMAGE),
    (nn.ConvTranspose3d(4, 8, 2, groups=4), nn.BatchNorm3d(8), VOLUME),
]


@pytest.mark.parametrize(("first", "norm", "x"), PAIRS, ids=lambda value: str(value)[:60])
def test_a_norm_is_folded_into_what_is_before_it(
    first: nn.Module, norm: nn.Module, x: Tensor
) -> None:
    before = traced(Pair(first, norm), x)
    after = assert_rewrites(FOLD, before, x)
    assert operations(after) == ["first", "relu"]
    assert FOLD.rewrite(before).removed == 1
    assert "first.bias" in after.state_dict()
    assert list(after.state_dict())[:1] == ["first.weight"]


class Functional(nn.Module):
    """Convolution and norm as functions, arguments by position or by name."""

    def __init__(self, *, bias: bool, named: bool) -> None:
        super().__init__()
        self.named = named
        self.conv = nn.Conv2d(4, 6, 3, groups=2, bias=bias)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        c, n = self.conv, self.norm
        if self.named:
            x = functional.conv2d(input=x, weight=c.weight, bias=c.bias, groups=2)
            return functional.batch_norm(
                x, n.running_mean, running_var=n.running_var, weight=n.weight, bias=n.bias
            )
        x = functional.conv2d(x, c.weight, c.bias, 1, 0, 1, 2)
        stats = n.running_mean, n.running_var
        return functional.batch_norm(x, *stats, n.weight, n.bias, self.training, 0.1, 1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_functions_on_parameters_are_folded(bias: bool, named: bool) -> None:
    before = traced(Functional(bias=bias, named=named).eval(), IMAGE)
    after = assert_rewrites(FOLD, before, IMAGE)
    assert [name for name in operations(after) if name != "training_mode"] == ["conv2d"]
    assert "conv.bias" in after.state_dict()


def test_a_functional_convolution_without_a_module_gets_a_bias_beside_its_weight() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.rand(6, 4, 3, 3))
            self.bias = nn.Parameter(torch.rand(6, 1, 1))
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(functional.conv2d(x, self.kernel)) + self.bias

    before = traced(Bare(), IMAGE)
    after = assert_rewrites(FOLD, before, IMAGE)
    assert after.get_parameter("folded_bias_1").shape == (6,)
    assert torch.equal(after.get_parameter("bias"), before.get_parameter("bias"))


def test_an_exported_program_is_folded() -> None:
    model = Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).double().eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (IMAGE,), dynamic_shapes=({0: batch},))
    before = trace(exported.module(), IMAGE)
    after = assert_rewrites(FOLD, before, IMAGE)
    assert not [name for name in operations(after) if "batch_norm" in name]


def test_norms_in_a_row_are_all_folded() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6))
    before = traced(model, IMAGE)
    after = assert_rewrites(FOLD, before, IMAGE)
    assert operations(after) == ["0"]
    assert FOLD.rewrite(before).removed == 2


def test_weights_keep_dtype_and_requires_grad() -> None:
    before = traced(Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGE).half()
    before.get_parameter("first.weight").requires_grad_(requires_grad=False)
    after = FOLD.rewrite(before).graph_module
    assert after.get_parameter("first.weight").dtype == torch.float16
    assert not after.get_parameter("first.weight").requires_grad
    assert after.get_parameter("first.bias").requires_grad


def test_the_folded_model_still_trains() -> None:
    after = FOLD.rewrite(traced(Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGE)).graph_module
    after(IMAGE).sum().backward()
    gradient = after.get_parameter("first.bias").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_norm_in_training_mode_stays() -> None:
    graph_module = traced(Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGE)
    assert_leaves_alone(FOLD, graph_module.train())


def test_a_norm_without_statistics_stays() -> None:
    norm = nn.BatchNorm2d(6, track_running_stats=False)
    assert_leaves_alone(FOLD, traced(Pair(nn.Conv2d(4, 6, 3), norm), IMAGE))


def test_a_functional_norm_in_training_stays() -> None:
    class Training(Functional):
        def forward(self, x: Tensor) -> Tensor:
            x = functional.conv2d(x, self.conv.weight, self.conv.bias, groups=2)
            n = self.norm
            return functional.batch_norm(x, n.running_mean, n.running_var, training=True)

    assert_leaves_alone(FOLD, traced(Training(bias=True, named=True), IMAGE))


class TwoReaders(nn.Module):
    """Somebody else needs the convolution's own value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class SharedModule(nn.Module):
    """The convolution is called a second time, without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(x)


class SharedWeight(nn.Module):
    """The convolution's weight is also read as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.conv.weight.sum()


class TiedModules(nn.Module):
    """Two convolutions hold the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.one(x)) + self.two(x)


class ComputedWeight(nn.Module):
    """The weight is the result of another operation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.conv2d(x, self.conv.weight.tanh()))


class ActivationBetween(nn.Module):
    """The norm reads something else than the convolution's value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).relu())


OTHERS = [TwoReaders, SharedModule, SharedWeight, TiedModules, ComputedWeight, ActivationBetween]


@pytest.mark.parametrize("kind", OTHERS)
def test_what_somebody_else_uses_stays(kind: type[nn.Module]) -> None:
    assert_leaves_alone(FOLD, traced(kind(), IMAGE))


def test_a_norm_over_another_dim_than_the_linear_layer_writes_stays() -> None:
    model = Pair(nn.Linear(4, 4), nn.BatchNorm1d(4))  # (N, L, C): the norm reads L
    assert_leaves_alone(FOLD, traced(model, torch.rand(2, 4, 4, dtype=torch.float64)))


def test_without_shapes_only_norms_that_accept_one_rank_are_folded() -> None:
    linear = torch.fx.symbolic_trace(Pair(nn.Linear(4, 6), nn.BatchNorm1d(6)).eval())
    assert_leaves_alone(FOLD, linear)
    image = torch.fx.symbolic_trace(Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).double().eval())
    assert_same_outputs(image, Pipeline((FOLD,), debug=True).run(image), (IMAGE,))


@pytest.mark.parametrize("name", ["first", "norm"])
def test_what_a_hook_changes_stays(name: str) -> None:
    graph_module = traced(Pair(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), IMAGE)
    graph_module.get_submodule(name).register_forward_hook(lambda *values: 2 * values[-1])
    assert_leaves_alone(FOLD, graph_module)


def test_reparametrised_weights_stay() -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    assert_leaves_alone(FOLD, traced(Pair(conv, nn.BatchNorm2d(6)), IMAGE))
