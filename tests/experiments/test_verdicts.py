"""The verdicts of the one-shot experiment and its page say what the rows say."""

from typing import Any

import pytest

from tools.experiments.one_shot_page import page
from tools.experiments.verdicts import Way, ahead, best, cells, closed, goals, share_closed

FULL = {"tool": "dense", "criterion": "dense", "repair": "none", "share": 1.0}
OBS = {"tool": "slimgraph", "criterion": "obs", "repair": "reconstruct", "share": 0.5}
L2 = {"tool": "torch-pruning", "criterion": "l2, local", "repair": "recalibrate", "share": 0.5}


def row(way: dict[str, Any], accuracy: float, **changes: Any) -> dict[str, Any]:
    found = {
        **way, "seed": 0, "tuned": None, "run": 0, "macs": way["share"], "params": 5,
        "held_out": accuracy, "accuracy": accuracy, "seconds": 1.0,
    }  # fmt: skip
    return found | changes


def failed(way: dict[str, Any], *, refused: bool) -> dict[str, Any]:
    return {**way, "seed": 0, "tuned": None, "run": 0, "failed": "E: a | b", "refused": refused}


def rows(own: float = 0.85, tuned: float = 0.88) -> list[dict[str, Any]]:
    return [
        row(FULL, 0.9), row(OBS, own), row(L2, 0.6), row(OBS, tuned, tuned=0),
        row(OBS, tuned + 0.02, tuned=1), row(L2, 0.87, tuned=0), row(L2, 0.87, tuned=1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dense", "peer", "own", "share"),
    [
        (0.9, 0.6, 0.8, 2 / 3),
        (0.9, 0.6, 0.5, -1 / 3),
        (0.9, 0.6, 0.95, 1.0),
        (0.9, 0.9, 0.9, 1.0),
        (0.9, 0.91, 0.9, 0.0),
    ],
)
def test_how_much_of_the_gap_is_closed(dense: float, peer: float, own: float, share: float) -> None:
    assert closed(dense, peer, own) == pytest.approx(share)


def test_the_best_way_is_found_on_held_out_images_and_reported_on_test_images() -> None:
    lucky = row(OBS | {"criterion": "l1"}, 0.89, held_out=0.1)
    found = cells([*rows(), lucky])
    assert best(found, "slimgraph", 0.5) == Way("slimgraph", "obs", "reconstruct", 0.5)
    assert best(found, "slimgraph", 0.6) is None
    assert share_closed([*rows(), lucky]) == pytest.approx(0.25 / 0.3)


def test_a_way_of_ours_that_misses_its_budget_is_none() -> None:
    heavy, late = row(OBS | {"criterion": "cap"}, 0.89, macs=0.51), row(L2, 0.7, macs=0.51)
    found = cells([row(OBS, 0.85), heavy, late])
    assert best(found, "slimgraph", 0.5) == Way("slimgraph", "obs", "reconstruct", 0.5)
    assert best(found, "torch-pruning", 0.5) is not None, "the peer may be above"


def test_seeds_are_averaged() -> None:
    cell = cells([row(OBS, 0.8), row(OBS, 0.9, seed=1)])[Way(**OBS)]
    assert cell.accuracy == pytest.approx(0.85)
    assert cell.spread == pytest.approx(0.1 / 2**0.5)


def test_goals_are_reached_or_missed() -> None:
    assert [goal.reached for goal in goals({"net": rows()})] == [True, True, True]
    assert [goal.reached for goal in goals({"net": rows(own=0.79)})] == [False, True, True]
    assert ahead(rows(tuned=0.8)) == pytest.approx([-0.07, -0.05])
    behind = goals({"net": rows(tuned=0.8)})
    assert [goal.reached for goal in behind] == [True, False, False]
    assert str(behind[1]).startswith("MISSED: net: after the same fine-tuning")
    assert "-6.00% ± 1.41%" in behind[1].text


def test_what_was_not_measured_is_missed() -> None:
    assert not any(goal.reached for goal in goals({"net": []}))


def test_a_crash_of_ours_is_missed_and_a_refusal_is_not() -> None:
    found = goals({"net": [*rows(), failed(OBS | {"criterion": "l1"}, refused=False)]})
    assert "1 rows of ours crashed" in found[0].text
    assert not found[0].reached
    refused = goals({"net": [*rows(), failed(OBS | {"criterion": "l1"}, refused=True)]})
    assert all(goal.reached for goal in refused)


def test_a_peer_that_fails_leaves_nothing_to_compare() -> None:
    alone = [row(FULL, 0.9), row(OBS, 0.85), failed(L2, refused=False)]
    found = goals({"net": rows(), "alone": alone})
    assert any("every way of the peer fails" in goal.text for goal in found)
    assert all(goal.reached for goal in found)


def test_the_page_shows_the_gap_and_what_failed() -> None:
    settings = {
        "data": "digits", "width": 0.5, "images": 64, "selections": True,
        "training": {"steps": 10, "batch": 8},
    }  # fmt: skip
    run = {
        "date": "2020-01-02T03:04:05", "commit": "abc", "versions": {"torch": "2"},
        "machine": {"processor": "fast", "cores": 2, "threads": 1},
    }  # fmt: skip
    measured = [*rows(), failed(OBS | {"criterion": "l1"}, refused=True)]
    text = page({"resnet-20": {"settings": settings, "runs": [run], "rows": measured}})
    line = "| resnet-20 | 90.00 | 85.00 | obs + reconstruct | 85.00 | 60.00 | "
    assert f"{line}l2, local + recalibrate | 83% |" in text
    assert "- slimgraph, l1 + reconstruct at 0.5: `E: a / b`" in text
    assert "**MISSED**: vgg-19-bn: at half the work" in text, "it was not measured"
    assert "Measured 2020-01-02 at abc on fast, 2 cores, 1 threads; torch 2." in text
