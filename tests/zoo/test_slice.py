"""Forty real architectures are traced, halved and compressed exactly, each in its own process."""

import pytest

from tools.zoo import judge
from tools.zoo.catalog import subjects
from tools.zoo.runner import Bounds, Record, run_all
from tools.zoo.slice import SLICE

pytestmark = [pytest.mark.real, pytest.mark.slow]
BOUNDS = Bounds(seconds=240, megabytes=6000)


@pytest.mark.parametrize("name", SLICE)
def test_a_real_architecture_is_compressed_exactly(name: str) -> None:
    if name not in subjects():
        pytest.skip(f"{name.partition('/')[0]} is not installed")
    rows: dict[str, Record] = {}
    run_all(
        [("exact", name)], BOUNDS, 1, lambda task, name, found: rows.update({name: {task: found}})
    )
    assert judge.cause_of(rows[name]["exact"]) is None
    assert judge.exact(rows[name])
