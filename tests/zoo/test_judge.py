"""The zoo's verdicts and its page say what the rows say."""

from typing import Any

import pytest

from tools.zoo import judge
from tools.zoo.page import page


def row(**changes: Any) -> dict[str, Any]:
    """Make the row of a model for which everything works."""
    exact = {
        "finished": True, "params": 10, "size": 64, "rung": "symbolic", "leaves": [], "groups": 3,
        "prunable_groups": 2, "channels": 8, "frozen_share": 0.5, "frozen_by_output": 0.25,
        "reasons": [{"reason": "softmax | whole", "channels": 2, "nodes": 1, "first": ""}],
        "params_left": 0.3, "seconds": {"trace": 0.25, "compare": 9.0}, "peak_mb": 812.4,
        "errors": [
            {"size": 64, "batch": 2, "error": 1e-15, "traced": 0.0},
            {"size": 96, "batch": 2, "error": 2e-15},
        ],
    }  # fmt: skip
    exact.update(changes)
    return {"kind": "classification", "exact": exact}


def document(rows: dict[str, Any]) -> dict[str, Any]:
    return {"machine": {"cores": 2}, "versions": {"torch": "2"}, "rows": rows}


def test_a_model_that_equals_its_masked_self_is_exact() -> None:
    assert judge.exact(row())
    assert judge.cause_of(row()["exact"]) is None


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"errors": [{"size": 64, "batch": 2, "error": 1e-6}]}, "the compressed model is off by"),
        (
            {"errors": [{"size": 64, "batch": 2, "error": 0.0, "traced": 0.1}]},
            "the traced model is off by",
        ),
        ({"errors": [{"size": 64, "batch": 2, "fixed": "no"}]}, "the masked model does not run"),
        ({"params_left": 1.0}, "nothing can be removed"),
        (
            {"finished": False, "crash": {"stage": "trace", "type": "E", "message": "m\nrest"}},
            "trace: E: m",
        ),
    ],
)
def test_what_goes_wrong_is_named(changes: dict[str, Any], cause: str) -> None:
    found = row(**changes)
    assert not judge.exact(found)
    assert (judge.cause_of(found["exact"]) or "").startswith(cause)


def test_a_model_without_any_free_channel_is_not_compressed() -> None:
    assert not judge.exact(row(params_left=1.0))


def test_the_peer_counts_only_where_it_works() -> None:
    fails = {**row(params_left=0.9), "peer": {"finished": False, "crash": {}}}
    assert judge.as_small_as_peer(fails)
    works = {**row(params_left=0.34), "peer": {"finished": True, "params_left": 0.3}}
    assert not judge.as_small_as_peer(works)
    works["exact"]["params_left"] = 0.32
    assert judge.as_small_as_peer(works)


def test_an_export_that_torch_refuses_as_well_is_no_fault() -> None:
    assert judge.exported({"onnx": {"exported": True, "error": 1e-6}})
    assert not judge.exported({"onnx": {"exported": True, "error": 1e-2}})
    assert judge.exported({"onnx": {"exported": False, "dense": {"exported": False}}})
    assert not judge.exported({"onnx": {"exported": False, "dense": {"exported": True}}})
    assert not judge.exported({"onnx": {"crash": {}}})


def test_verdicts_name_what_is_missing() -> None:
    rows = {"torchvision/a": row(), "torchvision/b": row(params_left=1.0)}
    (verdict,) = judge.verdicts(rows)
    assert not verdict.ok
    assert verdict.missing == ("torchvision/b",)
    assert str(verdict) == "MISSING: torchvision models compressed exactly: 1 of 2, 2 needed"


def test_the_page_has_one_line_per_model() -> None:
    rows = {"torchvision/a": row(), "timm/b": row(leaves=["head"], params_left=1.0)}
    text = page(document(rows))
    assert "| `a` | symbolic | 3 (2) | 0.50 (0.25) | 0.300 | - | 2e-15 | - | 0.25 | 812 |" in text
    assert "| `b` | symbolic, 1 leaf |" in text
    assert "- `timm/b`: nothing can be removed" in text
    assert "| softmax / whole | 2 | 4 |" in text
