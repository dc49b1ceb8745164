"""Kernels are traced back to nodes, and their sizes are those of the model a mask leaves."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import slimgraph as sg
from slimgraph.kept import KeptChannels
from slimgraph.latency import LatencyModel, Table, latency_model
from slimgraph.latency.sizing import Sizing
from slimgraph.latency.small_models import one_operator
from slimgraph.runtime import open_session, run_session


class Mobile(nn.Module):
    """An inverted residual with squeeze and excite, a concatenation and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.up = nn.Sequential(nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.ReLU6())
        self.deep = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 12, 1), nn.ReLU(),
                                  nn.Conv2d(12, 48, 1), nn.Sigmoid())  # fmt: skip
        self.down = nn.Conv2d(48, 16, 1)
        self.side = nn.Conv2d(16, 20, 1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.relu(self.deep(self.up(x)))
        x = x + self.down(y * self.gate(y))
        return self.head(torch.cat([self.pool(x), self.pool(self.side(x))], 1).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    torch.manual_seed(0)
    graph = sg.analyze(sg.trace(Mobile().eval(), torch.randn(1, 3, 32, 32)))
    return latency_model(graph, table=Table(folder=None), runs=2)


def test_every_convolution_and_product_is_known(model: LatencyModel) -> None:
    made = [o for o in model.operators if o.op in ("Conv", "FusedConv", "Gemm", "FusedGemm")]
    assert len(made) == 8
    for operator in made:
        assert operator.nodes
        assert operator.output is not None
        assert operator.contracts or operator.nodes[0].op_type == "Conv"
    fused = [tuple(n.op_type for n in o.nodes) for o in made]
    assert any(len(nodes) > 1 for nodes in fused), "activations are fused"


def test_sizes_under_a_mask_are_those_of_the_smaller_model(model: LatencyModel) -> None:
    graph = model.graph
    for seed in range(4):
        scores = sg.score(graph, "random", seed=seed)
        keep = sg.select(graph, scores, sg.Budget.of(channels=0.6))
        kept = KeptChannels(graph, keep)
        small = sg.compress(graph, sg.Mask.of_channels(graph, keep))
        shapes = {node.name: tuple(node.meta["val"].shape) for node in small.graph.nodes
                  if isinstance(node.meta.get("val"), torch.Tensor)}  # fmt: skip
        compared = 0
        for operator in model.operators:
            if not operator.nodes or operator.output is None:
                continue
            sizing = Sizing(model.whole, operator)
            _, inputs, output = sizing.spec(sizing.counts(kept))
            if operator.output.name in shapes and sizing.full:
                assert output == shapes[operator.output.name], operator.name
                compared += 1
            for node, shape in zip(operator.inputs, inputs, strict=True):
                if node is not None and node.name in shapes and operator.contracts:
                    assert shape == shapes[node.name], operator.name
        assert compared >= 8


def test_each_operator_runs_alone_at_other_sizes(model: LatencyModel) -> None:
    ran = 0
    for operator in model.operators:
        if not operator.nodes:
            continue
        sizing = Sizing(model.whole, operator)
        for count in (3, 8) if sizing.full else ():
            nodes, inputs, output = sizing.spec(dict.fromkeys(sizing.full, count))
            content, feeds = one_operator(nodes, inputs, output, model.constants)
            found = run_session(open_session(content), feeds)
            if operator.contracts:
                assert next(iter(found.values())).shape == output
            ran += 1
    assert ran >= 16


def test_the_whole_model_is_predicted_as_it_was_measured(model: LatencyModel) -> None:
    everything = torch.ones(len(model.graph.frozen), dtype=torch.bool)
    assert model.predict(everything) == pytest.approx(model.dense)
    assert model.dense > 0
    with tempfile.TemporaryDirectory() as folder:
        table = Table(folder=Path(folder))
        table.times["conv"] = 1.5
        table.save()
        assert Table(folder=Path(folder)).times == {"conv": 1.5}
        assert Table(folder=Path(folder), threads=2).times == {}
        assert table.path is not None
        table.path.write_text("{", encoding="utf-8")
        assert Table(folder=Path(folder)).times == {}
