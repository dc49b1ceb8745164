"""Two ranks must make what one makes; what they compute lies in modules that ranks can import."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

Compute = Callable[[int, int], dict[str, Tensor]]  # of a rank and the number of ranks


def run(rank: int, folder: str, compute: Compute) -> None:
    """Join two ranks, compute, and leave the tensors in a file."""
    store = torch.distributed.FileStore(str(Path(folder) / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save(compute(rank, 2), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def assert_two_as_one(compute: Compute, folder: Path, rtol: float, atol: float) -> None:
    """Compare what each of two ranks computes with what one does alone."""
    torch.multiprocessing.spawn(run, args=(str(folder), compute), nprocs=2)
    alone = compute(0, 1)
    for rank in (0, 1):
        found = torch.load(folder / f"{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, rtol=rtol, atol=atol)
