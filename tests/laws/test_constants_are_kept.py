"""The law for channels that are constants: `compress` and `masked` agree, or one refusal says why.

And what no mask was asked for leaves only if no output changes, whatever constants training left.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slimgraph as sg
from slimgraph.errors import PlanError, VaryingChannelError
from tests.assertions import assert_independent, assert_same_output, random_mask
from tests.laws.recipes import silenced
from tests.laws.strategies import case, legal_masks
from tests.models import EXAMPLES, build
from tests.nets import attention, lookups, real, recurrent, sampling
from tests.nets import found as found_nets

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
    *sampling.EXAMPLES, *found_nets.EXAMPLES,
}  # fmt: skip
NOT_FINITE = {"standardized weight"}  # once a filter is zero, before anything has left
NOT_SAVED = {"unknown op", "weight norm", "dense block that selects"}


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


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - NOT_FINITE))
def test_dead_and_constant_channels_leave_without_a_trace(name: str) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    model = silenced(build(found.example), 1)
    slim = sg.slim(model, found.inputs(found.example.batches[0])).model
    for inputs in found.all_inputs():
        assert_same_output(model, slim, inputs)


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
