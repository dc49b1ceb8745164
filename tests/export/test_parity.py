import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from slimgraph.errors import ParityError
from slimgraph.parity import Parity, compare, named_leaves, require_parity, worst_of

ONES = torch.ones(2, 3)


@dataclass(frozen=True)
class Output:
    """What a model may return."""

    boxes: torch.Tensor
    extra: object = None


Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024 - models return untyped ones

NAMES = [
    (ONES, ["output"]),
    ((ONES, [ONES, ONES]), ["output", "output_1", "output_2"]),
    ({"a": ONES, "b": (ONES, ONES)}, ["a", "b.0", "b.1"]),
    ((ONES, {"a": ONES}), ["output", "1.a"]),
    (OrderedDict(z=ONES, a=ONES), ["z", "a"]),
    (Output(ONES, extra=[ONES]), ["boxes", "extra.0"]),
    (Pair(ONES, ONES), ["left", "right"]),
    ((None, ONES, 3), ["output", "output_1"]),
    ({1: ONES, "1": ONES}, ["1", "1_"]),
    (np.ones(2), ["output"]),
    ((), []),
]


@pytest.mark.parametrize(("value", "names"), NAMES, ids=str)
def test_values_are_named_after_how_they_are_reached(value: Any, names: list[str]) -> None:
    assert [name for name, _ in named_leaves(value)] == names


def test_equal_values_agree() -> None:
    value = {"a": ONES, "b": [ONES, torch.arange(3)], "c": 3.0, "d": torch.tensor([True])}
    results = compare(value, value, 0.0)
    assert [result.output for result in results] == ["a", "b.0", "b.1", "c", "d"]
    assert all(result.ok and result.max_abs == result.max_rel == 0 for result in results)


def test_the_error_is_relative_to_the_largest_value() -> None:
    reference = torch.tensor([0.0, -4.0, 2.0])
    candidate = torch.tensor([0.0, -4.0, 2.5])
    (result,) = compare(reference, candidate, 0.1)
    assert result == Parity("output", 0.5, 0.125, 0.1, ok=False)
    assert compare(reference, candidate, 0.125)[0].ok
    assert result.to_dict() == {
        "output": "output",
        "max_abs": 0.5,
        "max_rel": 0.125,
        "tolerance": 0.1,
        "ok": False,
    }


def test_beside_zeros_the_error_is_absolute() -> None:
    (result,) = compare(torch.zeros(3), torch.full((3,), 0.5), 0.1)
    assert (result.max_abs, result.max_rel, result.ok) == (0.5, 0.5, False)


def test_not_finite_values_must_be_in_the_same_places() -> None:
    nan, inf = math.nan, math.inf
    value = torch.tensor([nan, inf, -inf, 1.0])
    assert compare(value, value.clone(), 0.0)[0].ok
    assert compare(torch.tensor([nan]), torch.tensor([nan]), 0.0)[0].ok
    for other in ([nan, inf, inf, 1], [nan, inf, 0, 1], [0, inf, -inf, 1], [nan, inf, -inf, nan]):
        (result,) = compare(value, torch.tensor(other), 1.0)
        assert not result.ok
        assert str(result) == "`output`: NaN or infinite values in different places"


def test_integers_and_bools_must_be_equal() -> None:
    assert not compare(torch.tensor([1000]), torch.tensor([1001]), 0.1)[0].ok
    assert not compare(torch.tensor([True]), torch.tensor([False]), 10.0)[0].ok


def test_complex_values_are_compared_part_by_part() -> None:
    value = torch.tensor([1 + 2j])
    assert compare(value, value + 1e-6j, 1e-5)[0].ok
    assert not compare(value, value.conj().resolve_conj(), 1e-5)[0].ok


def test_another_shape_is_a_failure() -> None:
    (result,) = compare(torch.ones(1, 3), torch.ones(3), 1.0)
    assert str(result) == "`output`: shape (3,) instead of (1, 3)"
    assert not result.ok
    assert result.max_abs == math.inf


def test_missing_and_surplus_values_are_failures() -> None:
    missing = compare({"a": ONES, "b": ONES}, {"a": ONES}, 1.0)
    assert [(result.output, result.ok, result.note) for result in missing] == [
        ("a", True, ""),
        ("b", False, "is missing"),
    ]
    surplus = compare({"output_1": ONES}, (ONES, ONES), 1.0)
    assert [(result.ok, result.note) for result in surplus] == [
        (True, ""),
        (False, "has no reference"),
    ]


def test_values_are_paired_by_name_or_else_by_place() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert all(result.ok for result in compare({"a": one, "b": two}, {"b": two, "a": one}, 0.0))
    by_place = compare({"a": one, "b": two}, [one.numpy(), two.numpy()], 0.0)
    assert [result.output for result in by_place if result.ok] == ["a", "b"]


def test_without_a_tolerance_the_dtype_decides() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        (result,) = compare(torch.ones(1, dtype=dtype), torch.ones(1, dtype=dtype))
        assert result.tolerance == pytest.approx(torch.finfo(dtype).eps ** 0.5)


def test_narrow_types_get_some_epsilons() -> None:
    half = torch.ones(1, dtype=torch.float16)
    assert compare(half, half, 1e-4)[0].tolerance == pytest.approx(8 * torch.finfo(half.dtype).eps)
    assert compare(half, half, 0.5)[0].tolerance == 0.5
    assert compare(half, half, 0.0)[0].tolerance == 0.0
    assert compare(half.double(), half, 1e-12)[0].tolerance == 1e-12


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(ParityError) as caught:
        compare({"a": [object()]}, {"a": [object()]}, 1.0)
    assert str(caught.value).startswith("cannot compare a value of type `object`\n  at: `a.0`\n")


def test_the_worst_output_is_named() -> None:
    results = compare([ONES, ONES, ONES], [ONES, ONES * 1.5, ONES * 1.1], 0.01)
    with pytest.raises(ParityError) as caught:
        require_parity(results, "this and that", "a batch of 2")
    assert str(caught.value) == (
        "this and that disagree: output `output_1` is off by 0.5, tolerance 0.01\n"
        "  at: a batch of 2\n\n"
        "hint: raise the tolerance if this is rounding; else it is a bug"
    )
    require_parity(results[:1], "this and that")


def test_runs_are_merged_into_the_worst() -> None:
    runs = [compare([ONES, ONES], [ONES * a, ONES * b], 0.1) for a, b in ((1, 1.2), (1.1, 1))]
    assert [round(result.max_rel, 3) for result in worst_of(runs)] == [0.1, 0.2]
