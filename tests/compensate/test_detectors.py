"""Models that keep their own forward, around parts that are traced, are scored and repaired."""

import pytest
import torch
from torch import Tensor

import slimgraph as sg
from slimgraph.compensate import project, prune_in_turn, reconstruct, shift_means
from tests.nets.base import randomized
from tests.tracing.test_rungs import Detector

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def batches() -> list[Batch]:
    """Batches as torchvision's detectors take them: lists of images and of targets."""
    chance = torch.Generator().manual_seed(3)
    images = [torch.randn(3, 8, 8, generator=chance, dtype=torch.double) for _ in range(12)]
    return [(images[at : at + 4], [{"boxes": torch.zeros(0, 4)}] * 4) for at in (0, 4, 8)]


def analyzed() -> sg.DependencyGraph:
    with pytest.warns(UserWarning, match="stays opaque"):
        traced = sg.trace(randomized(Detector()), {"images": batches()[0][0]}).eval()
    assert traced.meta["regions"]
    return sg.analyze(traced)


@pytest.mark.parametrize("criterion", ["obs", "cap", "lasso", "hrank", "chip"])
def test_scores(criterion: str) -> None:
    graph = analyzed()
    scores = sg.score(graph, criterion, data=batches())
    assert bool(scores[graph.group_of("trunk.0.0").components].isfinite().all())


def test_repairs() -> None:
    graph = analyzed()
    mask = {"trunk.0.0": [1, 0, 1, 1, 0, 1, 1, 0], "heads.boxes.0": [1, 0, 1, 1, 0]}

    def error(model: torch.nn.Module) -> float:
        total = 0.0
        for images, _ in batches():
            made, wanted = (net(images, least=-1e9) for net in (model, graph.traced))
            for one, two in zip(made, wanted, strict=True):
                total += float((one["boxes"] - two["boxes"]).detach().square().mean())
        return total

    def small() -> torch.fx.GraphModule:
        return sg.compress(graph, mask)

    before = error(small())
    for repair in (project, shift_means, reconstruct):
        slim = small()
        assert repair(graph.traced, slim, batches())
        assert error(slim) < before
    turn = prune_in_turn(graph, {"trunk.0.0": 5, "heads.boxes.0": 3}, batches(), by="obs")
    assert error(turn.model) < before
