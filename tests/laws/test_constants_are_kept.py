"""The law for channels that are constants: `compress` and `masked` agree, or one refusal says why.

And what no mask was asked for leaves only if no output changes, whatever constants training left.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import slimgraph as sg
from slimgraph.errors import PlanError, VaryingChannelError
from tests.assertions import assert_independent, assert_same_output, random_mask
from tests.laws.strategies import case, legal_masks
from tests.models import EXAMPLES, build
from tests.nets import attention, lookups, real, recurrent, sampling
from tests.nets.grown import grow, grown

pytestmark = pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
SHRINKING = [name for name, example in EXAMPLES.items() if example.groups]
# In these, a channel of which only the shift is left still varies where it is read, or meets
# statistics that other channels take part in.
VARYING = {
    "concat along the height", "concat along the batch", "spatial attention", "pixel shuffle",
    "standardized weight", "scaled weight", "each channel on its own", "decoder", "unflatten",
    "one channel by itself", "split off one channel", "sum of products", "group norms",
    "functional norms", "layer norm", "softmax", "tied and transposed", "written in place",
    "mean over channels", "extremes over channels", "product over channels", "CBAM",
    "norms over channels", "local response norm", "constants", "narrow", "tied embedding",
    "sorted pixels", "residual in place", "weight norm", "overwritten", "functions that select",
    "picked", "outer product", "each channel twice on its own", "weight standardisation",
    "weight standardisation by hand",
    *recurrent.EXAMPLES, *attention.EXAMPLES, *lookups.EXAMPLES, *real.EXAMPLES,
    *sampling.EXAMPLES,
}  # fmt: skip
NOT_FINITE = {"standardized weight"}  # once a filter is zero, before anything has left
NOT_SAVED = {"unknown op", "weight norm", "dense block that selects"}


def silenced(model: nn.Module, seed: int, share: float = 0.35) -> nn.Module:
    """Set scales to zero, in place, as sparse training leaves them; shifts stay."""
    generator = torch.Generator().manual_seed(seed)
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear)
    with torch.no_grad():
        for module in model.modules():
            weight = module._parameters.get("weight") if isinstance(module, kinds) else None
            if weight is not None:
                weight[torch.rand(len(weight), generator=generator) < share] = 0
    return model


@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=3)
@given(data=st.data())
def test_compress_keeps_constants_as_masked_does(name: str, data: st.DataObject) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    mask = data.draw(legal_masks(found.graph))
    masked = sg.masked(found.traced, mask, constants="keep")
    try:
        slim = sg.compress(found.traced, mask, constants="keep")
    except VaryingChannelError:
        if name in VARYING:
            return
        raise
    assert_independent(slim, found.model)
    for inputs in found.all_inputs():
        assert_same_output(masked, slim, inputs)


@pytest.mark.parametrize("seed", range(30))
def test_constants_of_random_nets_are_kept(seed: int) -> None:
    sizes = (8,) if grow(seed).other is None else (8, 10)
    torch.manual_seed(seed)
    traced = sg.trace(grown(seed), torch.randn(2, 3, 8, 8, dtype=torch.double))
    mask = random_mask(sg.analyze(traced), seed, 0.25)
    masked = sg.masked(traced, mask, constants="keep")
    try:
        slim = sg.compress(traced, mask, constants="keep")
    except VaryingChannelError:
        return
    for size in sizes:
        assert_same_output(masked, slim, torch.randn(3, 3, size, size, dtype=torch.double))


def test_most_random_nets_can_keep_their_constants() -> None:
    refused = 0
    for seed in range(20):
        traced = sg.trace(grown(seed).float(), torch.randn(1, 3, 8, 8))
        try:
            sg.compress(traced, random_mask(sg.analyze(traced), seed, 0.25), constants="keep")
        except VaryingChannelError:
            refused += 1
    assert refused <= 4


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - NOT_FINITE))
def test_dead_and_constant_channels_leave_without_a_trace(name: str) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    model = silenced(build(found.example), 1)
    slim = sg.slim(model, found.inputs(found.example.batches[0])).model
    for inputs in found.all_inputs():
        assert_same_output(model, slim, inputs)


@pytest.mark.parametrize("seed", range(20))
def test_dead_and_constant_channels_of_random_nets_leave_without_a_trace(seed: int) -> None:
    torch.manual_seed(seed)
    model = silenced(grown(seed), seed)
    result = sg.slim(model, torch.randn(2, 3, 8, 8, dtype=torch.double))
    zeros = sg.slim(model, torch.randn(2, 3, 8, 8, dtype=torch.double), constants="zero")
    assert all(bool((zeros.mask[n] | ~result.mask[n]).any()) for n in zeros.mask)
    for batch, size in [(1, 8), (3, 8 if grow(seed).other is None else 10)]:
        inputs = torch.randn(batch, 3, size, size, dtype=torch.double)
        assert_same_output(model, result.model, inputs)
        assert_same_output(model, zeros.model, inputs)


@pytest.mark.parametrize("name", sorted(set(SHRINKING) - VARYING - NOT_SAVED))
def test_plans_that_keep_constants_compose_apply_and_save(name: str, tmp_path: Path) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    once = sg.compress(found.traced, random_mask(found.graph, 0, 0.3), constants="keep")
    mask = random_mask(sg.analyze(once), 1, 0.3)
    twice = sg.compress(once, mask, constants="keep")
    reference = sg.masked(once, mask, constants="keep")
    sg.save(twice, tmp_path / "model.slim")
    loaded = sg.load(tmp_path / "model.slim")
    retraced = sg.trace(once, found.inputs(found.example.batches[0]))
    for inputs in found.all_inputs():
        assert_same_output(reference, twice, inputs)
        assert_same_output(twice, loaded, inputs)
        assert_same_output(twice, sg.compress(retraced, mask, constants="keep"), inputs)
    twice.plan.save(tmp_path / "plan.safetensors")
    fresh = build(found.example)
    try:
        sg.Plan.load(tmp_path / "plan.safetensors").apply(fresh)
    except PlanError:
        return
    assert not twice.plan.carriers
    assert_same_output(twice, fresh, found.inputs(3))
