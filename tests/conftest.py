"""What holds for every test: one thread, fixed seeds, deterministic kernels."""

import random

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(mode=True)


def seed() -> None:
    """Set every random state there is."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - scikit-learn draws from the global state
    torch.manual_seed(0)


seed()  # also what is drawn while tests are collected: each worker must collect the same ones


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and say so in the last line, what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    without = [item for item in items if item.get_closest_marker("gpu")]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is: what a test of the core promises must hold on a GPU as well."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Start every test from the same random state, whatever ran before it."""
    seed()
