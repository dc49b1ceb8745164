import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimgraph.passes.eliminate_identity import EliminateIdentity
from slimgraph.tracing import trace
from tests.passes.contract import assert_leaves_alone, assert_rewrites, operations, traced

ELIMINATE = EliminateIdentity()
X = torch.rand(2, 4, dtype=torch.float64)


class Layer(nn.Module):
    """A linear layer and something behind it."""

    def __init__(self, then: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear(x)).relu()


class Call(nn.Module):
    """A function as a module that tracing looks into."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ViewOwnShape(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape)


class ReshapeOwnSize(Call):
    def forward(self, x: Tensor) -> Tensor:
        return torch.reshape(x, x.size())


class FlattenOneDim(Call):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


class PermuteInOrder(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 1)


class DropoutOff(Call):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=self.training)


class DropoutNever(Call):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, p=0, training=True)


IDENTITIES = [
    *(nn.Identity(), nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Flatten()),
    *(ViewOwnShape(), ReshapeOwnSize(), FlattenOneDim(), PermuteInOrder()),
    *(DropoutOff(), DropoutNever()),
]


@pytest.mark.parametrize("then", IDENTITIES, ids=lambda then: type(then).__name__)
def test_a_node_that_returns_its_input_goes(then: nn.Module) -> None:
    before = traced(Layer(then), X)
    after = assert_rewrites(ELIMINATE, before, X)
    left = [name for name in operations(after) if name not in ("getattr", "size")]
    assert left == ["linear", "relu"]
    assert ELIMINATE.rewrite(before).removed == 1


class ViewWithNumbers(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 4)


class ViewOtherShape(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.t().reshape(x.shape)


class Swap(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(1, 0)


class FlattenAll(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()


class Copy(Call):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous().clone()


class Drop(Call):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5)


OTHERS = [ViewWithNumbers(), ViewOtherShape(), Swap(), FlattenAll(), Copy(), Drop()]


@pytest.mark.parametrize("then", OTHERS, ids=lambda then: type(then).__name__)
def test_what_is_no_identity_for_every_batch_stays(then: nn.Module) -> None:
    assert_leaves_alone(ELIMINATE, traced(Layer(then), X))


def test_dropout_in_training_stays() -> None:
    assert_leaves_alone(ELIMINATE, traced(Layer(nn.Dropout(0.5)), X).train())
    assert_rewrites(ELIMINATE, traced(Layer(nn.Dropout(0.0)), X).train(), X)


def test_a_subclass_of_identity_stays() -> None:
    class Doubled(nn.Identity):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * input

    graph_module = trace(Layer(Doubled()).double(), X, leaves=["then"])
    assert_leaves_alone(ELIMINATE, graph_module)


def test_what_a_hook_changes_stays() -> None:
    graph_module = traced(Layer(nn.Identity()), X)
    graph_module.then.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    assert_leaves_alone(ELIMINATE, graph_module)


def test_an_identity_between_input_and_output_goes() -> None:
    after = assert_rewrites(ELIMINATE, traced(nn.Sequential(nn.Identity(), nn.Dropout()), X), X)
    assert operations(after) == []


def test_flatten_of_unknown_rank_stays() -> None:
    graph_module = torch.fx.symbolic_trace(nn.Sequential(nn.Flatten()))
    assert_leaves_alone(ELIMINATE, graph_module)


def test_in_place_operations_still_reach_the_same_tensor() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.drop = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            self.drop(x).mul_(2)
            return x

    assert_rewrites(ELIMINATE, traced(InPlace(), X), X)
