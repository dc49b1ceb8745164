"""An optimizer follows the parameters into the smaller model, and training goes on where it was."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import Optimizer

import slimgraph as sg
from slimgraph.errors import PlanError
from slimgraph.plan import stored_tensors
from slimgraph.slicing import slice_tensor
from tests.assertions import assert_same_output
from tests.groups.models import IMAGE, Flattened, Gated, Residual
from tests.models import EXAMPLES, build

Make = Callable[[Iterable[Any]], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "asgd": lambda p: torch.optim.ASGD(p, 0.01),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
}


def batch() -> Tensor:
    return torch.randn(IMAGE, dtype=torch.float64)


def train(model: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> None:
    """Take steps on batches that the seed decides."""
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(batch()) - 1).square().mean().backward()
        optimizer.step()


def trained(make: type[nn.Module], optimizer: Make) -> tuple[nn.Module, Optimizer]:
    model = make().double().train()
    made = optimizer(model.parameters())
    train(model, made, 3, seed=1)
    return model, made


def some_mask(graph: sg.DependencyGraph) -> sg.Mask:
    """Remove the first channel of every group that can spare one."""
    groups = [group for group in graph.groups if group.prunable]
    return sg.Mask({group.name: torch.arange(group.size) > 0 for group in groups})


def assert_followed(
    before: tuple[nn.Module, Optimizer], after: tuple[nn.Module, Optimizer], plan: sg.Plan
) -> None:
    """Check that parameters and state are those before, sliced."""
    old, new = (dict(pair[0].named_parameters()) for pair in (before, after))
    assert old.keys() == new.keys()
    assert {id(p) for g in after[1].param_groups for p in g["params"]} == set(map(id, new.values()))
    assert set(after[1].state) == set(new.values())
    for name, parameter in old.items():
        kept = plan.kept.get(name, ())
        torch.testing.assert_close(new[name], slice_tensor(parameter, kept), rtol=1e-9, atol=1e-12)
        state, got = before[1].state[parameter], after[1].state[new[name]]
        assert state.keys() == got.keys()
        for key, value in state.items():
            whole = isinstance(value, Tensor) and value.shape == parameter.shape
            expected = slice_tensor(value, kept) if whole else value
            torch.testing.assert_close(got[key], expected, rtol=1e-9, atol=1e-12)


# Of a bias in front of a BatchNorm the gradient is nothing but rounding, which Adam blows up, so
# `Concat` is no model for this.
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", [Residual, Gated, Flattened])
def test_training_goes_on_as_that_of_the_masked_model(make: type[nn.Module], name: str) -> None:
    """The masked model, trained on with the optimizer of before, takes the very same steps."""
    model, optimizer = trained(make, OPTIMIZERS[name])
    small, follows = copy.deepcopy((model, optimizer))
    graph = sg.analyze(sg.trace(model, batch()))
    mask = some_mask(graph)
    plan = sg.compress(graph, mask).plan
    plan.apply(small, optimizer=follows)
    train(sg.masked(graph, mask), optimizer, 3, seed=2)
    train(small, follows, 3, seed=2)
    assert_followed((model, optimizer), (small, follows), plan)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_moves_to_the_compressed_model(name: str) -> None:
    model, optimizer = trained(Gated, OPTIMIZERS[name])
    twin, other = copy.deepcopy((model, optimizer))
    mask = some_mask(sg.analyze(sg.trace(model, batch())))
    slim = sg.compress(sg.trace(model, batch()), mask, optimizer=optimizer)
    slim.plan.apply(twin, optimizer=other)
    train(slim, optimizer, 2, seed=2)
    train(twin, other, 2, seed=2)
    assert_followed((twin, other), (slim, optimizer), sg.Plan({}, {}))


def test_an_optimizer_moves_again_when_the_model_is_compressed_again() -> None:
    model, optimizer = trained(Gated, OPTIMIZERS["adam"])
    first = sg.slim(model, batch(), channels=0.8, optimizer=optimizer).model
    train(first, optimizer, 2, seed=2)
    before = copy.deepcopy((first, optimizer))
    traced = sg.trace(first, batch())
    mask = some_mask(sg.analyze(traced))
    second = sg.compress(traced, mask, optimizer=optimizer)
    del vars(traced)["plan"]  # of the first step
    assert_followed(before, (second, optimizer), sg.compress(traced, mask).plan)


def test_every_group_keeps_its_settings_and_its_order() -> None:
    model = Residual().double()
    groups = [
        {"params": [model.stem.weight, model.head.weight], "lr": 0.1, "name": "weights"},
        {"params": [model.norm.bias, model.stem.bias], "weight_decay": 0.5},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    plan = sg.compress(sg.trace(model, batch()), {"stem": [0, 1, 1, 1, 1, 1]}).plan
    plan.apply(model, optimizer=optimizer)
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(model.stem.weight), id(model.head.weight)]
    assert [id(p) for p in second["params"]] == [id(model.norm.bias), id(model.stem.bias)]
    assert (first["lr"], first["name"], second["weight_decay"]) == (0.1, "weights", 0.5)
    train(model, optimizer, 1, seed=1)
    schedule.step()
    assert first["lr"] == pytest.approx(0.01)


def test_gradients_that_wait_for_a_step_are_sliced_too() -> None:
    model = Residual().double()
    (model(batch()) - 1).square().mean().backward()
    wanted = model.stem.weight.grad[1:].clone()
    plan = sg.compress(sg.trace(model, batch()), {"stem": [0, 1, 1, 1, 1, 1]}).plan
    plan.apply(model)
    assert torch.equal(model.stem.weight.grad, wanted)


def test_parameters_of_other_models_stay_in_the_optimizer() -> None:
    model, loss = Residual().double(), nn.Linear(2, 2)
    both = [*model.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(both, lr=0.1, momentum=0.9)
    plan = sg.compress(sg.trace(model, batch()), {"stem": [0, 1, 1, 1, 1, 1]}).plan
    plan.apply(model, optimizer=optimizer)
    held = [id(p) for p in optimizer.param_groups[0]["params"]]
    assert held == [id(p) for p in (*model.parameters(), *loss.parameters())]


def test_a_memory_format_is_that_of_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    model(x).sum().backward()
    optimizer.step()
    plan = sg.compress(sg.trace(model, x), {"0": [0] + [1] * 7}).plan
    plan.apply(model, optimizer=optimizer)
    for tensor in (model[1].weight, *optimizer.state[model[1].weight].values()):
        assert tensor.ndim == 0 or tensor.stride() == model[1].weight.stride()
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[1].weight.is_contiguous()


def test_the_optimizer_of_a_pruned_model_moves_along() -> None:
    """`torch.nn.utils.prune` lets an optimizer train `weight_orig`."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    prune.ln_structured(model[0], "weight", 2, n=2, dim=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(5, 4, dtype=torch.float64)).sum().backward()
    optimizer.step()
    momentum = optimizer.state[model[0].weight_orig]["momentum_buffer"]
    traced = sg.trace(model, torch.randn(5, 4, dtype=torch.float64))
    slim = sg.compress(traced, {"0": [0, 1, 1, 1, 1, 1]}, optimizer=optimizer)
    weight = slim.get_parameter("0.weight")
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], momentum[1:])
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == set(map(id, slim.parameters()))


