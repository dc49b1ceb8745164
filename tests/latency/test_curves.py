"""Curves know what they measured, and learn what repeats."""

import pytest

from slimgraph.latency.curves import Curve, Steps

SLOW = (1.0, 1.4, 1.5, 1.6)  # by the remainder of 4


def stairs(count: int) -> float:
    """Blocks of sixteen, and a constant."""
    return 5.0 + -(-count // 16) * 16


def odd(count: int) -> float:
    """The same, but numbers that are no multiple of four are slower."""
    return stairs(count) * SLOW[count % 4]


def line(count: int) -> float:
    """Without steps."""
    return 3.0 + 0.5 * count


@pytest.mark.parametrize(("measure", "period"), [(stairs, 16), (odd, 16), (line, 1)])
def test_the_period_is_learned(measure: Curve, period: int) -> None:
    steps = Steps.learned(measure)  # type: ignore[arg-type]
    assert steps.period == period
    for count in range(1, 65):
        assert steps.above(count) % period == 0
        assert 0 <= steps.above(count) - count < period


def test_slow_remainders_are_factors() -> None:
    steps = Steps.learned(odd)
    assert [round(steps.factors[k], 6) for k in (0, 1, 2, 3, 5)] == [1.0, 1.4, 1.5, 1.6, 1.4]


@pytest.mark.parametrize("measure", [stairs, odd, line])
@pytest.mark.parametrize("full", [7, 24, 64, 200])
def test_a_curve_is_right_everywhere_though_few_points_are_measured(
    measure: Curve, full: int
) -> None:
    asked = []

    def watched(count: int) -> float:
        asked.append(count)
        return float(measure(count))  # type: ignore[operator]

    curve = Curve(full, watched, Steps.learned(measure))  # type: ignore[arg-type]
    for count in range(1, full + 1):
        assert curve.at(count) == pytest.approx(measure(count), rel=1e-9), count  # type: ignore[operator]
    assert len(asked) == len(set(asked)) <= 6


def test_it_is_measured_more_closely_where_it_bends() -> None:
    def bent(count: int) -> float:
        return float(max(count, 96))

    curve = Curve(256, bent)
    assert all(curve.at(n) == pytest.approx(bent(n), rel=0.05) for n in range(1, 257))
