"""A run of seconds: some digits, a small net with a norm and dropout."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from slimgraph.train import Data, Recipe, Result, load_data, train


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 10),
    )  # fmt: skip


class Block(nn.Module):
    """A pre-activation block: its norm reads what the sum goes on with."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm2d(12), nn.BatchNorm2d(8)
        self.one = nn.Conv2d(12, 8, 1, bias=False)
        self.two = nn.Conv2d(8, 12, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.two(self.inner(self.one(self.norm(x).relu())).relu())
        return x + made


def pre_activation() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), Block(), Block(), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


def data(train: int = 96, test: int = 50) -> Data:
    whole = load_data("digits")
    few = Subset(whole.train, range(train))
    return Data(few, few, Subset(whole.held_out, range(40)), Subset(whole.test, range(test)),
                whole.shape, whole.classes)  # fmt: skip


def recipe(**options: Any) -> Recipe:
    given = {
        "passes": 2, "sparse_epochs": 1, "tune_epochs": 1, "batch_size": 32, "macs": 0.4,
        "lr": 0.05, "calibration": 64,
    }  # fmt: skip
    return Recipe(**given | options)


def run(folder: Path, given: Recipe, model: nn.Module | None = None, **options: Any) -> Result:
    return train(model or network(), data(), given, folder, **options)
