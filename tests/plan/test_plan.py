"""Plans: what they record, and that replaying one gives the compressed model's very tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import FileError, PlanError
from tests.groups.models import IMAGE, Gated, Residual

STEM = [True, False, True, True, False, True]


def residual_plan() -> sg.Plan:
    return sg.compress(sg.trace(Residual(), torch.randn(IMAGE)), {"stem": STEM}).plan


def grouped() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1))


def twin(make: Callable[[], nn.Module], model: nn.Module) -> nn.Module:
    """Make another instance with the same weights."""
    other = make()
    other.load_state_dict(model.state_dict())
    return other.eval()


def assert_equal_states(one: nn.Module, other: nn.Module) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_plan_names_exactly_the_kept_positions() -> None:
    kept = {
        name: [None if entry is None else entry.tolist() for entry in entries]
        for name, entries in residual_plan().kept.items()
    }
    rows = [0, 2, 3, 5]
    assert kept == {
        "stem.weight": [rows, None, None, None],
        "stem.bias": [rows],
        "a.weight": [None, rows, None, None],
        "b.weight": [rows, None, None, None],
        "b.bias": [rows],
        "head.weight": [None, rows, None, None],
    }


def test_a_plan_knows_the_shapes_before_and_after() -> None:
    plan = residual_plan()
    assert plan.sizes["a.weight"] == (4, 6, 3, 3)
    assert plan.new_shape("a.weight") == (4, 4, 3, 3)
    assert plan.new_shape("norm.weight") == plan.sizes["norm.weight"] == (4,)


def test_a_grouped_weight_has_one_row_of_positions_per_group() -> None:
    plan = sg.compress(
        sg.trace(grouped(), torch.randn(IMAGE)), {"0": [0, 1, 1, 1, 1, 1, 0, 1]}
    ).plan
    entry = plan.kept["1.weight"][1]
    assert entry is not None
    assert entry.tolist() == [[1, 2, 3], [0, 1, 3]]


def test_a_plan_counts_the_groups_that_are_left() -> None:
    half = [0] * 4 + [1] * 4
    plan = sg.compress(sg.trace(grouped(), torch.randn(IMAGE)), {"0": half, "1": half}).plan
    assert plan.options == {"1": {"groups": 1}}


@pytest.mark.parametrize("make", [Residual, Gated, grouped])
def test_a_plan_applied_to_a_fresh_instance_gives_the_compressed_model(
    make: Callable[[], nn.Module],
) -> None:
    model, x = make().eval(), torch.randn(IMAGE)
    result = sg.slim(model, x, params=0.6)
    fresh = twin(make, model)
    assert result.plan.apply(fresh) is fresh
    assert_equal_states(fresh, result.model)
    torch.testing.assert_close(fresh(x), result.model(x), rtol=0, atol=1e-6)


def test_a_plan_for_other_shapes_changes_nothing() -> None:
    model = Residual()
    model.head = nn.Conv2d(5, 2, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PlanError, match=r"`head.weight` has shape"):
        residual_plan().apply(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (model.stem.out_channels, model.a.in_channels) == (6, 6)


def test_a_plan_for_another_model_names_what_is_missing() -> None:
    with pytest.raises(PlanError, match=r"no parameter or buffer `stem.weight`"):
        residual_plan().apply(grouped())


class HardCoded(nn.Module):
    """Writes the number of features into its code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(-1, 128))


def test_a_class_with_a_size_in_its_code_is_refused_and_left_alone() -> None:
    slim = sg.compress(sg.trace(HardCoded(), torch.randn(IMAGE)), {"conv": [0] + [1] * 7})
    model = HardCoded()
    with pytest.raises(PlanError, match="`HardCoded` depends on sizes that the plan changes"):
        slim.plan.apply(model)
    assert model.conv.weight.shape == (8, 3, 1, 1)
    assert slim(torch.randn(IMAGE)).shape == (2, 2)


@pytest.mark.parametrize("make", [Residual, Gated, grouped])
def test_a_plan_survives_save_and_load(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    result = sg.slim(model, torch.randn(IMAGE), params=0.6)
    result.plan.save(tmp_path / "plan.safetensors")
    loaded = sg.Plan.load(tmp_path / "plan.safetensors")
    assert loaded.to_payload()[0] == result.plan.to_payload()[0]
    assert_equal_states(loaded.apply(twin(make, model)), result.model)


def test_a_mask_file_is_no_plan(tmp_path: Path) -> None:
    sg.Mask({"stem": STEM}).save(tmp_path / "mask.safetensors")
    with pytest.raises(FileError):
        sg.Plan.load(tmp_path / "mask.safetensors")


@pytest.mark.parametrize("make", [Residual, Gated, grouped])
def test_compressing_twice_leaves_one_plan_for_the_first_model(
    make: Callable[[], nn.Module],
) -> None:
    model, x = make().eval(), torch.randn(IMAGE)
    first = sg.slim(model, x, channels=0.8)
    second = sg.slim(first.model, channels=0.7)
    assert second.plan.sizes == first.plan.sizes
    assert_equal_states(second.plan.apply(twin(make, model)), second.model)


def test_plans_of_different_models_do_not_compose() -> None:
    plan = residual_plan()
    with pytest.raises(PlanError, match=r"expects `stem.weight` of shape \(6, 3, 3, 3\)"):
        plan.then(plan)


def test_requires_grad_stays_as_it_was() -> None:
    fresh = Residual()
    fresh.stem.weight.requires_grad_(requires_grad=False)
    residual_plan().apply(fresh)
    assert not fresh.stem.weight.requires_grad
    assert fresh.a.weight.requires_grad


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.one = nn.Conv2d(6, 6, 1, bias=False)
        self.two = nn.Conv2d(6, 6, 1, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))))


def test_tied_weights_stay_tied_in_the_compressed_and_in_the_replayed_model() -> None:
    model, x = Tied(), torch.randn(IMAGE)
    result = sg.slim(model, x, channels=0.6)
    fresh = result.plan.apply(twin(Tied, model))
    assert isinstance(fresh, Tied)
    assert fresh.one.weight is fresh.two.weight
    assert result.model.get_parameter("one.weight") is result.model.get_parameter("two.weight")
    assert fresh.two.out_channels == fresh.two.weight.shape[0] < 6
