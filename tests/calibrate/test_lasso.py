"""The LASSO over channels against its optimality conditions and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from slimgraph.calibrate.lasso import Matrix, Vector, chosen, descend, entries, factor_moments
from slimgraph.calibrate.subsets import Regression
from tests.calibrate.test_subsets import problem, rows, weights

CHANNELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
FREE = torch.tensor([1, 1, 0, 1, 1, 1]).bool()


def made() -> tuple[Matrix, Vector, np.ndarray, np.ndarray]:
    """Return the quadratic form, and the rows it stands for: parts of the output, and the rest."""
    x, weight = rows(0, 12), weights(0, 3, 12)
    layer = problem(x, weight, CHANNELS)
    centered = x - x.mean(0)
    parts = [centered[:, c == CHANNELS] @ weight[:, c == CHANNELS].mT for c in range(6)]
    rest = torch.stack(parts).sum(0) - parts[2]  # channel 2 stays
    scale = layer.energy**0.5
    columns = torch.stack([parts[c].flatten() / scale for c in (0, 1, 3, 4, 5)], 1)
    channels, gram, cross = factor_moments([layer], FREE)
    assert channels.tolist() == [0, 1, 3, 4, 5]
    return gram, cross, columns.numpy(), (rest.flatten() / scale).numpy()


def test_the_quadratic_form_is_that_of_the_rows() -> None:
    gram, cross, columns, rest = made()
    np.testing.assert_allclose(gram, columns.T @ columns / 200)
    np.testing.assert_allclose(cross, columns.T @ rest / 200)
    np.testing.assert_allclose(cross, gram.sum(1))  # all factors one is what the layer does


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
def test_factors_are_those_of_scikit_learn_and_optimal(share: float) -> None:
    gram, cross, columns, rest = made()
    penalty = share * float(np.abs(cross).max())
    found = descend(gram, cross, penalty, np.zeros(5), 1e-10)
    count = len(columns)
    other = Lasso(alpha=penalty * 200 / count, fit_intercept=False, tol=1e-12, max_iter=100_000)
    np.testing.assert_allclose(found, other.fit(columns, rest).coef_, atol=1e-7)
    slope = cross - gram @ found
    assert np.abs(slope).max() <= penalty * (1 + 1e-7)
    np.testing.assert_allclose(slope[found != 0], penalty * np.sign(found[found != 0]))


def test_no_penalty_keeps_all_and_the_largest_none() -> None:
    gram, cross, _, _ = made()
    np.testing.assert_allclose(descend(gram, cross, 0.0, np.zeros(5), 1e-10), 1, rtol=1e-6)
    largest = float(np.abs(cross).max())
    assert not descend(gram, cross, largest, np.zeros(5)).any()
    assert descend(gram, cross, largest * 0.99, np.zeros(5)).any()


@pytest.mark.parametrize("count", range(6))
def test_exactly_as_many_as_asked_are_chosen(count: int) -> None:
    gram, cross, _, _ = made()
    keep = chosen(gram, cross, count)
    assert int(keep.sum()) == count
    if 0 < count < 5:  # and they are those of some penalty
        sets = [
            frozenset(np.flatnonzero(descend(gram, cross, p, np.zeros(5))).tolist())
            for p in np.geomspace(1e-4, 1, 400) * np.abs(cross).max()
        ]
        assert frozenset(keep.nonzero().flatten().tolist()) in sets


def test_of_equal_channels_as_many_as_asked_are_chosen() -> None:
    gram, cross = np.full((4, 4), 1.0), np.full(4, 4.0)
    assert [int(chosen(gram, cross, count).sum()) for count in range(5)] == [0, 1, 2, 3, 4]


def test_channels_enter_where_their_parts_are_large() -> None:
    x = torch.eye(4, dtype=torch.double).repeat(5, 1)  # columns that have nothing in common
    weight = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).double()
    layer = Regression(x.mT @ x / 20, weight, weight, torch.arange(4), 1.0, 0.0)
    _, gram, cross = factor_moments([layer], torch.ones(4).bool())
    found = entries(gram, cross)
    # Alone, a factor is zero from its own cross moment on: the square of its weight.
    np.testing.assert_allclose(found, np.array([1, 16, 4, 9]) / 16, rtol=0.2)
    assert np.argsort(found).tolist() == [0, 2, 3, 1]
