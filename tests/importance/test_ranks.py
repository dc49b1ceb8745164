"""One rank or two: the same scores."""

from pathlib import Path

from tests.importance.ranks import scores
from tests.ranks import assert_two_as_one


def test_two_ranks_score_as_one(tmp_path: Path) -> None:
    assert_two_as_one(scores, tmp_path, rtol=1e-6, atol=1e-9)
