"""Recalibration: statistics as over all data, and nothing else changed."""

import torch
from torch import nn

from slimgraph.compensate import recalibrate


def test_statistics_are_those_of_the_data_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.BatchNorm2d(4, momentum=0.3)
    ).double()
    model[2].eval()
    data = [torch.randn(8, 3, 5, 5).double() * 3 + 1 for _ in range(4)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert recalibrate(model, [(batch, torch.zeros(8)) for batch in data]) == 2
    features = [model[0](batch).detach() for batch in data]
    means = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variances = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)
    assert (model[1].momentum, model[3].momentum) == (0.1, 0.3)
    assert [module.training for module in model.modules()] == modes
    for key, value in model.state_dict().items():
        assert "running" in key or "batches" in key or torch.equal(value, before[key])
