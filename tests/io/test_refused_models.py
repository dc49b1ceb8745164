"""What cannot be data is refused by name when a model is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, prune

from slimgraph.errors import SlimgraphError
from slimgraph.serialize import save
from slimgraph.shapes import propagate
from slimgraph.tracing import trace
from tests.io.forge import assert_same, round_trip


def test_functions_marked_for_tracing_whole_are_refused(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    net = models.efficientnet_b0().eval()
    x = torch.randn(1, 3, 64, 64)
    plain = fx.symbolic_trace(net)
    propagate(plain, x)
    with pytest.raises(SlimgraphError, match=r"torchvision.*stochastic_depth` cannot be saved"):
        save(plain, tmp_path / "model.slim")
    assert not list(tmp_path.iterdir())
    model = trace(net, x)
    assert_same(model, round_trip(model, tmp_path), x)


class Own(nn.Linear):
    """A class of the user's own."""


def hooked() -> nn.Module:
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda *_: None)
    return module


def with_attribute(value: object) -> nn.Module:
    module = nn.Linear(4, 4)
    module.note = value
    return module


def shrunk() -> nn.Module:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.randn(2, 4))
    module.bias = nn.Parameter(torch.randn(2))
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Own(4, 4), "Own` is not a class of torch.nn"),
        (parametrizations.weight_norm(nn.Linear(4, 4)), "is not a class of torch.nn"),
        (prune.l1_unstructured(nn.Linear(4, 4), "weight", 2), "hooks are code"),
        (hooked(), "hooks are code"),
        (with_attribute(object()), "a value of type `object` cannot be saved"),
        (with_attribute(torch.ones(1)), "a value of type `Tensor` cannot be saved"),
        (with_attribute({1, 2}), "a value of type `set` cannot be saved"),
        (shrunk(), r"has shape \(2, 4\), but the module's attributes ask for \(4, 4\)"),
        (nn.Linear(4, 4, device="meta"), "has no data"),
        (nn.Linear(4, 4, dtype=torch.complex128), r"has dtype `torch.complex128`"),
    ],
    ids=[
        "own",
        "parametrized",
        "pruned",
        "hooked",
        "object",
        "tensor",
        "set",
        "shrunk",
        "meta",
        "dtype",
    ],
)
def test_what_is_no_data_is_refused_by_name(
    tmp_path: Path, module: nn.Module, message: str
) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(1, 4, device="meta")
    graph.output(graph.call_module("inner", (x,)))
    model = fx.GraphModule({"inner": module}, graph)
    with pytest.raises(SlimgraphError, match=message) as caught:
        save(model, tmp_path / "model.slim")
    assert "inner" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_without_shapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlimgraphError, match="the input `input_1` has no shape") as caught:
        save(fx.symbolic_trace(nn.Sequential(nn.ReLU())), tmp_path / "model.slim")
    assert "slimgraph.trace" in str(caught.value.hint)


def test_a_model_that_is_not_traced_is_refused(tmp_path: Path) -> None:
    not_traced: Any = nn.ReLU()
    with pytest.raises(SlimgraphError, match="only a traced model can be saved, not a `ReLU`"):
        save(not_traced, tmp_path / "model.slim")


def test_the_calling_convention_of_export_is_refused(tmp_path: Path) -> None:
    model = torch.export.export(nn.ReLU(), (torch.randn(1, 4),)).module()
    with pytest.raises(SlimgraphError, match="nested structures") as caught:
        save(model, tmp_path / "model.slim")
    assert "slimgraph.trace" in str(caught.value.hint)
