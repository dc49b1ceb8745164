"""What every pass owes, checked on one model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from slimgraph.cloning import fingerprint, run_isolated
from slimgraph.parity import compare
from slimgraph.pass_manager import Pass, Pipeline
from slimgraph.tracing import trace


def traced(model: nn.Module, *inputs: Tensor) -> GraphModule:
    """Trace a model in eval mode and float64, with statistics and affine parameters that matter."""
    model = model.double().eval()
    for module in model.modules():
        for name in ("running_mean", "bias"):
            if isinstance(getattr(module, name, None), Tensor):
                nn.init.normal_(getattr(module, name))
        if isinstance(getattr(module, "running_var", None), Tensor):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return trace(model, inputs)


def operations(graph_module: GraphModule) -> list[str]:
    """Name what a graph calls, in order."""
    return [
        node.target if isinstance(node.target, str) else node.target.__name__
        for node in graph_module.graph.nodes
        if node.op.startswith("call")
    ]


def assert_rewrites(pass_: Pass, before: GraphModule, *inputs: Tensor) -> GraphModule:
    """Run a pass that must find something, with every check there is, and once more."""
    recorded = fingerprint(before)
    assert pass_.rewrite(before).modified
    after = Pipeline((pass_,), probe=inputs, debug=True).run(before)
    assert fingerprint(before) == recorded
    assert_same_outputs(before, after, inputs)
    again = pass_.rewrite(after)
    assert not again.modified, "running it again must find nothing"
    assert again.graph_module is after
    return after


def assert_leaves_alone(pass_: Pass, graph_module: GraphModule) -> None:
    """Run a pass that must find nothing."""
    recorded = fingerprint(graph_module)
    result = pass_.rewrite(graph_module)
    assert (result.modified, result.removed) == (False, 0)
    assert result.graph_module is graph_module
    assert fingerprint(graph_module) == recorded


def assert_same_outputs(one: GraphModule, other: GraphModule, inputs: tuple[Any, ...]) -> None:
    """Compare in float64, at the given batch and at twice that."""
    for scale in (1, 2):
        batch = tuple(torch.cat([value] * scale) for value in inputs)
        results = compare(run_isolated(one, batch), run_isolated(other, batch), 1e-12)
        assert results
        assert all(result.ok for result in results), results
