"""What each rank of the distributed test repairs; a module of its own, so that ranks can import."""

from torch import Tensor

import slimgraph as sg
from slimgraph.compensate import (
    project,
    prune_in_turn,
    recalibrate,
    reconstruct,
    shift_means,
)
from slimgraph.importance import Sampling
from tests.compensate.test_least_squares import images
from tests.compensate.test_projection import KEPT, with_bias

ALL = Sampling(points=10_000)


def weights(rank: int, ranks: int) -> dict[str, Tensor]:
    """Repair by this rank's share of the batches, in every way."""
    data = images(4)[rank::ranks]
    traced = sg.trace(with_bias(bias=False, norm=True), data[0][:2])
    graph = sg.analyze(traced)
    models = {name: sg.compress(graph, {"0": KEPT}) for name in ("p", "s", "r", "b")}
    project(traced, models["p"], data, sampling=ALL)
    shift_means(graph, models["s"], data)
    reconstruct(traced, models["r"], data, points=10_000)
    recalibrate(models["b"], data)
    models["t"] = prune_in_turn(graph, {"0": 5}, data, sampling=ALL).model
    return {f"{n}.{key}": t for n, m in models.items() for key, t in m.state_dict().items()}
