"""HRank and CHIP against their definitions, image by image."""

import pytest
import torch
from torch import Tensor

import slimgraph as sg
from slimgraph.importance import chip, hrank
from tests.groups.models import Flattened, Residual
from tests.importance.test_subset_scores import analyzed, images


def maps_of(model: Residual) -> tuple[Tensor, Tensor, Tensor]:
    """Return the stream twice, as it is where chains end, and the branch's activation."""
    with torch.no_grad():
        stream = model.stem(torch.cat(images()))
        inner = torch.relu(model.norm(model.a(stream)))
        return stream, stream + model.b(inner), inner


def test_hrank_is_the_mean_rank_of_the_maps() -> None:
    model = Residual()
    graph = analyzed(model)
    with torch.no_grad():
        model.a.weight[2] = 0  # the map is the same everywhere, or zero
    scores = hrank(graph, images())
    stream, total, inner = maps_of(model)

    def mean(maps: Tensor) -> Tensor:
        ranks = [[int(torch.linalg.matrix_rank(m)) for m in image] for image in maps]
        return torch.tensor(ranks).double().mean(0)

    torch.testing.assert_close(scores[graph.group_of("a").components], mean(inner))
    assert scores[graph.group_of("a").components][2] <= 1
    wanted = (mean(stream) + mean(total)) / 2
    torch.testing.assert_close(scores[graph.group_of("stem").components], wanted)


@pytest.mark.parametrize("size", [2, 4])  # fewer positions than channels, and more
def test_chip_is_what_the_nuclear_norm_loses(size: int) -> None:
    model = Residual()
    graph = analyzed(model)
    data = images(size=size)
    with torch.no_grad():
        inner = torch.relu(model.norm(model.a(model.stem(torch.cat(data)))))
    wanted = torch.zeros(4, dtype=torch.double)
    for image in inner.flatten(2):
        for channel in range(4):
            without = image.clone()
            without[channel] = 0
            loss = torch.linalg.matrix_norm(image, "nuc") - torch.linalg.matrix_norm(without, "nuc")
            wanted[channel] += loss / len(inner)
    torch.testing.assert_close(chip(graph, data)[graph.group_of("a").components], wanted)


def test_what_has_no_maps_has_no_score() -> None:
    graph = analyzed(Flattened())
    for criterion in ("hrank", "chip"):
        scores = sg.score(graph, criterion, data=images())
        assert bool(scores[graph.group_of("conv").components].isfinite().all())
        assert bool(scores[graph.group_of("hidden").components].isinf().all())
