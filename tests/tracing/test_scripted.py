"""Scripted parts of a model: they stay opaque as they are, the rest is compressed."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import OnnxExportError, SlimgraphError, TraceError
from tests.assertions import assert_same_output, random_mask, run
from tests.nets.base import Net, block, conv, randomized

X = torch.randn(2, 3, 6, 6, dtype=torch.double)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(8, 8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        if bool(y.sum() > 1e9):
            return x
        return y


def scripted(how: str) -> nn.Module:
    inner = randomized(Inner())
    example = torch.randn(1, 8, 6, 6).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        if how == "script":
            return torch.jit.script(inner)
        return torch.jit.trace(inner, example, check_trace=False)


class Outer(Net):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Sequential(block(3, 12), conv(12, 8)),
            "head": block(8, 6),
            "last": conv(6, 2),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.inner(self.stem(x))))


@pytest.fixture(params=["script", "trace"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    made = Outer(nn.Identity())
    made = randomized(made)
    made.inner = scripted(request.param).eval()
    return made


@pytest.mark.parametrize("training", [True, False])
def test_the_rest_of_the_model_is_compressed(model: nn.Module, training: bool) -> None:
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.warns(
        UserWarning, match="`inner` cannot be traced and stays opaque: it is scripted"
    ):
        traced = sg.trace(model, X)
    assert traced.meta["rung"] == 2
    assert {part.training for part in model.modules()} == {training}
    assert traced.state_dict().keys() == model.state_dict().keys()
    graph = sg.analyze(traced)
    assert [group.name for group in graph.groups if group.prunable] == ["stem.0.0", "head.0"]
    mask = random_mask(graph, 0)
    slim = sg.compress(graph, mask)
    for each in (model, traced, slim):
        each.eval()
    for x in (X, X[:1], torch.cat([X, X])):
        assert_same_output(sg.masked(graph, mask).eval(), slim, x)
        assert_same_output(model, traced, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    small = slim.plan.apply(model)
    assert_same_output(slim, small, X)


@pytest.mark.filterwarnings("ignore:.*stays opaque")
def test_what_no_file_holds_is_named(model: nn.Module, tmp_path: Any) -> None:
    traced = sg.trace(model, X)
    with pytest.raises(SlimgraphError, match="module `inner` cannot be saved"):
        sg.save(traced, tmp_path / "model.slim")
    with pytest.raises(OnnxExportError) as caught:
        sg.export_onnx(traced, tmp_path / "model.onnx")
    assert "`inner` stays Python (it is scripted" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_scripted_model_is_refused_as_a_whole(how: str) -> None:
    with pytest.raises(TraceError, match="a scripted model holds no Python") as caught:
        sg.trace(scripted(how), torch.randn(1, 8, 6, 6).double())
    assert "trace the nn.Module that it was made from" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore:.*stays opaque")
def test_running_a_scripted_model_is_what_it_was(model: nn.Module) -> None:
    expected = run(model.eval(), X)
    sg.trace(model.train(), X)
    assert torch.equal(run(model.eval(), X), expected)
