"""Plans give the compressed model again: applied to the user's class, or composed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import slimgraph as sg
from slimgraph.errors import PlanError
from slimgraph.slicing import slice_tensor
from tests.assertions import assert_same_output
from tests.laws.strategies import case, legal_masks, traced_batches
from tests.models import EXAMPLES, build
from tests.nets import attention

# One example has an op that nobody knows: frozen with a warning, and exact.
pytestmark = pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
SHRINKING = [name for name, example in EXAMPLES.items() if example.groups]
# The code of these has sizes or positions of channels written into it, or computes with them.
LITERAL = {
    "cross stage", "uneven split", "slices", "padded shortcut", "taken apart", "functional",
    "view to (-1, 512)", "view to (-1, 8, 64)", "decoder", "expand", "scaled by width",
    "one channel by itself", "split off one channel", "narrow", "slices of blocks",
    "sum over channels", "constants", "written in place", "shuffle with literals",
    "functional norms", "torch.nn.utils.prune", "squeeze", "functional grouped", "shuffle",
    "shuffle module", "two dims read",
    "sizes added",
    "picked", "picked by computing", *attention.EXAMPLES,
    "mean over channels", "local response norm", "CBAM", "picked channels", "picked tokens",
    "zeros made in forward", "spatial transformer", "blur", "split attention",
    "pixel shuffle in one dimension", "RNN", "cells", "cell by hand",
    *(name for name, example in EXAMPLES.items() if example.selections),
    "weight standardisation", "grouped queries inside", "mixed tokens", "dot products",
    "number from the height",
    "convolution over channels", "pixels as channels", "blocks summed up",
}  # fmt: skip


def apply(plan: sg.Plan, name: str) -> nn.Module | None:
    """Apply a plan to a fresh instance; `None` if it is refused, which must change nothing."""
    fresh = build(EXAMPLES[name])
    parameters = dict(fresh.named_parameters())
    values = {key: value.clone() for key, value in fresh.state_dict().items()}
    try:
        assert plan.apply(fresh) is fresh
    except PlanError:
        assert all(fresh.get_parameter(key) is value for key, value in parameters.items())
        assert all(torch.equal(value, values[key]) for key, value in fresh.state_dict().items())
        return None
    return fresh


@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=4)
@given(data=st.data())
def test_an_applied_plan_gives_the_compressed_model_or_nothing(
    name: str, data: st.DataObject
) -> None:
    found = case(name, data.draw(traced_batches(name)))
    slim = sg.compress(found.traced, data.draw(legal_masks(found.graph)))
    applied = apply(slim.plan, name)
    assert applied is not None or name in LITERAL, "refused without a reason"
    for inputs in found.all_inputs() if applied is not None else ():
        assert_same_output(slim, applied, inputs)


@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=3)
@given(data=st.data())
def test_plans_compose(name: str, data: st.DataObject) -> None:
    found = case(name, data.draw(traced_batches(name)))
    once = sg.compress(found.traced, data.draw(legal_masks(found.graph)))
    mask = data.draw(legal_masks(sg.analyze(once)))
    twice = sg.compress(once, mask)
    retraced = sg.trace(once, found.inputs(found.example.batches[0]))
    for inputs in found.all_inputs():
        assert_same_output(sg.masked(once, mask), twice, inputs)
        assert_same_output(twice, sg.compress(retraced, mask), inputs)
    before, after = found.traced.state_dict(), twice.state_dict()
    for key, tensor in after.items():
        assert torch.equal(slice_tensor(before[key], twice.plan.kept.get(key, ())), tensor)
        assert tuple(tensor.shape) == twice.plan.new_shape(key)
    if name not in LITERAL:
        applied = apply(twice.plan, name)
        assert applied is not None
        assert_same_output(twice, applied, found.inputs(3))
