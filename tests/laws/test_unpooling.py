"""The law over the one op that torch cannot compute deterministically."""

from collections.abc import Iterator

import pytest
import torch

import slimgraph as sg
from tests.assertions import assert_same_output, double, random_mask
from tests.nets.base import build
from tests.nets.sampling import UNPOOLED


@pytest.fixture(autouse=True)
def _any_order() -> Iterator[None]:
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


@pytest.mark.parametrize("seed", range(4))
def test_compress_equals_masked_where_places_of_maxima_are_used(seed: int) -> None:
    traced = sg.trace(build(UNPOOLED), double(UNPOOLED.inputs(2, 8)))
    graph = sg.analyze(traced)
    found = {group.name: group.size for group in graph.groups if group.prunable}
    assert found == UNPOOLED.groups
    mask = random_mask(graph, seed)
    for size in (8, 12):
        inputs = double(UNPOOLED.inputs(3, size))
        assert_same_output(sg.masked(traced, mask), sg.compress(traced, mask), inputs)
