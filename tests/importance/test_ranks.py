"""One rank or two: the same scores."""

from pathlib import Path

import torch
import torch.multiprocessing

from tests.importance.ranks import run, scores


def test_two_ranks_score_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run, args=(str(tmp_path),), nprocs=2)
    alone = scores(0, 1)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-9)
