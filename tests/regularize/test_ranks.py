"""One rank or two: the same weights."""

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from tests.regularize.ranks import run, train


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed")
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run, args=(str(tmp_path),), nprocs=2)
    alone = train(0, 1)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)
