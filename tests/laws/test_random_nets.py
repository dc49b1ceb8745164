"""The law over nets that nobody wrote: random ops, random legal masks."""

from contextlib import suppress

import pytest
import torch
from torch import fx

import slimgraph as sg
from slimgraph.errors import UnknownGroupError
from slimgraph.passes.reorder_channels import ReorderChannels
from tests.assertions import assert_same_output, random_mask
from tests.nets.grown import grow, grown

SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_compress_equals_masked_on_a_random_net(seed: int) -> None:
    sizes = (8,) if grow(seed).other is None else (8, 10)
    torch.manual_seed(seed)
    traced = sg.trace(grown(seed).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.double))
    graph = sg.analyze(traced)
    for draw in range(2):
        mask = random_mask(graph, seed * 7 + draw)
        slim, masked = sg.compress(traced, mask), sg.masked(traced, mask)
        for batch, size in [(1, 8), *((3, size) for size in sizes)]:
            inputs = torch.randn(batch, 3, size, size, dtype=torch.double)
            assert_same_output(masked, slim, inputs)


def selecting_everywhere(traced: fx.GraphModule) -> fx.GraphModule:
    """Put a selection in front of every module that can have one."""
    for name in dict.fromkeys(n.target for n in traced.graph.nodes if n.op == "call_module"):
        with suppress(UnknownGroupError):
            traced = sg.with_selections(traced, [str(name)])
    return traced


@pytest.mark.parametrize("seed", SEEDS[::3])
def test_the_law_holds_whatever_is_selected_and_reordered(seed: int) -> None:
    torch.manual_seed(seed)
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.double)
    traced = selecting_everywhere(sg.trace(grown(seed).double().eval(), inputs))
    for draw in range(2):
        mask = random_mask(sg.analyze(traced), seed * 7 + draw)
        slim = sg.compress(traced, mask)
        assert_same_output(sg.masked(traced, mask), slim, inputs)
        ordered = ReorderChannels().rewrite(slim).graph_module
        assert_same_output(slim, ordered, inputs)
        again = random_mask(sg.analyze(ordered), seed + draw)
        assert_same_output(sg.masked(ordered, again), sg.compress(ordered, again), inputs)


def test_random_nets_shrink() -> None:
    for seed in SEEDS[:10]:
        traced = sg.trace(grown(seed).float().eval(), torch.randn(1, 3, 8, 8))
        plan = sg.compress(traced, random_mask(sg.analyze(traced), seed)).plan
        assert plan.kept, f"nothing of net {seed} can shrink"
