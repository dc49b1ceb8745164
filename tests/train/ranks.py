"""What each rank of the distributed test runs; a module of its own, so that ranks can import it."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.train.tiny import recipe, run

# Neither norm nor dropout: nothing depends on which rank sees which image.
PLAIN: dict[str, Any] = {"passes": 2, "penalty": "oicsr", "strength": 1e-3, "repair": "none"}
NORMS: dict[str, Any] = {
    "passes": 1,
    "strategy": "stepwise",
    "macs": None,
    "drop": 0.3,
    "curve": True,
}


def plain() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def train_both(rank: int, folder: Path) -> dict[str, Any]:
    """Train both nets and return their weights, and what was said."""
    said: list[str] = []
    model = plain()
    if rank:  # every rank starts with the weights of the first
        nn.init.zeros_(model[0].weight)  # type: ignore[arg-type, index]
    one = run(folder / "plain", recipe(**PLAIN), model, say=said.append)
    two = run(folder / "norms", recipe(**NORMS))
    again = run(folder / "norms", recipe(**NORMS))
    return {
        "plain": one.model.state_dict(), "norms": two.model.state_dict(),
        "again": again.model.state_dict(), "rows": one.rows, "said": said,
    }  # fmt: skip


def work(rank: int, folder: str, port: int) -> None:
    """Join two ranks as launchers do, train, and leave the weights in a file."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1",
    )  # fmt: skip
    torch.set_num_threads(1)
    torch.save(train_both(rank, Path(folder)), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
