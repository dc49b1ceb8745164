"""Curves and errors: what is measured, and that nothing is left of measuring."""

import pytest
import torch
from torch import nn

import slimgraph as sg
from slimgraph.curves import output_error
from slimgraph.errors import BudgetError, SlimgraphError


@pytest.fixture
def net() -> nn.Module:
    """A classifier."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))


def test_a_curve_begins_at_the_dense_model_and_meets_its_budgets(net: nn.Module) -> None:
    graph = sg.analyze(sg.trace(net, torch.ones(1, 4)))
    data = [torch.randn(64, 4)]
    said: list[str] = []
    found = sg.curve(
        graph, sg.score(graph), sg.agreement(net, data), shares=(0.25, 0.5),
        repair=lambda dense, small: sg.compensate.reconstruct(dense, small, data),
        progress=said.append,
    )  # fmt: skip
    assert found["points"][0] == {"share": 1.0, "before": 1.0, "after": 1.0}
    shares = [point["share"] for point in found["points"][1:]]
    assert shares[0] <= 0.5
    assert shares[1] <= 0.25
    assert len(said) == 2
    assert all(0 <= point[k] <= 1 for point in found["points"] for k in ("before", "after"))
    assert found["points"][-1]["before"] < 1


@pytest.mark.parametrize("shares", [(), (0.0,), (1.5,)])
def test_shares_out_of_range_are_refused(net: nn.Module, shares: tuple[float, ...]) -> None:
    graph = sg.analyze(sg.trace(net, torch.ones(1, 4)))
    with pytest.raises(BudgetError, match="lie in"):
        sg.curve(graph, sg.score(graph), lambda _: 1.0, shares=shares)


def test_agreement_counts_equal_answers_and_reads_no_labels(net: nn.Module) -> None:
    data = [(torch.randn(50, 4), torch.zeros(50))]
    other = nn.Linear(4, 3)
    with torch.no_grad():
        wanted = (net(data[0][0]).argmax(1) == other(data[0][0]).argmax(1)).double().mean()
    assert sg.agreement(net.train(), data)(other) == float(wanted)
    assert net.training


def test_agreement_refuses_what_gives_no_classes() -> None:
    with pytest.raises(SlimgraphError, match="no scores of classes"):
        sg.agreement(nn.Flatten(0), [torch.ones(2, 3)])


def test_output_errors_are_shares(net: nn.Module) -> None:
    zero = nn.Linear(4, 3)
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    data = [torch.randn(8, 4)]
    assert output_error(net, net, data) == 0
    assert output_error(net, zero, data) == pytest.approx(1)
    assert output_error(zero, net, data) is None


def test_slim_reports_that_repair_lowers_the_error(net: nn.Module) -> None:
    data = [torch.randn(256, 4)]
    errors = sg.slim(net, torch.ones(1, 4), channels=0.5, data=data).report["errors"]
    before, after = (each["error"] for each in errors["steps"])
    assert 0 < after < before