def snapshot(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    """List what must not change: which tensors there are, and what is in them."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        [id(tensor) for tensor in (*stored_tensors(model).values(), *held, *optimizer.state)],
        [tuple(tensor.shape) for tensor in stored_tensors(model).values()],
    ]


@pytest.mark.parametrize("way", ["apply", "compress"])
def test_the_optimizer_of_another_model_changes_nothing(way: str) -> None:
    model, (_, optimizer) = Residual().double(), trained(Residual, OPTIMIZERS["sgd"])
    traced = sg.trace(model, batch())
    mask = {"stem": [0, 1, 1, 1, 1, 1]}
    plan = sg.compress(traced, mask).plan
    before = snapshot(model, optimizer)
    shrink = {
        "apply": lambda: plan.apply(model, optimizer=optimizer),
        "compress": lambda: sg.compress(traced, mask, optimizer=optimizer),
    }[way]
    with pytest.raises(PlanError, match="the optimizer holds no parameter of this model"):
        shrink()
    assert snapshot(model, optimizer) == before


def test_state_that_nobody_can_slice_changes_nothing() -> None:
    model = Residual().double()
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = (model(batch()) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    plan = sg.compress(sg.trace(model, batch()), {"a": [0, 1, 1, 1]}).plan
    before = snapshot(model, optimizer)
    with pytest.raises(PlanError, match=r"keeps a state of shape \(\d+,\) for `stem.weight`"):
        plan.apply(model, optimizer=optimizer)
    assert snapshot(model, optimizer) == before


def test_a_plan_that_does_not_fit_leaves_the_optimizer_alone() -> None:
    model, optimizer = trained(Residual, OPTIMIZERS["sgd"])
    plan = sg.compress(sg.trace(Gated().double(), batch()), {"squeeze": [0, 1, 1]}).plan
    before = snapshot(model, optimizer)
    with pytest.raises(PlanError):
        plan.apply(model, optimizer=optimizer)
    assert snapshot(model, optimizer) == before


def test_row_and_column_statistics_are_sliced_along_what_they_have() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    optimizer = torch.optim.Adafactor(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    slim = sg.compress(
        sg.trace(model, torch.randn(5, 4)), {"0": [0, 1, 1, 1, 1, 1]}, optimizer=optimizer
    )
    state = optimizer.state[slim.get_parameter("0.weight")]
    assert (tuple(state["row_var"].shape), tuple(state["col_var"].shape)) == ((5, 1), (1, 4))
    slim(torch.randn(5, 4)).sum().backward()
    optimizer.step()


def test_state_follows_channels_into_their_new_order() -> None:
    """With selections channels are reordered; each parameter's state goes where its numbers go."""
    model = build(EXAMPLES["pre-activation"])
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).sum().backward()
    optimizer.step()
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = parameter.detach().clone()
    alone = sg.slim(model, x, channels=0.6, selections=True)
    result = sg.slim(model, x, channels=0.6, selections=True, optimizer=optimizer)
    assert str(result.model.graph) == str(alone.model.graph)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert set(map(id, held)) == set(map(id, result.model.parameters()))
    for parameter in held:
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], parameter)
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name])
    assert_same_output(sg.masked(result.graph, result.mask), result.model, x)
    for name, positions in result.plan.kept.items():
        assert slice_tensor(model.state_dict()[name], positions).equal(
            result.model.state_dict()[name]
        )
