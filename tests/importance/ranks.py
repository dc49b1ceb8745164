"""What each rank of the distributed test scores; a module of its own, so that ranks can import."""

import torch
from torch import Tensor

import slimgraph as sg
from slimgraph.importance import DATA_CRITERIA, Sampling, subset_scores
from tests.groups.models import Residual
from tests.importance.test_subset_scores import analyzed, images

SUBSETS = ("obs", "cap", "lasso")


def scores(rank: int, ranks: int) -> dict[str, Tensor]:
    """Score by this rank's share of the batches."""
    torch.manual_seed(0)
    graph = analyzed(Residual())
    data = images(4)[rank::ranks]
    pairs = [(batch, torch.ones(16, 2, 4, 4).double()) for batch in data]
    found = {}
    for name in DATA_CRITERIA:
        if name in SUBSETS:
            found[name] = subset_scores(graph, data, name, sampling=Sampling(points=100))  # type: ignore[arg-type]
        else:
            found[name] = sg.score(graph, name, data=pairs, loss=torch.nn.functional.mse_loss)
    return found
