import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimgraph.passes.eliminate_dead_nodes import EliminateDeadNodes
from slimgraph.tracing import trace
from tests.passes.contract import assert_leaves_alone, assert_rewrites, operations, traced

ELIMINATE = EliminateDeadNodes()
X = torch.rand(2, 4, 5, 5, dtype=torch.float64)


class TwoHeads(nn.Module):
    """Only one of two heads is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Conv2d(4, 3, 3)
        self.aux = nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, _unread: Tensor) -> Tensor:
        self.aux(x).mean().abs()
        torch.zeros(x.shape[0])
        return self.main(x) * self.scale


def test_what_no_output_needs_goes() -> None:
    inputs = X, torch.rand(2, 3, dtype=torch.float64)
    before = traced(TwoHeads(), *inputs)
    before.unused = nn.ModuleDict({"a": nn.Linear(2, 2)})
    before.main.spare = nn.Parameter(torch.ones(1))  # its module is called: it may need it
    before.spare = nn.Parameter(torch.ones(1))
    before.register_buffer("old", torch.ones(1))
    after = assert_rewrites(ELIMINATE, before, *inputs)
    assert operations(after) == ["main", "mul"]
    assert list(after.state_dict()) == ["scale", "main.weight", "main.bias", "main.spare"]
    assert [node.op for node in after.graph.nodes][:2] == ["placeholder", "placeholder"]
    assert "aux.0.weight" in before.state_dict()
    assert ELIMINATE.rewrite(before).removed == 11


def test_nothing_dead_means_no_change() -> None:
    assert_leaves_alone(ELIMINATE, traced(nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU()), X))


class InPlace(nn.Module):
    """The values of these calls are never read, what they do is."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "method":
            x.view(-1).mul_(2)
        elif self.kind == "function":
            torch.relu_(x)
        elif self.kind == "flag":
            functional.relu(x, True)
        elif self.kind == "module":
            self.relu(x)
        else:
            torch.sin(x, out=x)
        return x


@pytest.mark.parametrize("kind", ["method", "function", "flag", "module", "out"])
def test_in_place_operations_stay(kind: str) -> None:
    graph_module = trace(InPlace(kind).double().eval(), X)
    left = operations(ELIMINATE.rewrite(graph_module).graph_module)
    assert left == operations(graph_module)
    assert len(left) > 1


@pytest.mark.parametrize(
    ("function", "arguments"), [(operator.iadd, (1,)), (operator.setitem, (0, 1.0)), (print, ())]
)
def test_calls_that_only_have_an_effect_stay(
    function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.cos, (x,))
    graph.call_function(function, (x, *arguments))
    graph.output(x)
    result = ELIMINATE.rewrite(torch.fx.GraphModule(nn.Module(), graph)).graph_module
    assert operations(result) == [function.__name__]


class DeadNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x)
        return x.relu()


def test_a_norm_that_updates_its_statistics_stays() -> None:
    graph_module = traced(DeadNorm(), X)
    assert_leaves_alone(ELIMINATE, graph_module.train())
    after = assert_rewrites(ELIMINATE, graph_module.eval(), X)
    assert not after.state_dict()


def test_a_functional_norm_that_updates_its_statistics_stays() -> None:
    class Norm(DeadNorm):
        def forward(self, x: Tensor) -> Tensor:
            functional.batch_norm(
                x, self.norm.running_mean, self.norm.running_var, None, None, self.update
            )
            return x.relu()

    for update in (True, False):
        model = Norm()
        model.update = update
        result = ELIMINATE.rewrite(trace(model.double(), X)).graph_module
        assert operations(result) == (["batch_norm"] if update else []) + ["relu"]


def test_exported_operations_keep_their_effects() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y.mul_(2)
            x.cos()
            return y

    program = torch.export.export(Model(), (X,))
    names = operations(ELIMINATE.rewrite(trace(program.module(), X)).graph_module)
    assert "mul_.Tensor" in names
    assert "cos.default" not in names


def test_modules_of_the_user_stay() -> None:
    class Counter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counter = Counter()

        def forward(self, x: Tensor) -> Tensor:
            self.counter(x)
            return x.relu()

    assert_leaves_alone(ELIMINATE, trace(Model(), X, leaves=["counter"]))


def test_a_module_with_a_hook_stays() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.conv(x)
            return x.relu()

    graph_module = traced(Model(), X)
    seen: list[object] = []
    graph_module.conv.register_forward_hook(lambda *values: seen.append(values[-1]))
    assert_leaves_alone(ELIMINATE, graph_module)


def test_a_module_with_a_called_and_an_uncalled_name_keeps_its_tensors() -> None:
    class Alias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv2d(4, 4, 1)
            self.decoder = self.encoder
            self.twin = self.encoder

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x) + self.decoder.weight.sum()

    graph_module = traced(Alias(), X)
    after = ELIMINATE.rewrite(graph_module).graph_module
    assert torch.equal(after(X), graph_module(X))
    assert after.encoder.bias is graph_module.encoder.bias


def test_parts_of_a_called_module_stay() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    x = torch.rand(2, 3, 4, dtype=torch.float64)
    before = traced(Model(), x)
    after = ELIMINATE.rewrite(before).graph_module
    assert list(after.state_dict()) == list(before.state_dict())
