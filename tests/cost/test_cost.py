"""Costs against plain counting: parameters one by one, multiplications as the model runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel, Totals
from slimgraph.mask import keep_channels
from tests.groups.models import IMAGE, Concat, Flattened, Gated, Residual


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 2, 1))


def depth_wise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1)
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 3, stride=2),
        nn.ConvTranspose2d(6, 6, 2, stride=2, groups=2), nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2))


MODELS = [
    plain, grouped, depth_wise, transposed, linear, Residual, Concat, Gated, Flattened,
]  # fmt: skip


def counted(model: nn.Module) -> int:
    """Count multiplications per example with a hook on every layer."""
    found: list[int] = []

    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        per_example = output[0].numel()
        if isinstance(module, nn.ConvTranspose2d):  # every input number meets a column
            found.append(inputs[0][0].numel() * module.weight[0].numel())
        elif isinstance(module, nn.Conv2d):  # every output number is one dot product
            found.append(per_example * module.weight[0].numel())
        else:
            found.append(per_example * module.in_features)

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, layers)]
    with torch.no_grad():
        model(torch.randn(IMAGE))
    for handle in handles:
        handle.remove()
    return sum(found)


def totals(graph: sg.DependencyGraph) -> Totals:
    return CostModel(graph).totals(torch.ones(len(graph.frozen), dtype=torch.bool))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("make", MODELS)
def test_params_and_macs_are_what_counting_finds(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    found = totals(sg.analyze(sg.trace(model, torch.randn(IMAGE))))
    assert (found.params, found.macs) == (parameters(model), counted(model))


@pytest.mark.parametrize("make", MODELS)
def test_the_predicted_cost_is_that_of_the_compressed_model(make: Callable[[], nn.Module]) -> None:
    result = sg.slim(make().eval(), torch.randn(IMAGE), channels=0.7)
    after = result.report["totals"]["after"]
    assert after["params"] < result.report["totals"]["before"]["params"]
    assert (after["params"], after["macs"]) == (parameters(result.model), counted(result.model))


def test_channels_count_those_that_can_leave() -> None:
    graph = sg.analyze(sg.trace(Residual(), torch.randn(IMAGE)))
    assert totals(graph).channels == 6 + 4


def test_macs_do_not_depend_on_the_batch() -> None:
    one, four = (
        totals(sg.analyze(sg.trace(Gated(), torch.randn(batch, 3, 4, 4)))) for batch in (1, 4)
    )
    assert one == four


class Attention(nn.Module):
    """Attention of a vision transformer, its products spelled in one of several ways."""

    def __init__(self, how: str, heads: int = 2, width: int = 8) -> None:
        super().__init__()
        self.how, self.heads = how, heads
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.head = nn.Linear(width, 2)
        self.mha = nn.MultiheadAttention(width, heads, batch_first=True) if how == "mha" else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.mha is not None:
            return self.head(x + self.mha(x, x, x, need_weights=False)[0])
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.head(x + self.proj(self.mixed(q, k, v).transpose(1, 2).flatten(2)))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.how == "sdpa":
            return nn.functional.scaled_dot_product_attention(q, k, v)
        if self.how == "einsum":
            weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
            return torch.einsum("bhqk,bhkd->bhqd", weights, v)
        if self.how == "bmm":
            one, two, three = (part.flatten(0, 1) for part in (q, k, v))
            weights = torch.bmm(one, two.transpose(1, 2)).softmax(-1)
            return torch.bmm(weights, three).unflatten(0, q.shape[:2])
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


# By hand, for 4 tokens of 8 channels: the patches, qkv, the two products, proj and the head.
LAYERS = 4 * 8 * 3 * 4 + 4 * 8 * 24 + 4 * 8 * 8 + 4 * 8 * 2
PRODUCTS = 2 * (4 * 4 * 8)


@pytest.mark.parametrize("how", ["matmul", "bmm", "einsum", "sdpa", "mha"])
@pytest.mark.parametrize("batch", [1, 3])
def test_products_of_attention_count(how: str, batch: int) -> None:
    graph = sg.analyze(sg.trace(Attention(how).eval(), torch.randn(batch, 3, 4, 4)))
    assert totals(graph).macs == LAYERS + PRODUCTS


@pytest.mark.parametrize("how", ["matmul", "einsum", "sdpa"])
def test_the_predicted_cost_of_attention_is_what_is_left(how: str) -> None:
    graph = sg.analyze(sg.trace(Attention(how).eval(), torch.randn(1, 3, 4, 4)))
    qkv = torch.ones(3, 2, 4, dtype=torch.bool)
    qkv[:, 0, 1] = qkv[:, 1, 3] = False  # another one of each head
    mask = {"qkv": qkv.flatten()}
    left = totals(sg.analyze(sg.compress(graph, mask)))
    assert CostModel(graph).totals(keep_channels(graph, mask))[1:] == left[1:]
    assert left.macs == LAYERS - 4 * 8 * 6 - 4 * 2 * 8 + 2 * (4 * 4 * 6)


def test_a_budget_of_macs_holds_with_attention() -> None:
    model = Attention("sdpa", heads=4, width=32).eval()
    result = sg.slim(model, torch.randn(1, 3, 16, 16), macs=0.6)
    left = totals(sg.analyze(result.model)).macs
    assert result.report["totals"]["after"]["macs"] == left
    assert left <= 0.6 * result.report["totals"]["before"]["macs"]


def test_a_channel_saves_what_its_products_cost() -> None:
    graph = sg.analyze(sg.trace(Attention("sdpa").eval(), torch.randn(1, 3, 4, 4)))
    cost, every = CostModel(graph), torch.ones(len(graph.frozen), dtype=torch.bool)
    saved = cost.savings(every, "macs")
    queries = graph.component[graph.ledger.axes["qkv.weight", 0].labels[:8]]
    assert saved[queries].sum().item() >= PRODUCTS
