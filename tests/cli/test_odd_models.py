"""Models that are no plain image classifiers, and inputs that do not fit them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import slimgraph as sg
from tests.cli.conftest import Run

SOURCE = """
import torch
from torch import nn


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(16, 3)
        self.mix = nn.Linear(8, 16)

    def forward(self, ids, scale=None):
        y = torch.relu(self.mix(self.embed(ids)))
        return self.head(y if scale is None else y * scale)


class Pairs(Words):
    def forward(self, batch):
        return super().forward(batch["ids"], batch["scale"])


def half():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).half()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.branch, self.head = Branching(), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.branch(self.trunk(x)))


class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, images):
        found = self.trunk(images)
        return found if found.sum() > 0 else -found


class Mapping(Looping):
    def forward(self, images):
        return {"out": torch.func.vmap(torch.sin)(self.trunk(images))}
"""


@pytest.fixture(autouse=True)
def odd(here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`odd.py` in the current folder, and the weights of its models."""
    (here / "odd.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    monkeypatch.syspath_prepend(str(here))
    module = pytest.importorskip("odd")
    for name in ("Words", "Pairs", "half", "Opaque", "Looping", "Mapping"):
        torch.save(getattr(module, name)().state_dict(), here / f"{name}.pt")
    return module


def to(name: str, *shapes: str) -> list[str]:
    given = [part for shape in shapes for part in ("--input-shape", shape)]
    return [f"{name}.pt", "--arch", f"odd:{name}", *given]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("Words", ["2,7:int64"]), ("Words", ["ids=2,7:int64"]),
        ("Words", ["scale=2,1,1", "ids=2,7:int32"]), ("half", ["1,3,8,8"]),
        ("half", ["1,3,8,8:float16"]),
    ],
)  # fmt: skip
def test_inputs_have_dtypes_and_names(
    here: Path, export: Run, name: str, shapes: list[str]
) -> None:
    ran = export(*to(name, *shapes), "--onnx", "o.onnx", "--params", "0.8")
    assert ran.code == 0, ran.err
    assert (here / "o.onnx").exists()


@pytest.mark.parametrize(
    ("name", "shapes", "says"),
    [
        ("Words", ["2,7"], "`--input-shape 2,7:int64`"),
        ("Words", ["idz=2,7:int64"], "missing a required argument: 'ids'"),
        ("Words", ["ids=2,7:int64", "2,1,1"], "write `--input-shape NAME=SHAPE` for every input"),
        ("Pairs", ["2,7:int64"], "slimgraph.save(slimgraph.trace(model, inputs), 'model.slim')"),
        ("half", ["1,3,8,8:int64"], "give floating-point example inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_explained(
    export: Run, name: str, shapes: list[str], says: str
) -> None:
    ran = export(*to(name, *shapes), "--onnx", "o.onnx", "--params", "0.8")
    assert ran.code == 1
    assert ran.err.startswith("error: ")
    assert says in ran.err
    assert "unexpected" not in ran.err


@pytest.mark.parametrize(
    ("text", "says"),
    [("2,7:int65", "is no dtype"), ("2,7:", "is no shape"), ("a b=2,7", "no name of an argument"),
     ("ids=", "is no shape"), ("0,3", "is no shape")],
)  # fmt: skip
def test_an_input_that_says_nothing_is_wrong_usage(export: Run, text: str, says: str) -> None:
    ran = export(*to("Words", text), "--onnx", "o.onnx")
    assert ran.code == 2
    assert says in " ".join(ran.err.replace("│", " ").split())


def test_a_saved_model_with_structures_needs_no_shapes(here: Path, odd: Any, export: Run) -> None:
    inputs = ({"ids": torch.zeros(2, 7, dtype=torch.long), "scale": torch.ones(2, 1, 1)},)
    sg.save(sg.trace(odd.Pairs(), inputs), here / "pairs.slim")
    ran = export("pairs.slim", "--onnx", "o.onnx", "--params", "0.8")
    assert ran.code == 0, ran.err


@pytest.mark.filterwarnings("ignore:.*stays opaque")
def test_a_part_that_stays_python_is_reported_and_not_exported(
    here: Path, export: Run, report: Run
) -> None:
    ran = report(*to("Opaque", "1,3,8,8"))
    assert ran.code == 0
    assert "`branch`, a `Branching`, is an opaque leaf" in " ".join(ran.out.split())
    ran = export(*to("Opaque", "1,3,8,8"), "--onnx", "o.onnx", "--macs", "0.8")
    assert ran.code == 1
    assert "hint: `branch` stays Python" in ran.err
    assert "def forward" not in ran.err
    assert not (here / "o.onnx").exists()


@pytest.mark.filterwarnings("ignore:.*stays opaque")
def test_a_model_that_keeps_its_forward_is_refused_by_onnx_alone(export: Run, report: Run) -> None:
    assert report(*to("Looping", "1,3,8,8")).code == 0
    ran = export(*to("Looping", "1,3,8,8"), "--onnx", "o.onnx", "--macs", "0.8")
    assert ran.code == 1
    assert "hint: the model's forward stays Python" in ran.err


@pytest.mark.filterwarnings("ignore:.*stays opaque")
def test_a_forward_that_only_torch_export_follows_is_exported(here: Path, export: Run) -> None:
    ran = export(*to("Mapping", "1,3,8,8"), "--onnx", "o.onnx", "--macs", "0.8")
    assert ran.code == 0, ran.err
    assert (here / "o.onnx").exists()


def test_a_budget_that_cannot_be_met_is_named_as_it_was_asked_for(export: Run) -> None:
    ran = export("model.slim", "--onnx", "o.onnx", "--macs", "7")
    assert ran.code == 1
    assert "at most 7 macs may remain, but" in ran.err
