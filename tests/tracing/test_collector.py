"""The garbage collector rests while graphs are built, and only then."""

import gc
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import TraceError


class Watching(nn.Module):
    """Notes whether the collector runs while it is traced."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.fails = fails
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(gc.isenabled())
        if self.fails:
            raise RuntimeError("on purpose")
        return self.layer(x)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    running = gc.isenabled()
    yield
    (gc.enable if running else gc.disable)()


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_rests_while_a_model_is_traced_and_is_as_before_afterwards(
    running: bool, fails: bool
) -> None:
    model = Watching(fails=fails)
    (gc.enable if running else gc.disable)()
    if fails:
        with pytest.raises(TraceError, match="on purpose"):
            sg.trace(model, torch.randn(2, 4), fallback=False)
    else:
        sg.trace(model, torch.randn(2, 4))
    assert model.seen
    assert not any(model.seen)
    assert gc.isenabled() is running


def test_warnings_name_the_line_that_called() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.qr(x)[0]

    traced = sg.trace(nn.Sequential(nn.Linear(4, 4), Sorted()), torch.randn(4, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sg.analyze(traced)
    assert [warning.filename for warning in caught] == [__file__]
