"""What the bench of latency says of rows."""

from typing import Any

from tools.bench.latency import goals


def rows(measured: float, time: float, by_time: float) -> list[dict[str, Any]]:
    """Make the rows of one network, with work at half of the time."""
    own = {"network": "net", "threads": 1}
    halves = {"dense": 1.0, "work": 0.55, "time": time, "work, by time": by_time}
    found = [own | {"what": "half", "way": way, "share": share} for way, share in halves.items()]
    return [own | {"what": "prediction", "predicted": 1.0, "measured": measured}, *found]


def test_goals_are_reached_or_missed_one_by_one() -> None:
    assert goals([]) == []
    assert [good for _, good in goals(rows(1.05, 0.52, 0.5))] == [True] * 4
    assert [good for _, good in goals(rows(1.20, 0.52, 0.5))] == [False, True, True, True]
    assert [good for _, good in goals(rows(1.05, 0.45, 0.5))] == [True, False, True, True]
    assert [good for _, good in goals(rows(1.05, 0.52, 0.58))] == [True, True, False, True]
    assert [good for _, good in goals(rows(1.05, 0.52, 0.6))][-1] is False
    assert "2.00 times faster" in goals(rows(1.05, 0.52, 0.5))[-1][0]
