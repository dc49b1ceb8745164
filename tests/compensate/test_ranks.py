"""One rank or two: the same weights."""

from pathlib import Path

from tests.compensate.ranks import weights
from tests.ranks import assert_two_as_one


def test_two_ranks_repair_as_one(tmp_path: Path) -> None:
    assert_two_as_one(weights, tmp_path, rtol=1e-6, atol=1e-9)
