"""Tracing: what it follows, what it refuses, and that the model stays as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.errors import TraceError
from tests.assertions import run

IMAGE = (2, 3, 6, 6)


class Net(nn.Module):
    """Branches on a shape and flattens with the batch size it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        x = x.mean((2, 3)) if x.shape[2] > 4 else x.amax((2, 3))
        return self.head(x.reshape(x.shape[0], -1))


class BranchesOnData(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)


class Raises(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("absent")


@pytest.mark.parametrize("size", [4, 6])
def test_a_branch_on_shapes_follows_the_example(size: int) -> None:
    net, x = Net().eval(), torch.randn(2, 3, size, size)
    traced = sg.trace(net, x)
    names = {node.target for node in traced.graph.nodes}
    assert ("mean" in names, "amax" in names) == (size == 6, size == 4)
    assert torch.equal(run(traced, x), run(net, x))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_batch_stays_free(batch: int) -> None:
    net = Net().eval()
    x = torch.randn(batch, 3, 6, 6)
    assert torch.equal(run(sg.trace(net, torch.randn(IMAGE)), x), run(net, x))


def test_inputs_may_be_given_by_name() -> None:
    traced = sg.trace(Net(), {"x": torch.randn(IMAGE)})
    assert [n.name for n in traced.graph.nodes if n.op == "placeholder"] == ["x"]


def test_a_forward_that_raises_is_named_with_its_line() -> None:
    line = Raises.forward.__code__.co_firstlineno + 1
    with pytest.raises(TraceError, match=rf"KeyError: 'absent'[\s\S]*test_tracing.py:{line}"):
        sg.trace(Raises(), torch.randn(IMAGE))


def test_a_branch_on_data_is_refused_with_its_line() -> None:
    line = BranchesOnData.forward.__code__.co_firstlineno + 1
    with pytest.raises(TraceError, match=rf"needs the data[\s\S]*test_tracing.py:{line}"):
        sg.trace(BranchesOnData(), torch.randn(IMAGE))


X = torch.zeros(IMAGE)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (X[:0], "has no elements"),
        (X.to(torch.complex64), "complex dtype"),
        (X.int(), "`conv` computes in float32 but gets int32"),
        ((X, X), "do not fit the forward of `Net`"),
        ({"y": X}, "do not fit the forward of `Net`"),
        ("image", "must be a tensor, a tuple or a dict"),
        (X[:, :2], "Invalid channel dimensions|expected input"),
    ],
)
def test_inputs_that_cannot_be_traced_are_refused(inputs: Any, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        sg.trace(Net(), inputs)


@pytest.mark.parametrize("kind", [Net, Raises, BranchesOnData])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(kind: type[Net], training: bool) -> None:
    net = kind().train(training)
    net.norm.train(not training)
    modes = [module.training for module in net.modules()]
    attributes = [dict(vars(module)) for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    try:
        sg.trace(net, torch.randn(IMAGE))
    except TraceError:
        assert kind is not Net
    assert [module.training for module in net.modules()] == modes
    assert [dict(vars(module)) for module in net.modules()] == attributes
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_a_forward_hook_takes_part() -> None:
    net, x = Net().eval(), torch.randn(IMAGE)
    net.register_forward_hook(lambda module, inputs, output: output * 2)
    assert torch.equal(run(sg.trace(net, x), x), run(net, x))


def test_every_call_records_its_line() -> None:
    traced = sg.trace(Net(), torch.randn(IMAGE))
    first = Net.forward.__code__.co_firstlineno
    sources = {node.name: node.meta["source"] for node in traced.graph.nodes}
    assert sources["conv"].endswith(f"test_tracing.py:{first + 1}")
    assert sources["head"].endswith(f"test_tracing.py:{first + 3}")


def test_every_node_has_its_value() -> None:
    net, x = Net().eval(), torch.randn(IMAGE)
    values = {node.name: node.meta["val"] for node in sg.trace(net, x).graph.nodes}
    assert values["conv"].shape == (2, 4, 6, 6)
    assert values["conv"].is_meta


class Straight(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_a_symbolic_trace_is_compressed_with_example_inputs() -> None:
    traced = fx.symbolic_trace(Straight())
    slim = sg.compress(traced, {"0": [0, 1, 1, 0]}, example_inputs=torch.randn(IMAGE))
    assert slim.get_submodule("0").out_channels == 2


def test_a_symbolic_trace_without_example_inputs_is_refused() -> None:
    with pytest.raises(TraceError, match="has no shapes"):
        sg.compress(fx.symbolic_trace(Straight()), {})


def test_a_vision_transformer_is_traced() -> None:
    models = pytest.importorskip("torchvision.models")
    vit = models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(run(sg.trace(vit, x), x), run(vit, x))


@pytest.mark.parametrize("name", ["code", "graph", "meta", "plan"])
def test_a_part_that_a_graph_module_could_not_hold_is_refused(name: str) -> None:
    model = nn.Module()
    setattr(model, name, nn.Linear(2, 2))
    with pytest.raises(TraceError, match=f"a part called `{name}`"):
        sg.trace(model, torch.randn(1, 2))


def test_a_plan_of_the_users_own_is_none_of_ours() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    model.plan = ("anything",)
    compressed = sg.compress(sg.trace(model, torch.randn(1, 2)), {"0": [1, 0, 1, 1]})
    assert compressed.plan.new_shape("0.weight") == (3, 2)
