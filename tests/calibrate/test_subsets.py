"""Sweeps and regressions against `lstsq` on the rows themselves."""

import pytest
import torch
from torch import Tensor

from slimgraph.calibrate.moments import Moments
from slimgraph.calibrate.subsets import Regression, best_weights, sweep

ROWS = 200


def rows(seed: int, columns: int) -> Tensor:
    """Draw rows whose columns depend on each other, with means that are not zero."""
    chance = torch.Generator().manual_seed(seed)
    mixed = torch.randn(columns, columns, generator=chance, dtype=torch.double)
    return torch.randn(ROWS, columns, generator=chance, dtype=torch.double) @ mixed + 2


def weights(seed: int, outputs: int, columns: int) -> Tensor:
    chance = torch.Generator().manual_seed(100 + seed)
    return torch.randn(outputs, columns, generator=chance, dtype=torch.double)


def problem(
    x: Tensor, weight: Tensor, channels: Tensor, *, centered: bool = True, ridge: float = 1e-13
) -> Regression:
    x = x - x.mean(0) if centered else x
    gram = x.mT @ x / len(x)
    energy = float((x @ weight.mT).square().sum(1).mean())
    return Regression(gram, weight, weight, channels, energy, ridge)


def share_missed(x: Tensor, weight: Tensor, kept: Tensor, *, centered: bool = True) -> float:
    """Fit the output on the kept columns, row by row, and return what is left."""
    wanted = x @ weight.mT
    extra = torch.ones(len(x), int(centered), dtype=torch.double)
    given = torch.cat([x[:, kept], extra], 1)
    left = wanted - given @ torch.linalg.lstsq(given, wanted).solution
    base = wanted - wanted.mean(0) if centered else wanted
    return float(left.square().sum() / base.square().sum())


@pytest.mark.parametrize("centered", [True, False])
def test_best_weights_are_those_of_lstsq(centered: bool) -> None:
    x, weight, kept = rows(0, 6), weights(0, 4, 6), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    layer = problem(x, weight, torch.arange(6), centered=centered)
    found, missed = best_weights(layer.gram, weight, kept, ridge=1e-13)
    given = torch.cat([x[:, kept], torch.ones(ROWS, int(centered), dtype=torch.double)], 1)
    wanted = torch.linalg.lstsq(given, x @ weight.mT).solution
    torch.testing.assert_close(found, wanted[:4].mT)
    torch.testing.assert_close(missed, (x @ weight.mT - given @ wanted).square().mean(0))


def test_what_keeps_all_columns_keeps_its_weights() -> None:
    weight = weights(1, 3, 5)
    layer = problem(rows(1, 5), weight, torch.arange(5))
    found, missed = best_weights(layer.gram, weight, torch.ones(5).bool(), ridge=0.1)
    assert torch.equal(found, weight)
    assert not missed.any()


# Two layers that share channels 1 to 5 of 8: three columns per channel here, one or two there.
FIRST = torch.tensor([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5])
SECOND = torch.tensor([7, 5, 4, 3, 2, 1, 1])
FREE = torch.tensor([0, 1, 1, 1, 1, 1, 1, 0]).bool()  # nobody reads 6, 7 has to stay


@pytest.mark.parametrize("backward", [True, False])
def test_each_step_takes_the_best_channel_of_all_layers_together(backward: bool) -> None:
    layers = [(rows(2, 15), weights(2, 4, 15), FIRST), (rows(3, 7), weights(3, 6, 7), SECOND)]

    def cost(taken: list[int]) -> float:
        """Return what both layers miss once these have left, or of all once these are in."""
        gone = torch.tensor(taken, dtype=torch.long)
        return sum(
            share_missed(x, w, ~torch.isin(c, gone) if backward else torch.isin(c, gone))
            for x, w, c in layers
        )

    problems = [problem(*layer) for layer in layers]
    order, gains = sweep(problems, FREE, backward=backward)
    taken: list[int] = []
    for channel, gain in zip(order.tolist(), gains.tolist(), strict=True):
        left = [c for c in range(1, 6) if c not in taken]
        costs = {c: cost([*taken, c]) for c in left}
        best = min(costs, key=costs.__getitem__)
        assert channel == best
        assert gain == pytest.approx(abs(costs[best] - cost(taken)), rel=1e-6)
        taken.append(channel)
    assert len(taken) == 5


def test_of_many_channels_several_leave_at_once_but_not_with_their_copies() -> None:
    chance = torch.Generator().manual_seed(7)
    x = torch.randn(500, 100, generator=chance, dtype=torch.double)
    x[:, 50:] = x[:, :50]  # each has a copy, so that alone it costs nothing
    weight = weights(6, 3, 100)
    layer = problem(x, weight, torch.arange(100), ridge=1e-6)
    order, gains = sweep([layer], torch.ones(100).bool(), backward=True)
    assert sorted(order.tolist()) == list(range(100))
    assert sorted((order[:50] % 50).tolist()) == list(range(50))  # one of each pair
    assert gains[:50].max() < 1e-4 * gains[50:].sum()
    forward, gains = sweep([layer], torch.ones(100).bool(), backward=False)
    assert sorted((forward[:50] % 50).tolist()) == list(range(50))
    assert float(gains.sum()) == pytest.approx(1, rel=0.05)


def test_of_two_copies_one_costs_nothing_and_the_other_does() -> None:
    x = rows(4, 4)
    x[:, 3] = x[:, 1]
    layers = [problem(x, weights(4, 3, 4), torch.arange(4), ridge=1e-9)]
    order, gains = sweep(layers, torch.ones(4).bool(), backward=True)
    assert order[0] in (1, 3)
    assert gains[0] < 1e-6
    assert gains[1:].min() > 1e-3


def test_inputs_that_never_vary_leave_first_and_come_last() -> None:
    x = rows(5, 5)
    x[:, 2] = 7
    free = torch.ones(5).bool()
    for ridge in (0.0, 1e-4):
        layers = [problem(x, weights(5, 3, 5), torch.arange(5), ridge=ridge)]
        backward, costs = sweep(layers, free, backward=True)
        forward, gains = sweep(layers, free, backward=False)
        assert backward[0] == forward[-1] == 2
        assert costs[0] <= 1e-9 + ridge
        assert gains[-1] < 1e-9


def test_few_rows_get_a_larger_ridge() -> None:
    moments = Moments(1, 50, 0, torch.device("cpu"))
    moments.add(torch.randn(20, 1, 50), torch.zeros(20, 1, 0))
    assert moments.ridge(None) == pytest.approx(50 / 20 / 100)
    assert moments.ridge(1e-7) == 1e-7
    moments.rows += 1e6
    assert moments.ridge(None) == 1e-4
