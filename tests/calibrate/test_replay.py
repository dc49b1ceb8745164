"""Two models side by side: what is kept between layers changes nothing but the time it takes."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

import slimgraph as sg
from slimgraph.calibrate.replay import ROOM, SideBySide
from slimgraph.compensate import least_squares
from tests.nets.base import build
from tests.nets.branches import EXAMPLES

BATCHES = 3


class Counted:
    """Batches that count how often they are asked for."""

    def __init__(self, found: list[Tensor]) -> None:
        self.found, self.times = found, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.times += 1
        yield from self.found


def repaired(monkeypatch: pytest.MonkeyPatch, name: str, room: int) -> tuple[list[Tensor], int]:
    """Reconstruct a halved net; return its weights, and how often the data was gone through."""
    example = EXAMPLES[name]
    model = build(example)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        data = Counted([example.inputs(2, 8).double() for _ in range(BATCHES)])
    graph = sg.analyze(sg.trace(model, data.found[0]))
    keep = sg.select(graph, sg.score(graph, "l1"), sg.Budget.of(channels=0.5))
    slim = sg.compress(graph, sg.Mask.of_channels(graph, keep))
    monkeypatch.setattr(least_squares, "SideBySide", partial(SideBySide, room=room))
    assert sg.compensate.reconstruct(graph.traced, slim, data, progress=lambda _: None)
    return [p.detach() for p in slim.parameters()], data.times


@pytest.mark.parametrize("name", EXAMPLES)
def test_weights_are_the_same_whatever_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    wanted, often = repaired(monkeypatch, name, 0)
    found, seldom = repaired(monkeypatch, name, ROOM)
    some, _ = repaired(monkeypatch, name, 20_000)
    assert seldom <= often
    for weights in (found, some):
        assert all(torch.equal(a, b) for a, b in zip(wanted, weights, strict=True))


def test_data_is_gone_through_once_if_everything_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, often = repaired(monkeypatch, "dense block", 0)
    _, once = repaired(monkeypatch, "dense block", ROOM)
    assert often > 1
    assert once == 1


def test_what_is_kept_stays_within_its_room() -> None:
    model = build(EXAMPLES["residual stages"])
    data = [torch.randn(2, 3, 8, 8, dtype=torch.double) for _ in range(4)]
    traced = sg.trace(model, data[0])
    names = [node.name for node in traced.graph.nodes if node.op == "call_module"]
    runs = SideBySide((traced, traced), data, room=3 * 2 * data[0].nbytes)
    for name in names:
        count = 0
        for images, one, two in runs.at(name):
            assert images == 2
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
            count += 1
        kept = sum(each.size for _, reached in runs._kept.values() for each in reached)
        assert count == 4
        assert kept <= runs.room
