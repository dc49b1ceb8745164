"""One rank or two: the same weights."""

from pathlib import Path

import pytest
import torch
import torch.distributed

from tests.ranks import assert_two_as_one
from tests.regularize.ranks import train


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed")
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    assert_two_as_one(train, tmp_path, rtol=1e-9, atol=1e-12)
