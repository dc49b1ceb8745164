"""Plans are applied to classes whose forward takes structures, or cannot be traced as a whole."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.errors import PlanError
from slimgraph.parity import compare
from slimgraph.structures import holds_tensor
from tests.assertions import TOLERANCE, random_mask, run
from tests.nets.base import Net, block, conv, randomized

X = torch.randn(2, 3, 6, 6, dtype=torch.double)


class Nested(Net):
    """Takes a dict of lists, a pair, and a number; branches on a flag."""

    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "mid": block(8, 8), "head": conv(8, 2)}

    def forward(
        self,
        data: dict[str, Any],
        pair: tuple[Tensor, Tensor],
        *,
        scale: float,
        twice: bool = False,
    ) -> dict[str, Any]:
        x = data["x"][0] + pair[0] * data["n"] + pair[1]
        y = self.mid(self.stem(x) * scale)
        return {"out": self.head(self.mid(y) if twice else y), "rest": [x.mean(), scale]}


CALL: dict[str, Any] = {
    "data": {"x": [X, X + 1], "n": 3}, "pair": (X, torch.ones(2, 1, 1, 1).double()),
    "scale": 2.0, "twice": True,
}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    image: Tensor
    scale: Any


class Taking(Net):
    """Takes a dataclass."""

    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "head": conv(8, 2)}

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.stem(batch.image * batch.scale["x"]))


class Detector(Net):
    """Its own forward loops over images and filters what comes out."""

    def parts(self) -> dict[str, Any]:
        return {
            "trunk": nn.Sequential(block(3, 8), block(8, 6)),
            "boxes": nn.Sequential(conv(6, 5), nn.ReLU(), conv(5, 4)),
        }

    def forward(self, images: list[Tensor], least: float = 0.0) -> list[dict[str, Tensor]]:
        side = max(image.shape[-1] for image in images)
        batch = torch.stack([F.interpolate(image[None], size=(side, side))[0] for image in images])
        found = self.boxes(self.trunk(batch)).flatten(2).transpose(1, 2)
        return [{"boxes": rows[rows[:, 0] > least]} for rows in found]


CASES: dict[str, tuple[type[Net], Any]] = {
    "nested": (Nested, CALL),
    "record": (Taking, (Batch(X, {"x": X[:1]}),)),
    "hosted": (Detector, ([X[0], X[1, :, :5, :5]],)),
}


def tensors_only(inputs: Any) -> Any:
    if not isinstance(inputs, dict):
        return inputs
    return {name: value for name, value in inputs.items() if holds_tensor(value)}


quiet = pytest.mark.filterwarnings("ignore:.*cannot be traced and stays opaque")


@quiet
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_plan_shrinks_another_instance(name: str, saved: bool, tmp_path: Path) -> None:
    make, inputs = CASES[name]
    graph = sg.analyze(sg.trace(randomized(make()), inputs))
    mask = random_mask(graph, 0)
    assert len(mask)
    slim, plan = sg.compress(graph, mask), sg.compress(graph, mask).plan
    if saved:
        plan.save(tmp_path / "plan.safetensors")
        plan = sg.Plan.load(tmp_path / "plan.safetensors")
    model = randomized(make())
    if saved and name == "record":
        before = deepcopy(model.state_dict())
        with pytest.raises(PlanError, match="without the example inputs") as caught:
            plan.apply(model)
        assert "before it is saved" in str(caught.value.hint)
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        return
    small = plan.apply(model)
    given = tensors_only(inputs)  # what is no tensor is part of a traced model
    assert all(p.max_abs == 0 for p in compare(run(slim, given), run(small, inputs)))
    pairs = compare(run(sg.masked(graph, mask), given), run(small, inputs))
    assert max(p.max_rel for p in pairs) < TOLERANCE


class Fixed(Detector):
    """A part of it has its sizes written into it."""

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"trunk": FixedTrunk()}


class FixedTrunk(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "mid": block(8, 6)}

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.mid(y.reshape(y.shape[0], 8, *y.shape[2:]))


@quiet
def test_a_part_whose_code_holds_sizes_is_refused() -> None:
    inputs = CASES["hosted"][1]
    graph = sg.analyze(sg.trace(randomized(Fixed()), inputs))
    plan = sg.compress(graph, {"trunk.stem.0": [0, 1] * 4}).plan
    model = randomized(Fixed())
    with pytest.raises(PlanError, match="depends on sizes that the plan changes"):
        plan.apply(model)
    assert model.trunk.stem[0].out_channels == 8
    run(model, inputs)


@quiet
def test_a_plan_is_applied_to_a_traced_model_that_keeps_its_forward() -> None:
    inputs = CASES["hosted"][1]
    traced = sg.trace(randomized(Detector()), inputs)
    slim = sg.compress(traced, {"trunk.0.0": [0, 1] * 4})
    small = slim.plan.apply(sg.trace(randomized(Detector()), inputs))
    assert all(p.max_abs == 0 for p in compare(run(slim, inputs), run(small, inputs)))


@quiet
def test_an_instance_without_that_part_is_refused() -> None:
    inputs = CASES["hosted"][1]
    traced = sg.trace(randomized(Detector()), inputs)
    plan = sg.compress(traced, {"trunk.0.0": [0, 1] * 4}).plan
    model = nn.Sequential()
    with pytest.raises(PlanError, match="has no parameter or buffer"):
        plan.apply(model)
