"""Rules for what calls make, against torch itself: same shape, dtype and order in memory."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimgraph.known_shapes import made_by_function, made_by_module

IMAGE = torch.rand(2, 6, 13, 11)
LAST = IMAGE.contiguous(memory_format=torch.channels_last)
TOKENS = torch.rand(2, 5, 6)
LAYOUTS = {"image": IMAGE, "last": LAST, "tokens": TOKENS, "odd": IMAGE.transpose(2, 3)}
MODULES: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Conv2d(6, 4, 3, stride=2, padding=(1, 0), dilation=(1, 2)),
    lambda: nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False),
    lambda: nn.Conv2d(6, 4, 3, padding="same"),
    lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    lambda: nn.Conv2d(6, 4, 14),
    lambda: nn.Conv2d(5, 4, 3),
    lambda: nn.Conv1d(5, 4, 3),
    lambda: nn.Linear(6, 4),
    lambda: nn.Linear(11, 4, bias=False),
    lambda: nn.LayerNorm(6),
    lambda: nn.LayerNorm([13, 11], bias=False),
    lambda: nn.LayerNorm(11, elementwise_affine=False),
    lambda: nn.BatchNorm2d(6),
    lambda: nn.BatchNorm2d(5),
    lambda: nn.MaxPool2d(3, 2, 1),
    lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    lambda: nn.MaxPool2d(2, return_indices=True),
    lambda: nn.MaxPool2d(2, padding=2),
    lambda: nn.MaxPool2d((2, 3), dilation=2),
    lambda: nn.AvgPool2d(2, padding=1),
    lambda: nn.AdaptiveAvgPool2d(1),
    lambda: nn.AdaptiveAvgPool2d((None, 3)),
    lambda: nn.MaxPool2d((2, 3), (5, 2), (1, 0), ceil_mode=True),
    lambda: nn.AvgPool2d(5, 4, 2, ceil_mode=True),
    lambda: nn.AdaptiveAvgPool2d((4, 5)),
    lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(11, 3),
    nn.GELU,
    nn.Identity,
    lambda: nn.Conv2d(6, 4, 3).double(),
)
COLUMN, ROW = torch.rand(6, 1, 1), torch.rand(2, 6, 1, 1)
CALLS: tuple[tuple[Any, tuple[Any, ...], dict[str, Any]], ...] = (
    (operator.add, (1,), {}),
    (operator.mul, (COLUMN,), {}),
    (operator.mul, (ROW,), {}),
    (operator.mul, (IMAGE,), {}),
    (operator.mul, (LAST,), {}),
    (operator.mul, (torch.rand(3, 1, 1),), {}),
    (operator.sub, (torch.rand(3, 2, 6, 13, 11),), {}),
    (operator.add, (torch.rand(6, 1, 1).double(),), {}),
    (torch.mean, ((2, 3),), {}),
    (torch.mean, (-1,), {"keepdim": True}),
    (torch.mean, ([1, 1],), {}),
    (torch.mean, (4,), {}),
    (F.relu, (), {"inplace": True}),
    (F.layer_norm, ((6,), torch.rand(6), torch.rand(6), 1e-5), {}),
    (F.layer_norm, ((11,), None, None), {}),
    (F.adaptive_avg_pool2d, (1,), {}),
    (torch.cat, (), {"dim": 1}),
    (F.layer_norm, ((11,),), {"weight": torch.rand(11), "bias": None, "eps": 1e-5}),
    (F.linear, (torch.rand(4, 11), torch.rand(4)), {}),
    (F.linear, (torch.rand(4, 6),), {"bias": None}),
    (F.interpolate, (), {"size": [5, 7], "mode": "bilinear", "antialias": False}),
    (F.interpolate, ((5, 7),), {"mode": "bilinear", "align_corners": False}),
    (F.interpolate, (), {"size": [5, 7]}),
    (F.interpolate, (), {"scale_factor": 2}),
)


def agrees(made: Any, run: Callable[[], Any]) -> None:
    """Check what a rule says, if anything, against what torch computes."""
    if made is None:
        return
    expected = run()
    assert isinstance(expected, Tensor)
    assert (made.shape, made.dtype) == (expected.shape, expected.dtype)
    assert made.device.type == "meta"
    order = [stride for size, stride in zip(made.shape, made.stride(), strict=True) if size > 1]
    torchs = [s for n, s in zip(expected.shape, expected.stride(), strict=True) if n > 1]
    assert order == torchs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index", range(len(MODULES)))
def test_modules_make_what_the_rules_say(index: int, layout: str) -> None:
    module, input = MODULES[index]().eval(), LAYOUTS[layout]
    with torch.no_grad():
        agrees(made_by_module(module, (input.to("meta"),), {}), lambda: module(input))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index", range(len(CALLS)))
def test_functions_make_what_the_rules_say(index: int, layout: str) -> None:
    target, rest, options = CALLS[index]
    input: Any = LAYOUTS[layout].clone(memory_format=torch.preserve_format)
    given: Any = (input, *rest) if target is not torch.cat else ([input, input],)
    meta, named = tree_map_only(Tensor, lambda t: t.to("meta"), (given, options))
    agrees(made_by_function(target, meta, named), lambda: target(*given, **options))


def test_clips_are_pooled_as_torch_does() -> None:
    clip = torch.rand(1, 2, 6, 9, 9)
    for module in (nn.MaxPool3d(3, 2, 1, ceil_mode=True), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1)):
        made = made_by_module(module, (clip.to("meta"),), {})
        assert made is not None
        agrees(made, lambda module=module: module(clip))


def test_attention_makes_values_for_queries() -> None:
    query, key, value = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 6, 5), torch.rand(2, 3, 6, 7)
    meta = tuple(tensor.to("meta") for tensor in (query, key, value))
    made = made_by_function(F.scaled_dot_product_attention, meta, {"dropout_p": 0.0})
    assert made.shape == F.scaled_dot_product_attention(query, key, value).shape
    assert made_by_function(F.scaled_dot_product_attention, (meta[0], *meta), {}) is None


@pytest.mark.parametrize("layout", ["image", "last"])
def test_common_calls_have_a_rule(layout: str) -> None:
    input = LAYOUTS[layout].to("meta")
    common = (nn.Conv2d(6, 4, 3), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.ReLU(), nn.LayerNorm(11))
    assert all(made_by_module(module.eval(), (input,), {}) is not None for module in common)
    assert made_by_function(operator.mul, (COLUMN.to("meta"), input), {}) is not None
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    assert made_by_module(hooked, (input,), {}) is None
