"""`slim(..., data=)` scores by data, and repairs what is left."""

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.compensate import recalibrate
from slimgraph.errors import SlimgraphError
from tests.nets.base import randomized

IMAGES = [torch.randn(16, 3, 8, 8, dtype=torch.double) for _ in range(4)]
FRESH = torch.randn(64, 3, 8, 8, dtype=torch.double)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.inner, self.outer = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(x.mean((2, 3)))


def trained() -> nn.Module:
    """Build a net whose norm knows the statistics of such images, as training leaves it."""
    model = randomized(Residual())
    recalibrate(model, IMAGES)
    return model


def off(model: nn.Module, small: nn.Module) -> float:
    """Compare answers on images that nobody has looked at."""
    with torch.no_grad():
        wanted = model(FRESH)
        return float((small(FRESH) - wanted).square().mean() / wanted.var(0).mean())


def test_it_is_nearer_to_the_model_than_without() -> None:
    model = trained()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = sg.slim(model, FRESH[:2], macs=0.5)
    found = sg.slim(model, FRESH[:2], macs=0.5, data=IMAGES)
    assert off(model, found.model) < 0.5 * off(model, plain.model)
    assert found.report["settings"]["criterion"] == "obs"
    assert found.report["settings"]["repair"] == "reconstruct, recalibrate"
    assert plain.report["settings"]["criterion"] == "l2"
    assert "repair" not in plain.report["settings"]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_pairs_will_do_and_a_mask_is_kept() -> None:
    model, mask = trained(), {"inner": torch.arange(16) % 2 == 0}
    pairs = [(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in IMAGES]
    found = sg.slim(model, FRESH[:2], mask=mask, data=pairs)
    assert torch.equal(found.mask["inner"], mask["inner"])
    exact = sg.slim(model, FRESH[:2], mask=mask)
    assert off(model, found.model) < off(model, exact.model)


@pytest.mark.parametrize("criterion", ["l1", "cap"])
def test_any_criterion_may_choose(criterion: str) -> None:
    model = trained()
    found = sg.slim(model, FRESH[:2], channels=0.6, criterion=criterion, data=IMAGES)
    assert found.report["settings"]["criterion"] == criterion


def test_data_that_nobody_could_use_is_refused() -> None:
    model = trained()
    with pytest.raises(SlimgraphError, match="`data` has no use without a budget or a mask"):
        sg.slim(model, FRESH[:2], data=IMAGES)
    with pytest.raises(SlimgraphError, match="once"):
        sg.slim(model, FRESH[:2], macs=0.5, data=iter(IMAGES))
