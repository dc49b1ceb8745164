"""Scores from second moments, end to end, against patches taken by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.importance import Sampling, subset_scores
from tests.calibrate.test_subsets import share_missed
from tests.groups.models import Concat, Flattened, Gated, Residual


def images(count: int = 3, size: int = 4) -> list[Tensor]:
    chance = torch.Generator().manual_seed(5)
    shape = (16, 3, size, size)
    return [torch.randn(shape, generator=chance, dtype=torch.double) for _ in range(count)]


def analyzed(model: nn.Module) -> sg.DependencyGraph:
    torch.manual_seed(0)
    return sg.analyze(sg.trace(model.double().eval(), images()[0][:2]))


ALL = Sampling(points=10_000)


def patches(x: Tensor, size: int, padding: int = 0) -> Tensor:
    return F.unfold(x, size, padding=padding).transpose(1, 2).flatten(0, 1)


def missed(model: Residual, gone: Sequence[int]) -> float:
    """Return what the two readers of the stream, one with borders, miss of some channels."""
    stream = model.stem(torch.cat(images())).detach()
    total = stream + model.b(torch.relu(model.norm(model.a(stream)))).detach()
    result = 0.0
    for x, layer, padding in ((stream, model.a, 1), (total, model.head, 0)):
        size = layer.kernel_size[0]
        channels = torch.arange(6).repeat_interleave(size**2)
        kept = ~torch.isin(channels, torch.tensor(gone, dtype=torch.long))
        weight = layer.weight.detach().flatten(1)
        result += share_missed(patches(x, size, padding), weight, kept)
    return result


@pytest.mark.parametrize("method", ["obs", "cap"])
def test_a_coupled_channel_costs_what_all_its_readers_miss(method: str) -> None:
    model = Residual()
    graph = analyzed(model)
    scores = subset_scores(graph, images(), method, ridge=1e-13, sampling=ALL)  # type: ignore[arg-type]
    own = scores[graph.group_of("stem").components]
    order = own.argsort().tolist()
    costs = [missed(model, order[: n + 1]) - missed(model, order[:n]) for n in range(6)]
    if method == "cap":  # what explains most came first
        alone = [missed(model, [c for c in range(6) if c != own]) for own in range(6)]
        assert order[-1] == min(range(6), key=alone.__getitem__)
    rising = torch.tensor(costs).double().cummax(0).values
    torch.testing.assert_close(own[order], rising, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("criterion", ["obs", "cap", "lasso"])
@pytest.mark.parametrize("model", [Residual, Concat, Gated, Flattened])
def test_every_channel_that_a_layer_reads_has_a_score(
    criterion: str, model: type[nn.Module]
) -> None:
    graph = analyzed(model())
    scores = sg.score(graph, criterion, data=images(), normalize="none")
    for group in graph.groups:
        own = scores[group.components]
        assert bool(own[~group.frozen].isfinite().all())
        assert bool(own[group.frozen].isinf().all())
        assert len(own[~group.frozen].unique()) == int((~group.frozen).sum())  # a strict order
    budget = sg.Budget.of(channels=0.6)
    keep = sg.select(graph, sg.score(graph, criterion, data=images()), budget)
    slim = sg.compress(graph, sg.Mask.of_channels(graph, keep))
    assert bool(slim(images()[0]).isfinite().all())


def test_copies_leave_first() -> None:
    model = Residual()
    with torch.no_grad():
        model.a.weight[3] = model.a.weight[1]
        for tensor in (model.norm.weight, model.norm.bias):
            tensor[3] = tensor[1]
    graph = analyzed(model)
    for criterion in ("obs", "cap"):
        scores = sg.score(graph, criterion, data=images(), normalize="none")
        own = scores[graph.group_of("a").components]
        assert int(own.argmin()) in (1, 3)
        assert own.min() < 1e-3 * own.max()


def test_little_memory_and_many_passes_give_the_same() -> None:
    graph = analyzed(Concat())
    once = subset_scores(graph, images())
    many = subset_scores(graph, images(), sampling=Sampling(memory=1))
    torch.testing.assert_close(once, many)


def test_an_iterator_is_refused_if_it_is_needed_twice() -> None:
    graph = analyzed(Residual())  # the stream and the branch are no one problem
    subset_scores(graph, iter(images()))
    with pytest.raises(sg.SlimgraphError, match="gone through only once"):
        subset_scores(graph, iter(images()), sampling=Sampling(memory=1))


def test_a_layer_that_is_too_wide_says_nothing() -> None:
    graph = analyzed(Flattened())
    scores = subset_scores(graph, images(), sampling=Sampling(widest=70))
    assert bool(scores[graph.group_of("conv").components].isinf().all())
    assert bool(scores[graph.group_of("hidden").components].isfinite().all())


def test_targets_are_ignored_and_the_model_stays_what_it_was() -> None:
    graph = analyzed(Residual())
    before = {key: value.clone() for key, value in graph.traced.state_dict().items()}
    pairs = [(batch, torch.zeros(16)) for batch in images()]
    lines: list[str] = []
    found = sg.score(graph, "obs", data=pairs, progress=lines.append)
    assert torch.equal(found, sg.score(graph, "obs", data=images()))
    assert "moments of inputs, 3" in lines
    for key, value in graph.traced.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("criterion", ["taylor", "obs", "cap", "lasso", "hrank", "chip"])
def test_criteria_from_data_say_what_they_need(criterion: str) -> None:
    graph = analyzed(Residual())
    with pytest.raises(sg.SlimgraphError, match=f"`{criterion}` needs data"):
        sg.score(graph, criterion)
    with pytest.raises(sg.SlimgraphError, match="no batch"):
        sg.score(graph, criterion, data=[])


@pytest.mark.parametrize("criterion", ["obs", "cap", "lasso"])
def test_a_layer_whose_inputs_hardly_vary_says_nothing(criterion: str) -> None:
    """What it makes varies by rounding alone, of which nothing can be told."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    even = [torch.full((8, 3, 4, 4), 7.0) + 1e-6 * torch.randn(8, 3, 4, 4) for _ in range(2)]
    graph = sg.analyze(sg.trace(model, even[0]))
    scores = sg.score(graph, criterion, data=even, normalize="none")
    assert scores[graph.group_of("0").components].isinf().all()
