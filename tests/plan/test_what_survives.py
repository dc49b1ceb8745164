"""What a model was before it shrank, it still is: compressed, and with the plan applied."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg

IMAGE = (2, 3, 8, 8)
Way = Callable[[nn.Module, Tensor], nn.Module]


class Net(nn.Module):
    """Convolutions, a norm, a head, and a layer whose weight two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.one = nn.Conv2d(6, 6, 1, bias=False)
        self.two = nn.Conv2d(6, 6, 1, bias=False)
        self.two.weight = self.one.weight
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.body(self.two(self.one(x))))


MASK = {"stem": [0, 1, 1, 1, 1, 1], "body.0": [1, 1, 0, 1, 1, 0, 1, 1]}


def compressed(model: nn.Module, x: Tensor) -> nn.Module:
    return sg.compress(sg.trace(model, x), MASK)


def applied(model: nn.Module, x: Tensor) -> nn.Module:
    assert sg.compress(sg.trace(model, x), MASK).plan.apply(model) is model
    return model


both = pytest.mark.parametrize("shrink", [compressed, applied])


def facts(model: nn.Module, read: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Read the same fact of every parameter and buffer."""
    return {
        name: read(tensor)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_floating_point()
    }


@both
def test_frozen_parameters_stay_frozen_and_the_others_trainable(shrink: Way) -> None:
    model = Net()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("norm.weight", "body", "stem.bias"))
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    small = shrink(model, torch.randn(IMAGE))
    assert {name: p.requires_grad for name, p in small.named_parameters()} == before


@both
def test_each_module_stays_in_train_or_eval_mode(shrink: Way) -> None:
    model = Net().train()
    model.norm.eval()
    model.body[2].eval()
    before = {name: module.training for name, module in model.named_modules()}
    small = shrink(model, torch.randn(IMAGE))
    assert {name: m.training for name, m in small.named_modules()} == before
    assert {name: m.training for name, m in model.named_modules()} == before


@pytest.mark.parametrize("mask", [MASK, {"body.0": MASK["body.0"]}], ids=["sliced", "whole"])
def test_tied_weights_stay_tied(mask: dict[str, Any]) -> None:
    model, x = Net(), torch.randn(IMAGE)
    slim = sg.compress(sg.trace(model, x), mask)
    small = slim.plan.apply(Net())
    for each in (slim, small):
        assert each.get_parameter("one.weight") is each.get_parameter("two.weight")
        assert len(list(each.parameters())) == len(list(model.parameters()))


@both
@pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
def test_forward_hooks_of_modules_still_run(shrink: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MASK, "body.0")  # a hook may do anything: what `head` reads has to stay
    model, seen = Net().eval(), []
    model.head.register_forward_hook(lambda module, args, result: seen.append(result.shape))
    model.body.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    x = torch.randn(IMAGE)
    expected = sg.masked(sg.trace(model, x), MASK)(x)
    small = shrink(model, x)
    seen.clear()
    torch.testing.assert_close(small(x), expected)
    if isinstance(small, torch.fx.GraphModule):  # what hooks compute is part of its graph
        assert seen == []
    else:
        assert seen == [(2, 2, 8, 8)]


@both
def test_backward_hooks_of_modules_still_run(shrink: Way) -> None:
    model, seen = Net().eval(), []
    model.one.register_full_backward_hook(lambda module, ins, outs: seen.append(outs[0].shape))
    x = torch.randn(IMAGE)
    shrink(model, x)(x).sum().backward()
    assert seen == [(2, 5, 8, 8)]


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype(shrink: Way, dtype: torch.dtype) -> None:
    small = shrink(Net().to(dtype).eval(), torch.randn(IMAGE, dtype=dtype))
    assert set(facts(small, lambda tensor: tensor.dtype).values()) == {dtype}


@both
def test_weights_of_several_dtypes_keep_theirs(shrink: Way) -> None:
    model = Net().bfloat16().eval()
    model.norm.float()  # as mixed precision has it
    before = facts(model, lambda tensor: tensor.dtype)
    small = shrink(model, torch.randn(IMAGE, dtype=torch.bfloat16))
    assert facts(small, lambda tensor: tensor.dtype) == before


class Casting(Net):
    """Says in its code where and in what its input is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.stem.weight.dtype).to(x.device))


@pytest.mark.parametrize("make", [Net, Casting])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_plan_fits_instances_of_every_dtype_and_device(
    make: type[nn.Module], dtype: torch.dtype
) -> None:
    plan = sg.compress(sg.trace(make(), torch.randn(IMAGE)), MASK).plan
    small = plan.apply(make().to("meta", dtype))
    assert small.stem.weight.shape == (5, 3, 3, 3)
    assert small.stem.weight.dtype is dtype


@both
def test_half_precision_computes_what_the_masked_model_computes(shrink: Way) -> None:
    model, x = Net().bfloat16().eval(), torch.randn(IMAGE, dtype=torch.bfloat16)
    expected = sg.masked(sg.trace(model, x), MASK)(x)
    torch.testing.assert_close(shrink(model, x)(x), expected, rtol=0.05, atol=0.05)


@both
def test_channels_last_stays_channels_last(shrink: Way) -> None:
    model, last = Net().to(memory_format=torch.channels_last).eval(), torch.channels_last
    x = torch.randn(IMAGE).to(memory_format=last)
    small = shrink(model, x)
    weight = small.get_parameter("stem.weight")
    assert weight.is_contiguous(memory_format=last)
    assert not weight.is_contiguous()
    assert small(x).is_contiguous(memory_format=last)


def assert_stays_on(device: str, shrink: Way) -> None:
    model = Net().to(device).eval()
    small = shrink(model, torch.randn(IMAGE, device=device))
    assert set(facts(small, lambda tensor: tensor.device.type).values()) == {device}
    assert small(torch.randn(IMAGE, device=device)).device.type == device


@both
def test_weights_stay_on_a_device_without_data(shrink: Way) -> None:
    assert_stays_on("meta", shrink)


@both
@pytest.mark.gpu
def test_weights_stay_on_the_gpu(shrink: Way) -> None:
    assert_stays_on("cuda", shrink)


@pytest.mark.gpu
def test_the_state_of_an_optimizer_stays_on_the_gpu() -> None:
    model, x = Net().cuda(), torch.randn(IMAGE, device="cuda")
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(x).sum().backward()
    optimizer.step()
    slim = sg.compress(sg.trace(model, x), MASK, optimizer=optimizer)
    slim(x).sum().backward()
    optimizer.step()
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    assert {moment.device.type for moment in moments} == {"cuda"}
