"""Constants go into a bias, behind a layer, or into a carrier."""

import torch
from torch import nn

import slimgraph as sg
from slimgraph.effects import Effect
from slimgraph.passes.fold_batch_norm import FoldBatchNorm
from slimgraph.passes.fold_constants import FoldConstants
from tests.assertions import assert_same_output
from tests.nets.base import conv, randomized


def traced(*layers: nn.Module) -> torch.fx.GraphModule:
    return sg.trace(randomized(nn.Sequential(*layers)), torch.randn(1, 3, 6, 6, dtype=torch.double))


def call(module: torch.fx.GraphModule) -> torch.fx.Node:
    return next(node for node in module.graph.nodes if node.op == "call_module")


def test_nothing_to_keep_changes_nothing() -> None:
    before = traced(conv(3, 4))
    result = FoldConstants(()).rewrite(before)
    assert result.graph_module is before
    assert not result.modified


def test_a_bias_takes_what_is_added_and_its_source_stays() -> None:
    before = traced(nn.Conv2d(3, 4, 1))
    old = before.get_parameter("0.bias").clone()
    shift = torch.arange(4.0).double()
    after = FoldConstants((Effect("bias", call(before), shift, "0.bias"),)).rewrite(before)
    assert after.modified
    assert torch.equal(after.graph_module.get_parameter("0.bias"), old + shift)
    assert torch.equal(before.get_parameter("0.bias"), old)
    assert str(after.graph_module.graph) == str(before.graph)


def test_a_carrier_stands_behind_its_consumer() -> None:
    before = traced(conv(3, 4))
    options = (("stride", 1), ("padding", 1), ("dilation", 1))
    kernel = torch.randn(4, 1, 3, 3, dtype=torch.double)
    after = FoldConstants((Effect("carrier", call(before), kernel, options=options),)).rewrite(
        before
    )
    assert [node.name for node in after.graph_module.graph.nodes] == [
        "input_1", "size", "size_1", "new_ones", "carrier__0", "conv2d", "_0", "add", "output"
    ]  # fmt: skip
    x = torch.randn(2, 3, 5, 7, dtype=torch.double)
    ones = torch.ones(1, 1, 5, 7, dtype=torch.double)
    expected = before(x) + torch.nn.functional.conv2d(ones, kernel, padding=1)
    torch.testing.assert_close(after.graph_module(x), expected)


def test_a_batch_norm_behind_a_carrier_is_folded_into_both() -> None:
    model = traced(conv(3, 8), nn.Sigmoid(), conv(8, 4, bias=False), nn.BatchNorm2d(4))
    slim = sg.compress(model, {"0": [1, 1, 0, 1, 1, 0, 1, 1]}, constants="keep")
    folded = FoldBatchNorm().rewrite(slim)
    assert folded.removed == 1
    names = [node.name for node in folded.graph_module.graph.nodes]
    assert "_3" not in names
    assert "carrier__2" in names
    assert_same_output(slim, folded.graph_module, torch.randn(2, 3, 9, 7, dtype=torch.double))
    assert not FoldBatchNorm().rewrite(folded.graph_module).modified
