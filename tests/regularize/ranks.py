"""What each rank of the distributed test runs; a module of its own, so that ranks can import it."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import slimgraph as sg
from slimgraph.regularize import OICSR, FeatureFlow, GroupPull, NetworkSlimming, Regularizer

STEPS = 3


def network() -> nn.Module:
    """Make the same network on every rank; eval mode, so that no statistics depend on halves."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1),
    ).double().eval()  # fmt: skip


def train(rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """Train on this rank's share of every batch, and return the weights."""
    graph = sg.analyze(sg.trace(network(), torch.randn(2, 3, 6, 6).double()))
    flow = FeatureFlow(graph, 0.1, 0.1, nodes=["_2", "_5"])
    model: nn.Module = flow.model
    if ranks > 1:
        model = DistributedDataParallel(model)
    steps: list[Regularizer] = [OICSR(graph, 0.1), GroupPull(graph, 0.1)]
    scales = NetworkSlimming(graph, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    chance = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        batch = torch.randn(4, 3, 6, 6, generator=chance, dtype=torch.double)
        own = batch[rank * 4 // ranks : (rank + 1) * 4 // ranks]
        (model(own).square().mean() + flow() + scales()).backward()
        steps[0].add_gradients()
        steps[1].step(optimizer)
        optimizer.zero_grad()
    return graph.traced.state_dict()
