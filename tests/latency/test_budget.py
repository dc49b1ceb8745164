"""Budgets of time are met, by prediction and by what is measured; on made-up times."""

import json
from pathlib import Path

import pytest
import torch

import slimgraph as sg
from slimgraph.errors import BudgetError
from slimgraph.latency import Table, TimeBudget, choose_in_time, latency_model
from slimgraph.latency.choose import TimedGreedy
from slimgraph.select.candidates import Candidates, Limits
from tests.cli.command import run
from tests.latency.test_operators import Mobile


@pytest.fixture
def graph() -> sg.DependencyGraph:
    torch.manual_seed(0)
    return sg.analyze(sg.trace(Mobile().eval(), torch.randn(1, 3, 32, 32)))


@pytest.mark.parametrize("given", ["0", "1.1", "-3ms", "0ms", "soon", "12 s", -0.5, 2.0])
def test_what_is_no_time_is_refused(given: float | str) -> None:
    with pytest.raises(BudgetError) as caught:
        TimeBudget.of(given)
    assert "12ms" in (caught.value.hint or "")


def test_shares_and_milliseconds_are_read() -> None:
    assert TimeBudget.of(0.5).share(8.0) == 0.5
    assert TimeBudget.of("0.25").share(8.0) == 0.25
    assert TimeBudget.of("2 ms").share(8.0) == 0.25
    with pytest.raises(BudgetError, match="at least 1"):
        TimeBudget.of(0.5, threads=0)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_the_prediction_meets_the_budget_in_whole_blocks(
    graph: sg.DependencyGraph, share: float
) -> None:
    model = latency_model(graph, table=Table(folder=None), runs=1)
    candidates = Candidates(graph, sg.score(graph, "l1"))
    keep = TimedGreedy(model, candidates).shrink_to(share * model.dense)
    assert model.predict(keep) <= share * model.dense * (1 + 1e-9)
    assert not bool((~keep & graph.frozen).any())
    up = graph.group_of("up.0").components
    assert int(keep[up].sum()) % 16 == 0, "time only falls in blocks"


@pytest.mark.usefixtures("made_up")
def test_limits_and_a_second_budget_are_heeded(graph: sg.DependencyGraph) -> None:
    model = latency_model(graph, table=Table(folder=None), runs=1)
    scores = sg.score(graph, "l1")
    limited = Candidates(graph, scores, Limits(keep=("up.0",)))
    keep = TimedGreedy(model, limited).shrink_to(0.9 * model.dense)
    assert bool(keep[graph.group_of("up.0").components].all())
    capped = TimedGreedy(model, Candidates(graph, scores), sg.Budget.of(params=0.4))
    keep = capped.shrink_to(0.9 * model.dense)
    before = Candidates(graph, scores).cost(torch.ones_like(keep), "params")
    assert capped.candidates.cost(keep, "params") <= 0.4 * before
    with pytest.raises(BudgetError, match="ms may remain"):
        TimedGreedy(model, Candidates(graph, scores)).shrink_to(1e-3 * model.dense)


def test_what_is_measured_corrects_the_prediction(graph: sg.DependencyGraph, made_up: Path) -> None:
    scores = sg.score(graph, "l1")
    found = choose_in_time(graph, scores, TimeBudget.of(0.8))
    told = found.to_dict()
    assert told["share"] <= 0.8 * 1.01
    assert told["share"] == pytest.approx(told["slim_ms"] / told["dense_ms"])
    assert told["attempts"][0]["aim"] == 0.8
    assert len(told["attempts"]) > 1, "files do not shrink as made-up times do"
    assert told["operators_measured"] > 0
    assert list(made_up.rglob("*.json")), "the table is kept"
    again = choose_in_time(graph, scores, TimeBudget.of(0.8))
    assert again.measured == 0
    assert torch.equal(found.keep, again.keep)


@pytest.mark.usefixtures("made_up")
def test_slim_says_what_it_came_to(graph: sg.DependencyGraph) -> None:
    result = sg.slim(graph.traced, latency=0.7, threads=1)
    told = result.report["settings"]
    assert told["budget"] == {"latency": 0.7}
    assert told["latency"]["share"] <= 0.7 * 1.01
    assert result.report["totals"]["after"]["params"] < result.report["totals"]["before"]["params"]
    both = sg.slim(graph.traced, latency=0.7, params=0.3).report
    assert both["totals"]["after"]["params"] <= 0.3 * both["totals"]["before"]["params"]
    with pytest.raises(BudgetError, match="threads"):
        sg.slim(graph.traced, macs=0.5, threads=2)
    with pytest.raises(BudgetError, match="out of range"):
        sg.slim(graph.traced, latency=3)


@pytest.mark.usefixtures("made_up")
def test_a_time_that_no_choice_meets_is_an_error(graph: sg.DependencyGraph) -> None:
    for given in (0.01, "0.001ms"):
        with pytest.raises(BudgetError, match=r"may remain|no choice met") as caught:
            choose_in_time(graph, sg.score(graph, "l1"), TimeBudget.of(given))
        assert "allow more" in (caught.value.hint or "")


@pytest.mark.usefixtures("made_up")
def test_the_command_says_how_long_it_takes(graph: sg.DependencyGraph, tmp_path: Path) -> None:
    sg.save(graph.traced, tmp_path / "model.slim")
    words = ("model.slim", "--onnx", "out.onnx", "--latency", "0.8", "--report", "r.json")
    ran = run(tmp_path, "slimgraph-export", *words)
    assert ran.code == 0, ran.stderr
    told = json.loads((tmp_path / "r.json").read_text())["settings"]["latency"]
    assert f"{100 * told['share']:.1f} %" in ran.stderr
    assert f"{told['slim_ms']:.2f} ms" in ran.stderr
