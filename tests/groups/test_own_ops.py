"""Ops of the user's own: named, warned about, and freed by a rule of five lines."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import DuplicateRuleError, UnsupportedOpError
from slimgraph.ops.elementwise import identity
from slimgraph.ops.movement import move
from tests.assertions import assert_same_output, random_mask


class Doubled(torch.autograd.Function):
    """Multiplies by two, and says that its gradient is seven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float = 2.0) -> Tensor:
        ctx.save_for_backward(x)
        return x * factor + torch.zeros_like(x).to(x.dtype)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Any:
        return torch.full_like(grads[0], 7.0), None


class SetUp(torch.autograd.Function):
    """Does the same in torch's newer form."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, _: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (output,) = ctx.saved_tensors
        return grads[0] * (output > 0)


class Flipped(torch.autograd.Function):
    """Moves channels around, which only a rule can tell."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.flip(1)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Any:
        return grads[0].flip(1)


SHIFT = torch.arange(8.0, dtype=torch.float64)


class Shifted(torch.autograd.Function):
    """Adds constants from elsewhere, which have data even where nothing else has."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x + SHIFT

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Any:
        return grads[0]


class Scaled(torch.autograd.Function):
    """Multiplies channel by channel by constants of its own."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x * torch.arange(8.0, dtype=x.dtype)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Any:
        return grads[0]


@torch.library.custom_op("slimgraph_tests::kernel", mutates_args=())
def kernel(x: Tensor, scale: float) -> Tensor:
    """Stand in for a compiled kernel: nobody can look inside."""
    return torch.from_numpy(x.detach().numpy() * scale)


@kernel.register_fake
def _(x: Tensor, *_: float) -> Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    """Two layers and an op between them."""

    op: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.op(self.first(x)))


def traced(op: Any) -> torch.fx.GraphModule:
    made = type("Made", (Net,), {"op": staticmethod(op)})()
    return sg.trace(made.double().eval(), torch.randn(5, 4, dtype=torch.float64))


def rows() -> Tensor:
    return torch.randn(3, 4, dtype=torch.float64)


def test_an_autograd_function_is_one_call_with_its_own_name_and_line() -> None:
    (node,) = (n for n in traced(Doubled.apply).graph.nodes if n.op == "call_function")
    assert node.name == "doubled"
    assert node.meta["source"].startswith("tests/groups/test_own_ops.py:")


@pytest.mark.parametrize(
    "op",
    [Doubled.apply, SetUp.apply, lambda x: Doubled.apply(x, 3.0)],
    ids=["old", "new", "options"],
)
def test_a_function_of_element_wise_ops_needs_no_rule(op: Any) -> None:
    graph = sg.analyze(traced(op), strict=True)
    assert graph.group_of("first").prunable
    mask = random_mask(graph, seed=1)
    assert_same_output(sg.masked(graph, mask), sg.compress(graph, mask), rows())


def test_the_backward_of_a_function_survives() -> None:
    slim = sg.compress(traced(Doubled.apply), {"first": [0] + [1] * 7})
    x = rows().requires_grad_()
    slim(x).sum().backward()
    weight = slim.get_parameter("first.weight").detach()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((3, 7), 7.0, dtype=x.dtype) @ weight)


def test_a_function_that_cannot_run_without_data_is_looked_into() -> None:
    graph = sg.analyze(traced(Shifted.apply), strict=True)
    mask = random_mask(graph, seed=1)
    assert_same_output(sg.masked(graph, mask), sg.compress(graph, mask), rows())


def test_tracing_puts_torch_back() -> None:
    traced(Doubled.apply)
    assert "__getattribute__" not in vars(type(torch.autograd.Function))
    x = rows().requires_grad_()
    Doubled.apply(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 7).all())


@pytest.mark.parametrize(
    "op",
    [Flipped.apply, Scaled.apply, lambda x: kernel(x, 2.0)],
    ids=["flip", "constants", "kernel"],
)
def test_an_unknown_op_keeps_its_channels_and_says_so(op: Any) -> None:
    model = traced(op)
    with pytest.warns(sg.UnknownOpWarning, match=r"no rule says .* at %.*test_own_ops.py:"):
        graph = sg.analyze(model)
    assert not graph.group_of("first").prunable
    with pytest.raises(UnsupportedOpError):
        sg.analyze(model, strict=True)


def test_one_op_is_warned_about_once() -> None:
    model = traced(lambda x: kernel(x, 1.0) + kernel(x, 2.0) + Flipped.apply(x))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sg.analyze(model)
    named = [str(each.message).split("`")[1] for each in said]
    assert named == ["slimgraph_tests.kernel", f"{Flipped.__module__}.Flipped"]
    assert said[0].filename == __file__


def test_an_op_that_touches_no_channel_is_no_reason_for_a_warning() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    before = type("Before", (nn.Module,), {"forward": lambda self, x: model(kernel(x, 2.0))})()
    before.model = model
    assert sg.analyze(sg.trace(before, torch.randn(5, 4))).group_of("model.0").prunable


@pytest.mark.parametrize(
    ("op", "rule"),
    [
        (Flipped.apply, sg.Rule((Flipped,), "movement", move)),
        (Flipped.apply, sg.Rule((f"{Flipped.__module__}.Flipped",), "movement", move)),
        (lambda x: kernel(x, 2.0), sg.Rule((kernel,), "element-wise", identity)),
        (
            lambda x: kernel(x, 2.0),
            sg.Rule(("slimgraph_tests.kernel",), "element-wise", identity),
        ),
    ],
    ids=["class", "class by name", "custom op", "custom op by name"],
)
def test_a_rule_frees_the_channels(op: Any, rule: sg.Rule) -> None:
    graph = sg.analyze(traced(op), rules=[rule], strict=True)
    assert graph.group_of("first").prunable
    mask = random_mask(graph, seed=1)
    assert_same_output(sg.masked(graph, mask), sg.compress(graph, mask), rows())
    slim = sg.slim(traced(op), channels=0.5, rules=[rule])
    assert slim.model.get_submodule("first").out_features == 4


def test_a_rule_for_an_op_that_has_one_is_refused() -> None:
    with pytest.raises(DuplicateRuleError, match="two rules claim `flip`"):
        sg.analyze(traced(Doubled.apply), rules=[sg.Rule((torch.flip,), "movement", move)])
